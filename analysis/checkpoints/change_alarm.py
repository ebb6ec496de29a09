"""The drift alarm: whether a checkpoint differs from the one before by more than noise, and in which latents.

Of every block b of documents there is D_jb, what latent j explains of the step (`chain`, step/t + exchanged/t). The statistic is the largest

    z_j = Σ_b D_jb / √(Σ_b D_jb²)

over latents. Where the two checkpoints differ by nothing but noise that might as well have been the other's, the signs of the blocks
are arbitrary, so that the largest z_j under random signs has the distribution that it would have: its quantile is the threshold
(a sign-flip test with the maximum statistic: Nichols and Holmes 2002; exact, whatever the distribution and however the latents hang
together). So the alarm rings at such a checkpoint with the stated probability or a little less, and so does any single latent that
is named, all taken together.

A checkpoint that was trained on differs by more than noise, if ever so little: the alarm says that there is a change that lasts over
documents, the trajectories say how large it is.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

# Latents that random signs are given at a time.
_CHUNK = 4096


class Alarm(NamedTuple):
    """What the alarm says of one checkpoint."""

    statistic: float
    """The largest z of all latents; 0 where nothing differs."""

    threshold: float | None
    """Which it passes in an unchanged checkpoint with the stated rate; None where too few signs were drawn for that rate."""

    p_value: float
    rings: bool
    columns: tuple[int, ...]
    """Whose z passes the threshold; the one that explains most of the step first."""


def sound(
    step: Float64[Tensor, "block column"], rate: float, n_samples: int, generator: np.random.Generator
) -> Alarm:
    """The alarm of one step.

    Args:
        step: What each latent, and the offset, explains of the step in each block, by the code and by the exchanged one.
        rate: Of false alarms.
        n_samples: Random signs that the threshold is estimated with.
        generator: Draws them.
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
    # Equal signs give equal sums, but for rounding.
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
