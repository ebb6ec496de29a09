"""What a part of the page adds to its packs; a run that does not have that part adds nothing."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Shaped


@dataclass(frozen=True)
class Section:
    """A part of the page beside the analysis itself."""

    header: dict[str, Any] = field(default_factory=dict)
    """Of the overview's pack."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """Of the overview's pack."""

    per_latent: dict[str, Shaped[np.ndarray, "latent ..."]] = field(default_factory=dict)
    """Of the packs of 64 latents each."""

    of_latents: dict[str, dict[int, Any]] = field(default_factory=dict)
    """In the headers of those packs, for the latents that have any."""


def joined_header(sections: Iterable[Section]) -> dict[str, Any]:
    """What all sections add to the header of the overview's pack."""
    return {key: value for section in sections for key, value in section.header.items()}


def joined_arrays(sections: Iterable[Section]) -> dict[str, np.ndarray]:
    """What all sections add to the arrays of the overview's pack."""
    return {key: array for section in sections for key, array in section.arrays.items()}


def chunk_header(sections: Iterable[Section], first: int, last: int) -> dict[str, Any]:
    """What all sections say of the latents first, …, last - 1."""
    header: dict[str, Any] = {}
    for section in sections:
        for key, values in section.of_latents.items():
            inside = {str(latent): value for latent, value in values.items() if first <= latent < last}
            if inside:
                header[key] = inside
    return header


def chunk_arrays(sections: Iterable[Section], first: int, last: int) -> dict[str, np.ndarray]:
    """The arrays of the latents first, …, last - 1, flat."""
    return {
        key: array[first:last].ravel() for section in sections for key, array in section.per_latent.items()
    }
