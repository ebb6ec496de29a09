"""Reader for GGUF files, on llama.cpp's package `gguf`: metadata, and tensors dequantized to float32."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

from ..errors import FormatError


@dataclass(frozen=True)
class GgufFile:
    """Content of a file: metadata, and tensors in float32 under llama.cpp's names."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def setting(self, key: str) -> Any:
        """Return one metadata entry.

        Raises:
            FormatError: The entry is missing.
        """
        if key not in self.metadata:
            raise FormatError(f"{self.path}: the metadata has no {key!r}; this file cannot be converted")
        return self.metadata[key]

    def tensor(self, name: str) -> Tensor:
        """Return one tensor.

        Raises:
            FormatError: The tensor is missing.
        """
        if name not in self.tensors:
            raise FormatError(f"{self.path}: tensor {name!r} is missing; this file cannot be converted")
        return self.tensors[name]


def read_gguf(path: Path) -> GgufFile:
    """Read a file and dequantize every tensor to float32.

    Raises:
        FormatError: The file is missing, truncated or not GGUF, or has an unsupported tensor type.
    """
    if not path.is_file():
        raise FormatError(f"{path}: not a file; give the path of a .gguf file")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise FormatError(f"{path}: does not start with 'GGUF'; give the path of a .gguf file")
    try:
        # Mode c maps the file copy-on-write: torch needs writable arrays, and the file stays unchanged.
        reader = GGUFReader(path, "c")
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise FormatError(f"{path}: truncated or damaged ({error}); download it again") from error
    tensors = {}
    for tensor in reader.tensors:
        try:
            tensors[tensor.name] = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type))
        except NotImplementedError as error:
            raise FormatError(
                f"{path}: tensor {tensor.name!r} is of type {tensor.tensor_type.name}, which cannot be dequantized"
            ) from error
    return GgufFile(path, {key: field.contents() for key, field in reader.fields.items()}, tensors)
