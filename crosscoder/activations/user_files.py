"""Splits a user's arrays into training and held-out rows, identically for training and analysis."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from ..config import FileActivations
from ..errors import DataError
from .mapped_arrays import ArrayReader, MappedArray

# Rows per document if the files do not name documents.
BLOCK_ROWS = 256

# Random stream of the split; training.extraction and training.sources use other numbers with the same seed.
_SPLIT_STREAM = 7


class FileSplits(NamedTuple):
    """Both splits of a user's arrays, and the document of every row of the files."""

    train: ArrayReader
    held_out: ArrayReader
    document: Int64[np.ndarray, " row"]


def open_files(config: FileActivations, seed: int, *, check: bool = True) -> FileSplits:
    """Open the arrays of all models and split them by document, with a seeded shuffle.

    `check` reads the files once to verify that every value is finite.

    Raises:
        ConfigError: A file is missing or of an unknown kind.
        FormatError: A file is damaged.
        DataError: The files do not match, contain non-finite values, or are too small to split.
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
                f"{n_rows}; row i must be the same token in every file"
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
    in_held_out = np.isin(ordered, held_out)
    splits = (~in_held_out, in_held_out)
    train, test = (ArrayReader(arrays, order[rows], ordered[rows], position[rows]) for rows in splits)
    return FileSplits(train, test, document)


def _held_out_documents(
    document: Int64[np.ndarray, " row"], config: FileActivations, seed: int
) -> Int64[np.ndarray, " document"]:
    """Draw the held-out share of the documents, with at least one document in each split."""
    known = np.unique(document)
    if len(known) < 2:
        raise DataError(
            f"activations.reference: the {len(document)} rows of {config.reference} form a single document, so nothing can "
            f"be held out; give more rows, or name the documents in activations.documents (default: {BLOCK_ROWS} rows each)"
        )
    n_held_out = min(max(round(config.held_out * len(known)), 1), len(known) - 1)
    return np.random.default_rng([seed, _SPLIT_STREAM]).permutation(known)[:n_held_out]
