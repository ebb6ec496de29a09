"""Activations in user files: one memory-mapped array `[token, d_model]` per model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from ..errors import ConfigError, DataError, FormatError
from .batch import ActivationBatch
from .shards import map_tensors

# Rows per chunk when a file is checked for non-finite values.
_CHUNK_ROWS = 8192

# Supported dtypes of .npy files, as torch dtypes.
_FLOATS = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


class MappedArray:
    """One array in a .npy or .safetensors file. Only requested rows are read from disk."""

    def __init__(self, setting: str, path: Path) -> None:
        """Open a file.

        Raises:
            ConfigError: The file is missing or has another suffix.
            FormatError: The file is damaged, or contains several arrays.
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
                    f"{setting}: {path} contains {len(maps)} arrays ({', '.join(sorted(maps))}); it must contain one"
                )
            self._map, dtype = next(iter(maps.values()))
            self.dtype = dtype if dtype.is_floating_point else None
        else:
            raise ConfigError(f"{setting}: {path} ends in {path.suffix!r}; give a .npy or .safetensors file")
        self.shape = self._map.shape
        self._setting = setting

    def rows(self, index: Int64[np.ndarray, " row"] | slice) -> Tensor:
        """Return a copy of the given rows."""
        array = np.array(self._map[index], order="C")
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("="))
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if self.dtype == torch.bfloat16 else tensor

    def check_activations(self) -> None:
        """Check that the array is `[token, d_model]`, floating point and finite; reads the file once.

        Raises:
            DataError: It is not.
        """
        if len(self.shape) != 2 or 0 in self.shape:
            raise DataError(
                f"{self._setting}: {self.path} has shape {self.shape}; it must be [token, d_model]"
            )
        if self.dtype is None:
            raise DataError(
                f"{self._setting}: {self.path} has dtype {self._map.dtype}; activations must be floating point"
            )
        n_invalid, first = 0, None
        for start in range(0, self.shape[0], _CHUNK_ROWS):
            invalid = ~self.rows(slice(start, start + _CHUNK_ROWS)).isfinite().all(dim=1)
            if invalid.any():
                n_invalid += int(invalid.sum())
                first = start + int(invalid.int().argmax()) if first is None else first
        if first is not None:
            raise DataError(
                f"{self._setting}: {self.path} has NaN or infinite values in {n_invalid} of {self.shape[0]} rows, first in row "
                f"{first}; remove these rows from the files of all models"
            )

    def integers(self, length: int) -> Int64[np.ndarray, " token"]:
        """Return the whole array as integers.

        Raises:
            DataError: It is not a vector of `length` integers.
        """
        if self._map.dtype.kind not in "iu" or self.dtype is not None or self.shape != (length,):
            raise DataError(
                f"{self._setting}: {self.path} has dtype {self._map.dtype} and shape {self.shape}; "
                f"it must hold one integer for each of the {length} rows"
            )
        return np.array(self._map, dtype=np.int64)


class ArrayReader:
    """`ActivationReader` over selected rows of the arrays of all models; the rows of a document are contiguous."""

    def __init__(
        self,
        arrays: Sequence[MappedArray],
        rows: Int64[np.ndarray, " row"],
        document: Int64[np.ndarray, " row"],
        position: Int64[np.ndarray, " row"],
    ) -> None:
        """Select `rows` of the files, with the `document` and `position` of each."""
        self._arrays = arrays
        self._rows = rows
        self._document = torch.from_numpy(document)
        self._position = torch.from_numpy(position)
        self._dtype = _common_dtype(arrays)
        self.d_models: tuple[int, ...] = tuple(int(array.shape[1]) for array in arrays)
        self.n_tokens = len(rows)

    @property
    def documents(self) -> Int64[np.ndarray, " token"]:
        """Document of each token, in stored order."""
        return self._document.numpy()

    def gather(self, rows: Int[Tensor, " row"]) -> ActivationBatch:
        """Read the given rows, in the given order."""
        file_rows = self._rows[rows.cpu().numpy()]
        values = torch.cat([array.rows(file_rows).to(self._dtype) for array in self._arrays], dim=1)
        return ActivationBatch(values, self._document[rows], self._position[rows])

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        """Yield all rows, document by document, `size` at a time."""
        for start in range(0, self.n_tokens, size):
            yield self.gather(torch.arange(start, min(start + size, self.n_tokens)))


def _common_dtype(arrays: Sequence[MappedArray]) -> torch.dtype:
    """Return the lowest precision that represents all arrays; float64 is read as float32."""
    dtype = torch.float16 if all(array.dtype == torch.float16 for array in arrays) else torch.float32
    return torch.bfloat16 if all(array.dtype == torch.bfloat16 for array in arrays) else dtype
