"""Convert a Llama in a GGUF file to a transformers folder.

transformers reads these files too, but its release 5 cannot save such a model, takes several times as long, and ignores
the digit splitting that the file requests for its tokenizer, so whitespace before digits gets other token ids.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from ..errors import FormatError
from .gguf import GgufFile, read_gguf
from .model_folder import LlamaShape, SpecialTokens, write_model_folder

_CONTROL_TOKEN = 3

_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def llama_shape(file: GgufFile) -> LlamaShape:
    """Read the model's settings from the metadata.

    Raises:
        FormatError: The architecture is not Llama, or a setting is missing.
    """
    architecture = file.setting("general.architecture")
    if architecture != "llama":
        raise FormatError(f"{file.path}: architecture {architecture!r}; only 'llama' is supported")
    n_heads = file.setting("llama.attention.head_count")
    d_model = file.setting("llama.embedding_length")
    scaling = file.metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise FormatError(
            f"{file.path}: rope scaling {scaling!r}; only plain rotary embeddings are supported"
        )
    return LlamaShape(
        vocab_size=file.tensor("token_embd.weight").shape[0],
        hidden_size=d_model,
        intermediate_size=file.setting("llama.feed_forward_length"),
        num_hidden_layers=file.setting("llama.block_count"),
        num_attention_heads=n_heads,
        num_key_value_heads=file.metadata.get("llama.attention.head_count_kv", n_heads),
        head_dim=file.metadata.get("llama.attention.key_length", d_model // n_heads),
        max_position_embeddings=file.setting("llama.context_length"),
        rms_norm_eps=file.setting("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=file.metadata.get("llama.rope.freq_base", 10000.0),
        tie_word_embeddings="output.weight" not in file.tensors,
        bos_token_id=file.metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=file.metadata.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=file.metadata.get("tokenizer.ggml.padding_token_id"),
    )


def llama_weights(file: GgufFile, shape: LlamaShape) -> dict[str, Tensor]:
    """Return the tensors under transformers' names.

    Raises:
        FormatError: A tensor is missing, has a shape that contradicts the metadata, or does not belong to a Llama.
    """
    weights = {}
    for name, tensor in file.tensors.items():
        if name == "rope_freqs.weight":
            continue
        stem = name.removesuffix(".weight")
        layer, _, part = stem.removeprefix("blk.").partition(".")
        if stem.startswith("blk.") and part in _LAYER_NAMES:
            weights[f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"] = tensor
        elif stem in _TOP_NAMES:
            weights[f"{_TOP_NAMES[stem]}.weight"] = tensor
        else:
            raise FormatError(
                f"{file.path}: tensor {name!r} does not belong to a Llama; this file cannot be converted"
            )
    for name, expected in weight_shapes(shape).items():
        found = tuple(weights[name].shape) if name in weights else None
        if found != expected:
            what = "is missing" if found is None else f"has shape {found}"
            raise FormatError(
                f"{file.path}: {name} {what}, but the metadata require {expected}; the file is damaged"
            )
    for layer in range(shape.num_hidden_layers):
        for part, n_heads in (("q", shape.num_attention_heads), ("k", shape.num_key_value_heads)):
            name = f"model.layers.{layer}.self_attn.{part}_proj.weight"
            weights[name] = unpermute(weights[name], n_heads)
    return weights


def weight_shapes(shape: LlamaShape) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the weights of a Llama."""
    width, inner = shape.hidden_size, shape.intermediate_size
    queries = shape.num_attention_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    layer_shapes = {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "input_layernorm": (width,),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
        "post_attention_layernorm": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{layer}.{place}.weight": expected
        for layer in range(shape.num_hidden_layers)
        for place, expected in layer_shapes.items()
    }
    shapes |= {"model.embed_tokens.weight": (shape.vocab_size, width), "model.norm.weight": (width,)}
    if not shape.tie_word_embeddings:
        shapes["lm_head.weight"] = (shape.vocab_size, width)
    return shapes


def unpermute(weight: Float[Tensor, "row column"], n_heads: int) -> Float[Tensor, "row column"]:
    """Undo llama.cpp's row order of a query or key matrix.

    The two rows that the rotary embedding rotates together are adjacent in llama.cpp, and half a head apart in
    transformers.
    """
    half = weight.shape[0] // n_heads // 2
    return weight.reshape(n_heads, half, 2, -1).transpose(1, 2).reshape(weight.shape)


def byte_pair_tokenizer(file: GgufFile) -> Tokenizer:
    """Build the file's byte-level BPE tokenizer; the pre-tokenizer 'smollm' makes every digit a separate token.

    Raises:
        FormatError: The file has another kind of tokenizer or pre-tokenizer.
    """
    kind, rule = file.setting("tokenizer.ggml.model"), file.metadata.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or rule not in ("smollm", "gpt-2", "default"):
        raise FormatError(
            f"{file.path}: tokenizer {kind!r} with pre-tokenizer {rule!r}; supported is 'gpt2' with 'smollm' or 'gpt-2'"
        )
    tokens = file.setting("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in file.setting("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # The library raises no narrower class.
        raise FormatError(
            f"{file.path}: the tokenizer's merges do not fit its tokens ({error}); the file is damaged"
        ) from error
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if rule == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    else:
        tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    kinds = file.setting("tokenizer.ggml.token_type")
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def special_tokens(file: GgufFile) -> SpecialTokens:
    """Return the special tokens and the chat template of the file.

    Raises:
        FormatError: A special token is outside the vocabulary.
    """
    tokens = file.setting("tokenizer.ggml.tokens")

    def token(role: str) -> str | None:
        index = file.metadata.get(f"tokenizer.ggml.{role}_token_id")
        if index is None:
            return None
        if not 0 <= index < len(tokens):
            raise FormatError(
                f"{file.path}: {role} token {index} is outside the vocabulary of {len(tokens)}; the file is damaged"
            )
        return tokens[index]

    return SpecialTokens(
        bos_token=token("bos"),
        eos_token=token("eos"),
        pad_token=token("padding"),
        unk_token=token("unknown"),
        model_max_length=file.setting("llama.context_length"),
        chat_template=file.metadata.get("tokenizer.chat_template"),
    )


def convert(path: Path, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Convert the Llama in a GGUF file to a transformers folder, atomically.

    Raises:
        FormatError: The file cannot be read or converted, or the folder exists and is not a complete model.
    """
    file = read_gguf(path)
    shape = llama_shape(file)
    weights = llama_weights(file, shape)
    write_model_folder(folder, shape, weights, dtype, byte_pair_tokenizer(file), special_tokens(file))
