"""Which rows of a user's own arrays are trained on, and which are held out: the same answer for training and analysis."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from ..config import FileActivations
from ..errors import DataError
from .mapped_arrays import ArrayReader, MappedArray

# Rows that count as one document where the files do not say which row is from which.
BLOCK_ROWS = 256

# First word of the seed of the split; the streams of training.sources have other numbers.
_SPLIT_STREAM = 7


class FileSides(NamedTuple):
    """Both sides of a user's arrays, and the document of every row of the files."""

    train: ArrayReader
    held_out: ArrayReader
    document: Int64[np.ndarray, " row"]


def open_files(config: FileActivations, seed: int, *, check: bool = True) -> FileSides:
    """Open the arrays of all models and split them by whole documents, seeded.

    `check` reads the files once to see that every value is finite.

    Raises:
        ConfigError: A file is missing or of an unknown kind.
        FormatError: A file is damaged.
        DataError: The files do not match, hold values that are not finite, or are too small to hold anything out.
    """
    files = {"activations.reference": config.reference, "activations.intervened": config.intervened}
    files |= {f"activations.snapshots.{index}": path for index, path in enumerate(config.snapshots)}
    arrays = [MappedArray(setting, path) for setting, path in files.items()]
    for array in arrays if check else ():
        array.check_activations()
    n_rows = arrays[0].shape[0]
    for (setting, path), array in zip(files.items(), arrays, strict=True):
        if array.shape[0] != n_rows:
            raise DataError(
                f"{setting}: {path} has {array.shape[0]} rows, but {config.reference} has "
                f"{n_rows}; row i of both must be the same token"
            )
    if config.documents is None:
        document = np.arange(n_rows, dtype=np.int64) // BLOCK_ROWS
    else:
        document = MappedArray("activations.documents", config.documents).integers(n_rows)
    held_out = _held_out_documents(document, config, seed)
    order = np.argsort(document, kind="stable")
    ordered = document[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
    position = np.arange(n_rows) - np.repeat(starts, np.diff(starts, append=n_rows))
    out = np.isin(ordered, held_out)
    train, rest = (ArrayReader(arrays, order[side], ordered[side], position[side]) for side in (~out, out))
    return FileSides(train, rest, document)


def _held_out_documents(
    document: Int64[np.ndarray, " row"], config: FileActivations, seed: int
) -> Int64[np.ndarray, " document"]:
    """A seeded share of the documents, at least one on each side."""
    known = np.unique(document)
    if len(known) < 2:
        raise DataError(
            f"activations.reference: the {len(document)} rows of {config.reference} are one document, so nothing can be "
            f"held out; give more rows, or name the documents in activations.documents (without it, {BLOCK_ROWS} rows are one)"
        )
    n_held_out = min(max(round(config.held_out * len(known)), 1), len(known) - 1)
    return np.random.default_rng([seed, _SPLIT_STREAM]).permutation(known)[:n_held_out]
