"""Write small GGUF files with known content, to test the reader."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

ALIGNMENT = 32


def write_gguf(
    path: Path, metadata: Mapping[str, object], tensors: Mapping[str, tuple[int, tuple[int, ...], bytes]]
) -> None:
    """Write a GGUF file; tensors are given as type number, shape (slowest axis first) and bytes."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        kind, content = _value(value)
        head += _string(key) + struct.pack("<I", kind) + content
    data = b""
    for name, (kind, shape, content) in tensors.items():
        head += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data))
        data += content + b"\0" * (-len(content) % ALIGNMENT)
    path.write_bytes(head + b"\0" * (-len(head) % ALIGNMENT) + data)


def as_f32(tensor: Tensor) -> tuple[int, tuple[int, ...], bytes]:
    return 0, tuple(tensor.shape), tensor.detach().numpy().astype("<f4").tobytes()


def llama_cpp_order(weight: Tensor, n_heads: int) -> Tensor:
    """Reorder query or key rows like llama.cpp's converter: rows paired by the rotary embedding become adjacent."""
    return (
        weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)
    )


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: object) -> tuple[int, bytes]:
    match value:
        case bool():
            return 7, struct.pack("<?", value)
        case int():
            return 4, struct.pack("<I", value)
        case float():
            return 6, struct.pack("<f", value)
        case str():
            return 8, _string(value)
        case list() if all(isinstance(item, int) for item in value):
            return 9, struct.pack("<IQ", 5, len(value)) + np.array(value, "<i4").tobytes()
        case list():
            return 9, struct.pack("<IQ", 8, len(value)) + b"".join(_string(item) for item in value)
        case _:
            raise TypeError(value)
