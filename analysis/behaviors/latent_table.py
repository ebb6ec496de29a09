"""attribution.parquet: one row per latent."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from ..tables.columns import ATTRIBUTION
from .activations import LatentSizes
from .named_latents import Checked
from .prompt_statistics import Resamples, Values
from .ranking import Ranking


class Attributed(NamedTuple):
    """A shift on a set of prompts, and its attribution to latents."""

    latents: Float64[np.ndarray, "prompt latent"]
    total: Values


def latent_table(
    sizes: LatentSizes,
    ranking: Ranking,
    sides: Mapping[str, Attributed],
    checked: Checked,
    seed: int,
    more: Mapping[str, Float64[np.ndarray, " latent"]] | None = None,
) -> pa.Table:
    """Return the table; attributions are in the unit of the metric, shares are of the shift.

    Args:
        sides: `find` and `held_out`; empty without a gradient.
        more: Additional columns.
    """
    n_latents = len(sizes.norm)
    rank_of = {latent: rank for rank, latent in enumerate(ranking.along)}
    columns: dict[str, Any] = {
        "latent": np.arange(n_latents),
        "rank": [rank_of.get(latent) for latent in range(n_latents)],
        "norm": sizes.norm.numpy(),
        "firings": sizes.firings.numpy(),
        **(more or {}),
    }
    for name, side in sides.items():
        mean = side.latents.mean(axis=0)
        columns[f"attribution_{name}"] = mean
        columns[f"share_{name}"] = mean / side.total.mean()
    if "held_out" in sides:
        latents, total = sides["held_out"]
        resamples = Resamples(len(total), checked.confidence, seed)
        shares = [resamples.ratio(latents[:, latent], total) for latent in range(n_latents)]
        columns["share_held_out_low"] = [share.low for share in shares]
        columns["share_held_out_high"] = [share.high for share in shares]
    columns["evidence"] = [
        checked.evidence(latent) if latent in checked.association else "observed"
        for latent in range(n_latents)
    ]
    return ATTRIBUTION.build(columns)
