"""Reading a GGUF file (llama.cpp's format): its metadata, and its tensors in float32.

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
from torch import Tensor

from ..errors import FormatError

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
