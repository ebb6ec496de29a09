"""Reading a GGUF file (llama.cpp's format) of a Llama and writing it as a transformers folder.

transformers reads these files too, but its release 5 refuses to save such a model, takes several times as long, and
leaves out the tokenizer's digit split that the file names, so that white space before digits gets other token ids.

Format: a header, key-value metadata, one record a tensor, then the tensors' blocks, each aligned. A quantized block
holds 32 weights: a scale (float16), for the `_1` kinds a minimum (float16), then the integers. In 4-bit blocks the low
halves of the bytes are weights 0 to 15, the high halves 16 to 31.
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from ..errors import FormatError
from .model_folder import LlamaShape, SpecialTokens, write_model_folder

Blocks = UInt8[np.ndarray, "block byte"]
Weights = Float[np.ndarray, "block weight"]


def _halves(packed: Blocks) -> UInt8[np.ndarray, "block weight"]:
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _float16(packed: Blocks) -> Weights:
    return np.ascontiguousarray(packed).view("<f2").astype(np.float32)


def _read_f32(blocks: Blocks) -> Weights:
    return blocks.view("<f4").astype(np.float32)


def _read_bf16(blocks: Blocks) -> Weights:
    # A bfloat16 is the upper half of a float32.
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _read_q4_0(blocks: Blocks) -> Weights:
    return (_halves(blocks[:, 2:]).astype(np.float32) - 8) * _float16(blocks[:, :2])


def _read_q4_1(blocks: Blocks) -> Weights:
    return _halves(blocks[:, 4:]).astype(np.float32) * _float16(blocks[:, :2]) + _float16(blocks[:, 2:4])


def _read_q8_0(blocks: Blocks) -> Weights:
    return np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32) * _float16(blocks[:, :2])


@dataclass(frozen=True)
class BlockType:
    """How one kind of tensor is stored."""

    name: str
    n_weights: int
    """Weights of one block."""
    n_bytes: int
    """Bytes of one block."""
    read: Callable[[Blocks], Weights]


BLOCK_TYPES = {
    0: BlockType("F32", 1, 4, _read_f32),
    1: BlockType("F16", 1, 2, _float16),
    2: BlockType("Q4_0", 32, 18, _read_q4_0),
    3: BlockType("Q4_1", 32, 20, _read_q4_1),
    8: BlockType("Q8_0", 32, 34, _read_q8_0),
    30: BlockType("BF16", 1, 2, _read_bf16),
}
"""The supported kinds by their number in the format."""

_UNSUPPORTED = {
    6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K",
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
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


@dataclass(frozen=True)
class GgufFile:
    """What a file holds: its metadata, and its tensors in float32 under llama.cpp's names."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def setting(self, key: str) -> Any:
        """One entry of the metadata.

        Raises:
            FormatError: The file does not have it.
        """
        if key not in self.metadata:
            raise FormatError(f"{self.path}: the metadata has no {key!r}; this file cannot be converted")
        return self.metadata[key]

    def tensor(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            FormatError: The file does not have it.
        """
        if name not in self.tensors:
            raise FormatError(f"{self.path}: tensor {name!r} is missing; this file cannot be converted")
        return self.tensors[name]


class _Reader:
    """Takes values off the front of a buffer and refuses to read past its end."""

    def __init__(self, path: Path, content: memoryview):
        self.path = path
        self.content = content
        self.position = 0

    def take(self, n_bytes: int) -> memoryview:
        if n_bytes > len(self.content) - self.position:
            raise FormatError(
                f"{self.path}: truncated: {n_bytes} bytes wanted at byte {self.position}, "
                f"but the file ends at {len(self.content)}; fetch it again"
            )
        self.position += n_bytes
        return self.content[self.position - n_bytes : self.position]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        return str(self.take(self.number("Q")), "utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, length = self.number("I"), self.number("Q")
            if inner in _SCALARS:
                size = struct.calcsize("<" + _SCALARS[inner])
                return list(struct.unpack(f"<{length}{_SCALARS[inner]}", self.take(size * length)))
            return [self.value(inner) for _ in range(length)]
        if kind not in _SCALARS:
            raise FormatError(
                f"{self.path}: value type {kind} at byte {self.position} does not exist; the file is damaged"
            )
        return self.number(_SCALARS[kind])


def read_gguf(path: Path) -> GgufFile:
    """Read a whole file, every tensor dequantized to float32.

    Raises:
        FormatError: The file is missing, truncated, not GGUF, or holds a kind of tensor that is not supported.
    """
    if not path.is_file():
        raise FormatError(f"{path}: is not a file; give the path of a .gguf file")
    reader = _Reader(path, np.memmap(path, np.uint8, "r").data if path.stat().st_size else memoryview(b""))
    if bytes(reader.content[:4]) != b"GGUF":
        raise FormatError(f"{path}: does not begin with 'GGUF'; give the path of a .gguf file")
    reader.take(4)
    version = reader.number("I")
    if version not in (2, 3):
        raise FormatError(f"{path}: GGUF version {version}; versions 2 and 3 (little-endian) are supported")
    n_tensors, n_entries = reader.number("Q"), reader.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(n_entries):
        key = reader.string()
        metadata[key] = reader.value(reader.number("I"))
    records = [_tensor_record(reader) for _ in range(n_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise FormatError(
            f"{path}: general.alignment is {alignment!r}, not a positive number; the file is damaged"
        )
    start = -(-reader.position // alignment) * alignment
    tensors = {}
    for name, shape, block_type, offset in records:
        reader.position = start + offset
        n_blocks = math.prod(shape) // block_type.n_weights
        raw = np.frombuffer(reader.take(n_blocks * block_type.n_bytes), np.uint8).reshape(
            n_blocks, block_type.n_bytes
        )
        tensors[name] = torch.from_numpy(block_type.read(raw)).reshape(shape)
    return GgufFile(path, metadata, tensors)


def _tensor_record(reader: _Reader) -> tuple[str, tuple[int, ...], BlockType, int]:
    """Name, shape (slowest axis first, the reverse of the file's order), block type, offset in the data."""
    name = reader.string()
    shape = tuple(reader.number("Q") for _ in range(reader.number("I")))[::-1]
    kind, offset = reader.number("I"), reader.number("Q")
    if kind not in BLOCK_TYPES:
        known = ", ".join(block_type.name for block_type in BLOCK_TYPES.values())
        found = _UNSUPPORTED.get(kind, f"number {kind}")
        raise FormatError(f"{reader.path}: tensor {name!r} is of type {found}; supported are {known}")
    if not shape or shape[-1] % BLOCK_TYPES[kind].n_weights:
        raise FormatError(
            f"{reader.path}: tensor {name!r} of shape {shape} cannot be cut into blocks of "
            f"{BLOCK_TYPES[kind].n_weights}; the file is damaged"
        )
    return name, shape, BLOCK_TYPES[kind], offset


def llama_shape(file: GgufFile) -> LlamaShape:
    """The model's settings.

    Raises:
        FormatError: The file holds another architecture, or a setting is missing.
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
    """The tensors under transformers' names.

    Raises:
        FormatError: A tensor has a name that a Llama does not have, or a layer is missing one.
    """
    weights = {}
    for name, tensor in file.tensors.items():
        if name == "rope_freqs.weight":
            continue
        stem = name.removesuffix(".weight")
        layer, _, part = stem.removeprefix("blk.").partition(".")
        if stem.startswith("blk.") and part in _LAYER_NAMES:
            heads = {"attn_q": shape.num_attention_heads, "attn_k": shape.num_key_value_heads}.get(part)
            moved = tensor if heads is None else unpermute(tensor, heads)
            weights[f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"] = moved
        elif stem in _TOP_NAMES:
            weights[f"{_TOP_NAMES[stem]}.weight"] = tensor
        else:
            raise FormatError(
                f"{file.path}: tensor {name!r} has no place in a Llama; this file cannot be converted"
            )
    for layer in range(shape.num_hidden_layers):
        for part, place in _LAYER_NAMES.items():
            if f"model.layers.{layer}.{place}.weight" not in weights:
                raise FormatError(
                    f"{file.path}: tensor 'blk.{layer}.{part}.weight' is missing; the file is damaged"
                )
    return weights


def unpermute(weight: Float[Tensor, "row column"], n_heads: int) -> Float[Tensor, "row column"]:
    """Undo llama.cpp's order of a query or key matrix.

    There the two rows that the rotary embedding turns together lie next to each other; in transformers they lie half
    a head apart.
    """
    half = weight.shape[0] // n_heads // 2
    return weight.reshape(n_heads, half, 2, -1).transpose(1, 2).reshape(weight.shape)


def byte_pair_tokenizer(file: GgufFile) -> Tokenizer:
    """The file's byte-level BPE, with every digit on its own where the file's splitting rule is 'smollm'.

    Raises:
        FormatError: The file holds another kind of tokenizer or splitting rule.
    """
    kind, rule = file.setting("tokenizer.ggml.model"), file.metadata.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or rule not in ("smollm", "gpt-2", "default"):
        raise FormatError(
            f"{file.path}: tokenizer {kind!r} with rule {rule!r}; supported is 'gpt2' with 'smollm' or 'gpt-2'"
        )
    tokens = file.setting("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in file.setting("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    )
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
    """The roles of special tokens and the chat template that the file names."""
    tokens = file.setting("tokenizer.ggml.tokens")

    def token(role: str) -> str | None:
        index = file.metadata.get(f"tokenizer.ggml.{role}_token_id")
        return None if index is None else tokens[index]

    return SpecialTokens(
        bos_token=token("bos"),
        eos_token=token("eos"),
        pad_token=token("padding"),
        unk_token=token("unknown"),
        model_max_length=file.setting("llama.context_length"),
        chat_template=file.metadata.get("tokenizer.chat_template"),
    )


def convert(path: Path, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the Llama in a GGUF file as a transformers folder, whole or not at all.

    Raises:
        FormatError: The file cannot be read or converted, or the folder holds something else.
    """
    file = read_gguf(path)
    shape = llama_shape(file)
    weights = llama_weights(file, shape)
    write_model_folder(folder, shape, weights, dtype, byte_pair_tokenizer(file), special_tokens(file))
