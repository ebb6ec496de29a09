"""Activations in a user's own files: one array `[token, d_model]` for each model, read through memory maps."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from ..errors import ConfigError, DataError, FormatError
from .batch import ActivationBatch
from .shards import map_tensors

# Rows looked at together when a file is searched for values that are not finite.
_CHUNK_ROWS = 8192

# What torch calls the dtypes of .npy files that are read.
_FLOATS = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


class MappedArray:
    """One array in a .npy or .safetensors file. Rows come out as tensors; the rest stays on disk."""

    def __init__(self, setting: str, path: Path) -> None:
        """Open a file.

        Raises:
            ConfigError: It is missing or of another kind.
            FormatError: It is damaged, or holds several arrays.
        """
        self.path = path.expanduser()
        if not self.path.is_file():
            raise ConfigError(f"{setting}: {path} is not a file; give a .npy or .safetensors file")
        if self.path.suffix == ".npy":
            try:
                self._map = np.load(self.path, mmap_mode="r", allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise FormatError(
                    f"{setting}: {path} cannot be read as an array ({error}); write it again"
                ) from error
            self.dtype = _FLOATS.get(self._map.dtype.name)
        elif self.path.suffix == ".safetensors":
            maps = map_tensors(self.path)
            if len(maps) != 1:
                raise FormatError(
                    f"{setting}: {path} holds {len(maps)} arrays ({', '.join(sorted(maps))}); it must hold one"
                )
            self._map, dtype = next(iter(maps.values()))
            self.dtype = dtype if dtype.is_floating_point else None
        else:
            raise ConfigError(f"{setting}: {path} ends in {path.suffix!r}; give a .npy or .safetensors file")
        self.shape = self._map.shape
        self._setting = setting

    def rows(self, index: Int64[np.ndarray, " row"] | slice) -> Tensor:
        """The given rows, copied."""
        array = np.array(self._map[index], order="C")
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("="))
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if self.dtype == torch.bfloat16 else tensor

    def check_activations(self) -> None:
        """Two dimensions, floating point, and every value finite; reads the file once.

        Raises:
            DataError: It is not so.
        """
        if len(self.shape) != 2 or 0 in self.shape:
            raise DataError(
                f"{self._setting}: {self.path} has the shape {self.shape}; it must be [token, d_model]"
            )
        if self.dtype is None:
            raise DataError(
                f"{self._setting}: {self.path} holds {self._map.dtype}; activations must be floating point"
            )
        broken, first = 0, None
        for start in range(0, self.shape[0], _CHUNK_ROWS):
            bad = ~self.rows(slice(start, start + _CHUNK_ROWS)).isfinite().all(dim=1)
            if bad.any():
                broken += int(bad.sum())
                first = start + int(bad.int().argmax()) if first is None else first
        if first is not None:
            raise DataError(
                f"{self._setting}: {self.path} holds NaN or infinite values in {broken} of {self.shape[0]} rows, the first "
                f"is row {first}; remove these rows from both files"
            )

    def integers(self, length: int) -> Int64[np.ndarray, " token"]:
        """The whole array as integers.

        Raises:
            DataError: It is not a list of `length` integers.
        """
        if self._map.dtype.kind not in "iu" or self.dtype is not None or self.shape != (length,):
            raise DataError(
                f"{self._setting}: {self.path} holds {self._map.dtype} of shape {self.shape}; "
                f"it must be one integer for each of the {length} rows"
            )
        return np.array(self._map, dtype=np.int64)


class ArrayReader:
    """Some rows of the arrays of all models, as an `ActivationReader`; the rows of a document are contiguous."""

    def __init__(
        self,
        arrays: Sequence[MappedArray],
        rows: Int64[np.ndarray, " row"],
        document: Int64[np.ndarray, " row"],
        position: Int64[np.ndarray, " row"],
    ) -> None:
        """`rows` are places in the files; `document` and `position` say what lies there."""
        self._arrays = arrays
        self._rows = rows
        self._document = torch.from_numpy(document)
        self._position = torch.from_numpy(position)
        self._dtype = _common_dtype(arrays)
        self.d_models: tuple[int, ...] = tuple(int(array.shape[1]) for array in arrays)
        self.n_tokens = len(rows)

    def gather(self, rows: Int[Tensor, " row"]) -> ActivationBatch:
        """The given rows, in the given order."""
        places = self._rows[rows.cpu().numpy()]
        values = torch.cat([array.rows(places).to(self._dtype) for array in self._arrays], dim=1)
        return ActivationBatch(values, self._document[rows], self._position[rows])

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        """All rows, document by document, `size` at a time."""
        for start in range(0, self.n_tokens, size):
            yield self.gather(torch.arange(start, min(start + size, self.n_tokens)))


def _common_dtype(arrays: Sequence[MappedArray]) -> torch.dtype:
    """The smallest precision that holds all arrays; float64 is read as float32."""
    dtype = torch.float16 if all(array.dtype == torch.float16 for array in arrays) else torch.float32
    return torch.bfloat16 if all(array.dtype == torch.bfloat16 for array in arrays) else dtype
