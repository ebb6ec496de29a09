"""Dose-response of the named latents: one constant direction is added at every token of one model, and its side effects are measured.

The direction is the mean over prompts of the named latents' part of the change at the last prompt token. It is compared with the mean of
the whole change at that token (the difference of means) and a random direction, both scaled to the same norm.
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
    """Side effects of a run on unrelated text."""

    def __init__(self, unrelated: LogitMeasurement, confidence: float, seed: int) -> None:
        """`unrelated` measures the cross-entropy of unrelated text."""
        self._unrelated, self._resamples = unrelated, Resamples(unrelated.n_prompts, confidence, seed)

    def measure(self, runs: Sequence[PatchedRun]) -> list[dict[str, Any]]:
        """Return, for each run, the KL of the next token in nats, and the cross-entropy before and after in nats per token."""
        return [
            cost_as_dict(self._resamples, effect) for effect in self._unrelated.compare_with_unchanged(runs)
        ]


def cost_as_dict(resamples: Resamples, effect: EditEffect) -> dict[str, Any]:
    """Return the KL of the next token in nats, and the cross-entropy before and after in nats per token, for JSON."""
    unchanged, changed = float(effect.unchanged.mean()), float(effect.changed.mean())
    return {
        "kl": resamples.mean(effect.divergence).as_dict(),
        "cross_entropy": unchanged,
        "cross_entropy_changed": changed,
        "perplexity": float(np.exp(unchanged)),
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
    """Measure every dose of the named latents' direction, and a dose of 1 of the directions it is compared with.

    Args:
        activations: The prompts from which the direction is computed.
        part: The named latents.
    """
    named = activations.steering_direction(part)
    everything = Part(torch.ones_like(part.latents) if part.latents is not None else None, True, True, True)
    controls = {
        "difference of means": activations.steering_direction(everything),
        "random": torch.randn(named.shape, generator=torch.Generator().manual_seed(seed)).to(named.device),
    }
    resamples = Resamples(measurement.n_prompts, confidence, seed)
    plans = [("named latents", named, dose) for dose in doses]
    plans += [(name, _with_norm_of(direction, named), 1.0) for name, direction in controls.items()]
    sides = ((REFERENCE, 1, corners.reference), (INTERVENED, -1, corners.intervened))
    runs = [
        PatchedRun(model, model, constant=sign * dose * direction)
        for _, direction, dose in plans
        for model, sign, _ in sides
    ]
    costs = cost.measure(runs)
    entries = []
    steps = [(plan, side) for plan in plans for side in sides]
    for run, side_effect, ((name, _, dose), (model, sign, before)) in zip(
        tqdm(runs, desc="steer", unit="dose", leave=False), costs, steps, strict=True
    ):
        moved = sign * (measurement.values(run) - before)
        entries.append(
            {
                "model": "reference" if model == REFERENCE else "intervened",
                "direction": name,
                "dose": dose,
                "share": resamples.ratio(moved, corners.total).as_dict(),
                **side_effect,
            }
        )
    return entries


def _with_norm_of(
    direction: Float[Tensor, " d_model"], other: Float[Tensor, " d_model"]
) -> Float[Tensor, " d_model"]:
    norm = direction.norm()
    return direction * (other.norm() / norm) if norm > 0 else direction
