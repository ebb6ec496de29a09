"""The named latents as a lever: one constant direction, added to every token of one model alone, and what that costs elsewhere.

The direction is the mean over prompts of what the named latents change where the answer begins. EditEffect it stand the mean of the whole
change at that place (the plain difference of means) and a random direction, both of the same norm.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from .activations import PromptActivations
from .attribution import PatchingCorners
from .change_decomposition import Part
from .measurement import LogitMeasurement, Measurement
from .patched_metrics import EditEffect
from .patching import INTERVENED, REFERENCE, PatchedRun
from .prompt_statistics import Resamples


class Cost:
    """What a run does to unrelated text."""

    def __init__(self, elsewhere: LogitMeasurement, confidence: float, seed: int) -> None:
        """`elsewhere` measures cross-entropy."""
        self._elsewhere, self._resamples = elsewhere, Resamples(elsewhere.n_prompts, confidence, seed)

    def measure(self, runs: Sequence[PatchedRun]) -> list[dict[str, Any]]:
        """KL of the next token in nats, and cross-entropy in nats a token before and after, of each run."""
        return [
            cost_as_dict(self._resamples, beside) for beside in self._elsewhere.compare_with_unchanged(runs)
        ]


def cost_as_dict(resamples: Resamples, beside: EditEffect) -> dict[str, Any]:
    """KL of the next token in nats, and cross-entropy in nats a token before and after."""
    plain, changed = float(beside.plain.mean()), float(beside.changed.mean())
    return {
        "kl": resamples.mean(beside.divergence).as_dict(),
        "cross_entropy": plain,
        "cross_entropy_changed": changed,
        "perplexity": float(np.exp(plain)),
        "perplexity_changed": float(np.exp(changed)),
    }


def dose_response(
    measurement: Measurement,
    corners: PatchingCorners,
    activations: PromptActivations,
    part: Part,
    cost: Cost,
    doses: Sequence[float],
    confidence: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Every dose of the named latents' direction, and a dose of 1 of the directions beside it.

    Args:
        activations: Prompts that the direction is made of.
        part: The named latents.
    """
    own = activations.steering_direction(part)
    everything = Part(torch.ones_like(part.latents) if part.latents is not None else None, True, True, True)
    beside = {
        "difference of means": activations.steering_direction(everything),
        "random": torch.randn(own.shape, generator=torch.Generator().manual_seed(seed)).to(own.device),
    }
    resamples = Resamples(measurement.n_prompts, confidence, seed)
    plans = [("named latents", own, dose) for dose in doses]
    plans += [(name, _with_norm_of(direction, own), 1.0) for name, direction in beside.items()]
    sides = ((REFERENCE, 1, corners.reference), (INTERVENED, -1, corners.intervened))
    runs = [
        PatchedRun(model, model, constant=sign * dose * direction)
        for _, direction, dose in plans
        for model, sign, _ in sides
    ]
    costs = cost.measure(runs)
    found = []
    steps = [(plan, side) for plan in plans for side in sides]
    for run, own_cost, ((name, _, dose), (model, sign, before)) in zip(
        tqdm(runs, desc="steer", unit="dose", leave=False), costs, steps, strict=True
    ):
        moved = sign * (measurement.values(run) - before)
        found.append(
            {
                "model": "reference" if model == REFERENCE else "intervened",
                "direction": name,
                "dose": dose,
                "share": resamples.ratio(moved, corners.total).as_dict(),
                **own_cost,
            }
        )
    return found


def _with_norm_of(
    direction: Float[Tensor, " d_model"], other: Float[Tensor, " d_model"]
) -> Float[Tensor, " d_model"]:
    norm = direction.norm()
    return direction * (other.norm() / norm) if norm > 0 else direction
