"""Trajectories of each latent over the checkpoints of a chain, and the checkpoint at which its change began."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float64
from torch import Tensor

from crosscoder.config import AnalysisConfig
from crosscoder.dictionary.metrics import decoder_cosine, relative_norm

from ..labels.rule import Label
from ..latents.bootstrap import BlockMoments, Statistic, block_intervals
from ..latents.checkpoint_statistics import ChainStatistics
from ..latents.dictionary_view import PairedView
from ..latents.latent_scaling import Moments
from ..tables.columns import TRAJECTORIES

CHANGED: tuple[Label, ...] = ("new", "lost", "replaced", "rotated", "rescaled")
"""Labels for which an onset is determined."""

PASSED = 0.5
"""Share of its final shift that a latent reaches at its onset."""

RULE = (
    "first checkpoint at which what the latent explains of E‖x - x_reference‖² (raw units, not the share) is at least "
    f"{PASSED:g} of what it explains at the end; none if the lower bound of its share at the end is not above 0"
)


@dataclass(frozen=True)
class Trajectories:
    """One row per checkpoint in order of time, one column per latent; NaN: undefined."""

    names: tuple[str, ...]
    norm: Float64[np.ndarray, "checkpoint latent"]
    """‖d_t‖ in training space."""
    relative_norm: Float64[np.ndarray, "checkpoint latent"]
    """‖d_t‖ / (‖d_0‖ + ‖d_t‖), in training space."""
    cosine: Float64[np.ndarray, "checkpoint latent"]
    """Cosine between d_t and d_0."""
    shift: Float64[np.ndarray, "checkpoint latent"]
    """E f ⟨d_t - d_0, x_t - x_0⟩, raw units: what the latent explains of E‖x_t - x_0‖²."""
    shift_share: Float64[np.ndarray, "checkpoint latent"]
    """`shift` over E‖x_t - x_0‖²."""
    shift_share_low: Float64[np.ndarray, "checkpoint latent"]
    shift_share_high: Float64[np.ndarray, "checkpoint latent"]

    def table(self) -> pa.Table:
        """Return trajectories.parquet: one row per latent and checkpoint, sorted by latent; NaN as null."""
        n_checkpoints, n_latents = self.norm.shape
        columns: dict[str, Any] = {
            "latent": np.repeat(np.arange(n_latents), n_checkpoints),
            "checkpoint": np.tile(np.arange(n_checkpoints), n_latents),
            "name": list(self.names) * n_latents,
        }
        for name in (
            "norm", "relative_norm", "cosine", "shift", "shift_share", "shift_share_low", "shift_share_high",
        ):  # fmt: skip
            columns[name] = getattr(self, name).T.flatten()
        return TRAJECTORIES.build(columns)


def make_trajectories(view: PairedView, chain: ChainStatistics, config: AnalysisConfig) -> Trajectories:
    """Return the trajectories of all latents; the intervals of shares are over blocks of documents."""
    rows = [view.directions[place].cpu().double() for place in chain.places]
    norms = torch.stack([part.norm(dim=1) for part in rows])
    nothing = torch.full_like(norms[0], torch.nan)
    cosine = [decoder_cosine(rows[0], part) if part.shape == rows[0].shape else nothing for part in rows]
    share, low, high = _shares(chain, view.n_latents, config)
    shift = [nothing if found is None else found.sum(dim=0) / max(1, chain.n_tokens) for found in chain.shift]
    return Trajectories(
        names=chain.names,
        norm=norms.numpy(),
        relative_norm=relative_norm_of(norms).numpy(),
        cosine=torch.stack(cosine).numpy(),
        shift=torch.stack(shift).numpy(),
        shift_share=share.numpy(),
        shift_share_low=low.numpy(),
        shift_share_high=high.numpy(),
    )


def relative_norm_of(
    norms: Float64[Tensor, "checkpoint latent"],
) -> Float64[Tensor, "checkpoint latent"]:
    """Return ‖d_t‖ / (‖d_0‖ + ‖d_t‖) for each checkpoint."""
    return torch.stack([relative_norm(norms[0], norm) for norm in norms])


def onsets(trajectories: Trajectories, labels: Sequence[str]) -> Float64[np.ndarray, " latent"]:
    """Return the onset of each latent that is new, lost, rotated or rescaled at the end, by `RULE`; NaN if it has none."""
    shift = trajectories.shift
    with np.errstate(invalid="ignore"):
        passed = shift >= PASSED * shift[-1]
        certain = trajectories.shift_share_low[-1] > 0
    changed = np.isin(np.array(labels), CHANGED)
    return np.where(changed & certain, passed.argmax(axis=0).astype(np.float64), np.nan)


def _shares(chain: ChainStatistics, n_latents: int, config: AnalysisConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return shift/t over square/t of each checkpoint and its interval; NaN if nothing changed."""
    changed = {
        time: sums
        for time, sums in enumerate(chain.shift)
        if sums is not None and bool(chain.totals[f"square/{time}"].any())
    }
    parts = [torch.full((len(chain.names), n_latents), torch.nan, dtype=torch.float64) for _ in range(3)]
    if not changed:
        return parts[0], parts[1], parts[2]
    moments = BlockMoments({f"shift/{time}": sums for time, sums in changed.items()}, chain.totals, {})
    statistics: dict[str, Statistic] = {str(time): partial(_share, time=time) for time in changed}
    intervals = block_intervals(moments, statistics, config.rule.confidence)
    whole = moments.whole()
    for time in changed:
        interval = intervals[str(time)]
        for part, values in zip(parts, (_share(whole, time=time), *interval), strict=True):
            part[time] = values
    return parts[0], parts[1], parts[2]


def _share(moments: Moments, time: int) -> Tensor:
    return moments[f"shift/{time}"] / moments[f"square/{time}"]
