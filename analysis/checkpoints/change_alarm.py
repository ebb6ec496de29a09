"""The change alarm: whether a checkpoint differs from the previous one by more than noise, and in which latents.

For every block b of documents, D_jb is what latent j explains of the step (`checkpoint_statistics`, step/t + exchanged/t). The statistic
is the maximum over latents of

    z_j = Σ_b D_jb / √(Σ_b D_jb²)

If the two checkpoints differ only by exchangeable noise, the signs of the blocks are arbitrary. The maximum of z_j under random signs then
has the null distribution, and its quantile is the threshold: a sign-flip test with the maximum statistic (Nichols and Holmes 2002), which is
exact for any distribution and any dependence between latents. At such a checkpoint, the probability that the alarm rings at all, for any
latent, is at most the stated rate.

A checkpoint after further training always differs by more than noise, even if only slightly. The alarm detects a change that is consistent
over documents; the trajectories measure its size.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

# Latents whose signs are flipped at a time.
_CHUNK = 4096


class Alarm(NamedTuple):
    """The alarm at one checkpoint."""

    statistic: float
    """The largest z of all latents; 0 if nothing differs."""

    threshold: float | None
    """Exceeded at an unchanged checkpoint with the stated rate; None if too few signs were drawn for that rate."""

    p_value: float
    rings: bool
    columns: tuple[int, ...]
    """Columns whose z exceeds the threshold, sorted by how much of the step they explain."""


def alarm_of_step(
    step: Float64[Tensor, "block column"], rate: float, n_samples: int, generator: np.random.Generator
) -> Alarm:
    """Return the alarm for the step to one checkpoint.

    Args:
        step: What each latent, and the bias in the last column, explains of the step in each block: step/t + exchanged/t.
        rate: False-alarm rate.
        n_samples: Number of random sign vectors for the threshold.
        generator: Draws the signs.
    """
    explained = step.sum(dim=0)
    length = step.square().sum(dim=0).sqrt()
    unit = torch.where(length > 0, step / length, 0.0)
    z = unit.sum(dim=0)
    statistic = max(0.0, float(z.max()))
    signs = torch.from_numpy(generator.choice([-1.0, 1.0], size=(n_samples, len(step))))
    drawn = torch.zeros(n_samples, dtype=torch.float64)
    for columns in unit.split(_CHUNK, dim=1):
        drawn = torch.maximum(drawn, (signs @ columns).amax(dim=1))
    # Equal signs give equal sums up to rounding.
    as_large = int((drawn >= statistic - 1e-9).sum())
    allowed = int(rate * (n_samples + 1))
    threshold = float(drawn.sort(descending=True).values[allowed - 1]) if allowed else None
    found = [] if threshold is None else (z > threshold + 1e-9).nonzero().flatten().tolist()
    return Alarm(
        statistic=statistic,
        threshold=threshold,
        p_value=(1 + as_large) / (n_samples + 1),
        rings=bool(found),
        columns=tuple(sorted(found, key=lambda column: -float(explained[column]))),
    )
