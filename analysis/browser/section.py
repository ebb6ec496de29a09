"""A part of the page and its contribution to the packs; empty if the run lacks that part."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Shaped


@dataclass(frozen=True)
class Section:
    """A part of the page in addition to the table of latents."""

    header: dict[str, Any] = field(default_factory=dict)
    """Entries for the header of the overview pack."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """Arrays for the overview pack."""

    latent_arrays: dict[str, Shaped[np.ndarray, "latent ..."]] = field(default_factory=dict)
    """Arrays for the packs of 64 latents."""

    latent_records: dict[str, dict[int, Any]] = field(default_factory=dict)
    """Entries for the headers of those packs, by latent; latents without an entry are absent."""


def joined_header(sections: Iterable[Section]) -> dict[str, Any]:
    """Join the sections' entries for the header of the overview pack."""
    return {key: value for section in sections for key, value in section.header.items()}


def joined_arrays(sections: Iterable[Section]) -> dict[str, np.ndarray]:
    """Join the sections' arrays for the overview pack."""
    return {key: array for section in sections for key, array in section.arrays.items()}


def chunk_header(sections: Iterable[Section], first: int, last: int) -> dict[str, Any]:
    """Join the sections' entries for latents first, …, last - 1."""
    header: dict[str, Any] = {}
    for section in sections:
        for key, values in section.latent_records.items():
            inside = {str(latent): value for latent, value in values.items() if first <= latent < last}
            if inside:
                header[key] = inside
    return header


def chunk_arrays(sections: Iterable[Section], first: int, last: int) -> dict[str, np.ndarray]:
    """Join the sections' arrays for latents first, …, last - 1, flattened."""
    return {
        key: array[first:last].ravel() for section in sections for key, array in section.latent_arrays.items()
    }
