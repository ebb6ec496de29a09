"""PEFT adapters of every kind, made for a tiny Llama, with random weights so that they change its outputs."""

import json
from pathlib import Path
from typing import Any

import peft
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

LINEAR = ["q_proj", "down_proj"]
SQUARE = ["q_proj", "o_proj"]

_LORA: dict[str, Any] = {"r": 2, "lora_alpha": 4, "target_modules": LINEAR}

ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", _LORA),
    "rslora": ("LoraConfig", _LORA | {"use_rslora": True}),
    "dora": ("LoraConfig", _LORA | {"use_dora": True}),
    "pissa": ("LoraConfig", _LORA | {"init_lora_weights": "pissa"}),
    "pissa_niter": ("LoraConfig", _LORA | {"init_lora_weights": "pissa_niter_4"}),
    "olora": ("LoraConfig", _LORA | {"init_lora_weights": "olora"}),
    "orthogonal": ("LoraConfig", _LORA | {"init_lora_weights": "orthogonal"}),
    "gaussian": ("LoraConfig", _LORA | {"init_lora_weights": "gaussian"}),
    "eva": ("LoraConfig", _LORA | {"init_lora_weights": "eva"}),
    "corda": ("LoraConfig", _LORA | {"init_lora_weights": "corda"}),
    "loftq": ("LoraConfig", _LORA | {"init_lora_weights": "loftq"}),
    "mica": ("LoraConfig", _LORA | {"init_lora_weights": "mica"}),
    "mixed_ranks": ("LoraConfig", _LORA | {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 16}}),
    "lora_bias": ("LoraConfig", _LORA | {"lora_bias": True}),
    "bias": ("LoraConfig", _LORA | {"bias": "lora_only"}),
    "all_linear": ("LoraConfig", _LORA | {"target_modules": "all-linear"}),
    "embedding": ("LoraConfig", _LORA | {"target_modules": ["embed_tokens", "q_proj"]}),
    "head": ("LoraConfig", _LORA | {"target_modules": ["lm_head", "q_proj"]}),
    "modules_to_save": ("LoraConfig", _LORA | {"modules_to_save": ["norm"]}),
    "saved_head": ("LoraConfig", _LORA | {"modules_to_save": ["lm_head"]}),
    "saved_embedding": ("LoraConfig", _LORA | {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "trainable_tokens_lora": ("LoraConfig", _LORA | {"trainable_token_indices": [3, 5]}),
    "activated": ("LoraConfig", _LORA | {"alora_invocation_tokens": [7, 8]}),
    "layer_replication": ("LoraConfig", _LORA | {"layer_replication": [(0, 2), (1, 3)]}),
    "adalora": (
        "AdaLoraConfig",
        {"init_r": 2, "target_r": 2, "total_step": 10, "tinit": 1, "tfinal": 1, "target_modules": LINEAR},
    ),
    "ia3": ("IA3Config", {"target_modules": LINEAR, "feedforward_modules": ["down_proj"]}),
    "vera": ("VeraConfig", {"r": 2, "target_modules": SQUARE}),
    "loha": ("LoHaConfig", {"r": 2, "alpha": 4, "target_modules": LINEAR}),
    "lokr": ("LoKrConfig", {"r": 2, "alpha": 4, "target_modules": LINEAR}),
    "oft": ("OFTConfig", {"oft_block_size": 4, "target_modules": LINEAR}),
    "boft": ("BOFTConfig", {"boft_block_size": 4, "target_modules": LINEAR}),
    "fourierft": ("FourierFTConfig", {"n_frequency": 20, "target_modules": LINEAR}),
    "vblora": (
        "VBLoRAConfig",
        {"num_vectors": 8, "vector_length": 4, "topk": 2, "r": 2, "target_modules": SQUARE},
    ),
    "ln_tuning": ("LNTuningConfig", {}),
    "trainable_tokens": ("TrainableTokensConfig", {"token_indices": [3, 5]}),
    "c3a": ("C3AConfig", {"block_size": 4, "target_modules": SQUARE}),
    "miss": ("MissConfig", {"r": 2, "target_modules": LINEAR}),
    "randlora": ("RandLoraConfig", {"r": 2, "target_modules": SQUARE}),
    "shira": ("ShiraConfig", {"r": 2, "target_modules": LINEAR}),
    "hra": ("HRAConfig", {"r": 2, "target_modules": LINEAR}),
    "road": ("RoadConfig", {"group_size": 4, "target_modules": SQUARE}),
    "poly": ("PolyConfig", {"r": 2, "n_tasks": 2, "n_skills": 2, "target_modules": LINEAR}),
    "adaption_prompt": ("AdaptionPromptConfig", {"adapter_len": 2, "adapter_layers": 1}),
    "prompt_tuning": ("PromptTuningConfig", {"num_virtual_tokens": 2}),
    "prefix_tuning": ("PrefixTuningConfig", {"num_virtual_tokens": 2}),
    "p_tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 2}),
    "multitask": ("MultitaskPromptTuningConfig", {"num_virtual_tokens": 2, "num_tasks": 2}),
    "cartridge": ("CartridgeConfig", {"num_virtual_tokens": 2}),
    "cpt": ("CPTConfig", {"cpt_token_ids": [3, 4], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]}),
    "beft": ("BeftConfig", {"target_modules": SQUARE}),
    "deft": ("DeftConfig", {"target_modules": SQUARE}),
    "delora": ("DeloraConfig", {"target_modules": SQUARE}),
    "frod": ("FrodConfig", {"target_modules": SQUARE}),
    "glora": ("GloraConfig", {"target_modules": SQUARE}),
    "gralora": ("GraloraConfig", {"target_modules": SQUARE}),
    "hira": ("HiraConfig", {"target_modules": SQUARE}),
    "lily": ("LilyConfig", {"target_modules": SQUARE}),
    "osf": ("OSFConfig", {"target_modules": SQUARE}),
    "peanut": ("PeanutConfig", {"target_modules": SQUARE}),
    "psoft": ("PsoftConfig", {"r": 4, "target_modules": SQUARE}),
    "pvera": ("PveraConfig", {"target_modules": SQUARE}),
    "shadow": ("ShadowConfig", {"target_modules": SQUARE}),
    "supertuning": ("SupertuningConfig", {"target_modules": SQUARE}),
    "tinylora": ("TinyLoraConfig", {"target_modules": SQUARE}),
    "unilora": ("UniLoraConfig", {"target_modules": SQUARE}),
    "waveft": ("WaveFTConfig", {"n_frequency": 20, "target_modules": SQUARE}),
}


# Initializations that need data or a package when an adapter is made, and that its stored settings name.
_NAMED_LATER: dict[str, dict[str, Any]] = {
    "eva": {"init_lora_weights": "eva", "eva_config": {}},
    "corda": {"init_lora_weights": "corda", "corda_config": {}},
    "loftq": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}},
}


def save(name: str, base: Path, folder: Path, seed: int = 1, **more: Any) -> Path:
    """Save an adapter on the model in `base`.

    Args:
        more: Further settings of the adapter.
    """
    torch.manual_seed(seed)
    kind, settings = ADAPTERS[name]
    settings = settings | more
    later = settings.get("init_lora_weights") in _NAMED_LATER
    if later:
        settings = settings | {"init_lora_weights": True}
    config = getattr(peft, kind)(task_type="CAUSAL_LM", **settings)
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(str(folder))
    if later:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | _NAMED_LATER[name]))
    return folder
