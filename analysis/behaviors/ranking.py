"""The latents ranked by their contribution to a shift, from both ends, and how far contributions cancel."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from .prompt_statistics import Resamples, Values


@dataclass(frozen=True)
class Ranking:
    """The contributions of latents to a shift, found on the find set."""

    contribution: Float64[np.ndarray, " latent"]
    """Positive in the direction of the shift; 0 if unknown."""

    shift: float = 1.0
    """Size of the shift on the find set, in the unit of the contributions."""

    @cached_property
    def along(self) -> list[int]:
        """The latents that carry the shift, largest contribution first."""
        return _largest_first(self.contribution)

    @cached_property
    def against(self) -> list[int]:
        """The latents that push against the shift, largest contribution first."""
        return _largest_first(-self.contribution)


def _largest_first(contribution: Float64[np.ndarray, " latent"]) -> list[int]:
    order = np.argsort(-contribution, kind="stable")
    return order[contribution[order] > 0].tolist()


def cancellation(
    latents: Float64[np.ndarray, "prompt latent"], total: Values, ranking: Ranking, resamples: Resamples
) -> dict[str, Any]:
    """Return how far the contributions of latents cancel, for attribution.json.

    `along` and `against` are the sums over the latents that were found to carry the shift and to push against it. The signs are those of
    the find set: signs of the same attributions that are summed would make two sums of any noise. `ratio` is the smaller sum as a share of
    the larger, 0 if nothing cancels, 1 if everything does; null if the sums do not have opposite signs.

    Args:
        latents: Attributions, in the unit of the metric.
    """
    along, against = (latents[:, end].sum(axis=1) for end in (ranking.along, ranking.against))
    one, other = float(along.mean()), float(against.mean())
    sizes = sorted((abs(one), abs(other)))
    return {
        "along": resamples.value_and_share(along, total) | {"latents": len(ranking.along)},
        "against": resamples.value_and_share(against, total) | {"latents": len(ranking.against)},
        "ratio": sizes[0] / sizes[1] if one * other < 0 else (0.0 if sizes[0] == 0 else None),
    }
