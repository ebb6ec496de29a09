"""Tiny random models of many architectures: three layers, a vocabulary of 64, built from the configuration classes of transformers."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.tiny_pairs import save_word_tokenizer

VOCABULARY = 64

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "initializer_range": 0.2,
}
_GROUPED: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_STATE: dict[str, Any] = {"state_size": 8, "conv_kernel": 4, "expand": 2}


def _wrapper(text: str, vision: str = "siglip_vision_model", **more: Any) -> dict[str, Any]:
    """Settings of a model with a vision tower around a language model."""
    return {
        "text_config": {"model_type": text, **_SIZES, **_GROUPED, **more},
        "vision_config": {"model_type": vision, **_VISION},
    }


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "mistral": _GROUPED | {"sliding_window": 4},
    "ministral": _GROUPED | {"sliding_window": 4},
    "mixtral": _GROUPED | _EXPERTS,
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gptj": _GPT2 | {"rotary_dim": 4},
    "codegen": _GPT2 | {"rotary_dim": 4},
    "openai-gpt": _GPT2,
    "gpt_neo": {
        "num_layers": 3,
        "num_heads": 4,
        "attention_types": [[["global", "local", "global"], 1]],
        "window_size": 4,
    },
    "gpt_neox": {},
    "gpt_neox_japanese": {},
    "gpt_oss": _GROUPED
    | _EXPERTS
    | {"layer_types": ["sliding_attention", "full_attention", "full_attention"], "sliding_window": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_head": 4, "n_layer": 3},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True},
    "qwen2": _GROUPED,
    "qwen2_moe": _GROUPED | _EXPERTS,
    "qwen3": _GROUPED,
    "qwen3_moe": _GROUPED | _EXPERTS,
    "qwen3_next": _GROUPED
    | _EXPERTS
    | {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "gemma": _GROUPED,
    "gemma2": _GROUPED | {"sliding_window": 4},
    "gemma3_text": _GROUPED | {"sliding_window": 4},
    "gemma3": _wrapper("gemma3_text", sliding_window=4) | {"mm_tokens_per_image": 4},
    "gemma3n_text": _GROUPED
    | {
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_kv_shared_layers": 0,
        "laurel_rank": 4,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "altup_num_inputs": 2,
        "activation_sparsity_pattern": [0.0, 0.0, 0.0],
        "sliding_window": 4,
    },
    "phi": {},
    "phi3": {},
    "phimoe": _GROUPED | _EXPERTS,
    "stablelm": _GROUPED,
    "starcoder2": _GROUPED,
    "cohere": _GROUPED,
    "cohere2": _GROUPED | {"sliding_window": 4},
    "olmo": _GROUPED,
    "olmo2": _GROUPED,
    "olmo3": _GROUPED
    | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "full_attention"]},
    "olmoe": _GROUPED | _EXPERTS,
    "granite": _GROUPED,
    "granitemoe": _GROUPED | _EXPERTS,
    "granitemoehybrid": _GROUPED
    | _EXPERTS
    | {
        "layer_types": ["mamba", "attention", "mamba"],
        "mamba_n_heads": 4,
        "mamba_d_state": 8,
        "mamba_d_head": 16,
        "mamba_expand": 2,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
        "shared_intermediate_size": 16,
    },
    "persimmon": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 64},
    "biogpt": {},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 3, "attention_heads": 4},
    "nemotron": _GROUPED,
    "glm": _GROUPED,
    "glm4": _GROUPED,
    "glm4_moe": _GROUPED
    | _EXPERTS
    | {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    },
    "dbrx": {
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 3,
        "max_seq_len": 64,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "ernie4_5": _GROUPED,
    "ernie4_5_moe": _GROUPED | _EXPERTS | {"moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 1},
    "exaone4": _GROUPED
    | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "full_attention"]},
    "smollm3": _GROUPED,
    "seed_oss": _GROUPED,
    "arcee": _GROUPED,
    "apertus": _GROUPED,
    "helium": _GROUPED,
    "diffllama": _GROUPED,
    "bitnet": _GROUPED,
    "hunyuan_v1_dense": _GROUPED,
    "jetmoe": {"num_key_value_heads": 2, "kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "minimax": _GROUPED
    | _EXPERTS
    | {"layer_types": ["linear_attention", "full_attention", "linear_attention"], "block_size": 8},
    "nanochat": _GROUPED,
    "vaultgemma": _GROUPED | {"sliding_window": 4},
    "doge": _GROUPED,
    "lfm2": _GROUPED
    | {"layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 48, "block_multiple_of": 8},
    "ctrl": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "dff": 48},
    "xlm": {
        "emb_dim": 32,
        "n_layers": 3,
        "n_heads": 4,
        "causal": True,
        "mask_index": 5,
        "unk_index": 3,
        "pad_index": 2,
    },
    "mamba": _STATE,
    "mamba2": _STATE | {"num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    "falcon_mamba": _STATE,
    "rwkv": {"attention_hidden_size": 32, "context_length": 64},
    "xlstm": {"num_heads": 2, "chunk_size": 8},
    "recurrent_gemma": {
        "num_key_value_heads": 1,
        "lru_width": 32,
        "attention_window_size": 8,
        "block_types": ["recurrent", "attention"],
    },
    "jamba": _GROUPED
    | _EXPERTS
    | {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "bamba": _GROUPED
    | {
        "attn_layer_indices": [1],
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
    },
    "zamba": {
        "num_key_value_heads": 4,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "n_mamba_heads": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "use_mamba_kernels": False,
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    },
    "zamba2": {
        "num_key_value_heads": 4,
        "mamba_d_state": 8,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "mamba_ngroups": 1,
        "chunk_size": 8,
        "layers_block_type": ["mamba", "hybrid", "mamba"],
        "num_mem_blocks": 1,
        "use_mamba_kernels": False,
    },
    "falcon_h1": _GROUPED
    | {
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
    },
    "nemotron_h": _GROUPED
    | {
        "layers_block_type": ["mamba", "attention", "mamba"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "llava": _wrapper("llama", vision="clip_vision_model"),
    "mistral3": _wrapper("mistral", vision="pixtral"),
    "qwen2_vl": {
        "text_config": {
            **_SIZES,
            **_GROUPED,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
        },
        "vision_config": {"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": 32},
    },
    "llama4_text": _GROUPED | _EXPERTS | {"intermediate_size_mlp": 48},
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
    },
    "bert": {"is_decoder": True},
}


def make(name: str, seed: int = 0) -> PreTrainedModel:
    """Return a random model of an architecture, in float32."""
    settings = _SIZES | ARCHITECTURES[name]
    if "text_config" in settings:
        settings = ARCHITECTURES[name]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **settings)
    from transformers import AutoModelForImageTextToText, AutoModelForSeq2SeqLM

    kinds: list[Any] = [AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM]
    kind = next(kind for kind in kinds if type(config) in kind._model_mapping)
    return kind.from_config(config, dtype=torch.float32).eval()


def save(name: str, folder: Path, seed: int = 0) -> Path:
    """Save a random model of an architecture with its tokenizer."""
    return save_model(make(name, seed), folder)


def save_model(model: PreTrainedModel, folder: Path) -> Path:
    """Save a model with a tokenizer of words."""
    model.save_pretrained(folder)
    save_word_tokenizer(folder)
    return folder
