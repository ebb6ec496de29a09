"""Finds the latents that carry a shift on one half of the prompts, and checks them on the other half."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from tqdm.auto import tqdm

from .activations import PromptActivations
from .attribution import Attribution, PatchingCorners, attribute, measure_corners
from .causal import (
    CHECKS,
    Checker,
    RandomParts,
    checks_as_dict,
    compare,
    curve,
    latent_mask,
    random_shares,
    top_n_parts,
)
from .change_decomposition import Part
from .experiment import Experiment, Side
from .named_latents import Checked, check_named, rank_by_contribution
from .prompt_statistics import Resamples, Values

_CANDIDATES = 4
"""Number of latents patched singly if there is no gradient, as a multiple of the number of named latents."""


@dataclass(frozen=True)
class DecomposedShift:
    """The shift on one half of the prompts; `attribution` is None if the metric has no gradient."""

    corners: PatchingCorners
    attribution: Attribution | None

    @property
    def direction(self) -> float:
        """Sign of the shift."""
        return float(np.sign(self.corners.total.mean()))


def decompose_shift(experiment: Experiment, side: Side) -> DecomposedShift:
    """Measure the corners and, with a gradient, the attributions."""
    measurement = side.gradient_measurement
    if measurement is None:
        return DecomposedShift(measure_corners(experiment.answers(side.prompts)), None)
    corners = measure_corners(measurement)
    settings = experiment.behavior.attribution
    return DecomposedShift(corners, attribute(measurement, corners, settings, experiment.view.n_latents))


def rank(experiment: Experiment, found: DecomposedShift) -> list[int]:
    """Return the latents with a positive contribution to the shift, largest first.

    The contribution is the attribution; without a gradient, it is the necessity of each of the latents that change most.
    """
    if found.attribution is not None:
        contribution = found.direction * found.attribution.mean
    else:
        contribution = _single_necessity(experiment, found)
    return rank_by_contribution(contribution)


def _single_necessity(experiment: Experiment, found: DecomposedShift) -> Float64[np.ndarray, " latent"]:
    n_latents = experiment.view.n_latents
    sizes = experiment.find.activations.latent_sizes().norm.numpy()
    candidates = np.argsort(-sizes, kind="stable")[: _CANDIDATES * experiment.behavior.checks.latents]
    checker = Checker(
        experiment.find_measurement,
        found.corners,
        experiment.behavior.shift.confidence,
        experiment.behavior.seed,
    )
    contribution = np.zeros(n_latents)
    for latent in tqdm(candidates[sizes[candidates] > 0].tolist(), desc="patch", unit="latent"):
        contribution[latent] = checker.share("necessity", Part(latent_mask([latent], n_latents))).value
    return contribution


def decomposition(found: DecomposedShift, confidence: float, seed: int) -> dict[str, Any]:
    """Return the shift and its parts, in the unit of the metric and as shares of the shift, with intervals over prompts."""
    corners = found.corners
    resamples = Resamples(len(corners.reference), confidence, seed)

    def value_and_share(values: Values) -> dict[str, Any]:
        return resamples.value_and_share(values, corners.total)

    result: dict[str, Any] = {
        "total": resamples.difference(corners.total).as_dict(),
        "corners": {
            "reference": float(corners.reference.mean()),
            "intervened": float(corners.intervened.mean()),
            "intervened_from_reference": float(corners.intervened_from_reference.mean()),
            "reference_from_intervened": float(corners.reference_from_intervened.mean()),
        },
        "represented": value_and_share(corners.represented),
        "above": value_and_share(corners.above),
        "interaction": value_and_share(corners.interaction),
        "parts": None,
    }
    attribution = found.attribution
    if attribution is not None:
        total = float(corners.total.mean())
        residual = float(attribution.residual.mean())
        result["parts"] = {
            "latents": value_and_share(attribution.latents.sum(axis=1)),
            **{name: value_and_share(values) for name, values in attribution.rest.items()},
        }
        result |= {
            "residual": residual,
            "residual_share": residual / total if total else None,
            "steps": attribution.steps,
        }
    return result


def check(
    experiment: Experiment, ranking: Sequence[int], found: DecomposedShift, claim: DecomposedShift
) -> Checked:
    """Check the named latents on the claim set: see `check_named`."""
    contribution = None if claim.attribution is None else found.direction * claim.attribution.latents
    checker, n_latents = checker_for(experiment, claim), experiment.view.n_latents
    return check_named(
        checker, experiment.claim.activations, n_latents, ranking, contribution, experiment.behavior
    )


def checker_for(experiment: Experiment, claim: DecomposedShift) -> Checker:
    """Return the checker on the claim set, with the metric that latents are found with."""
    behavior = experiment.behavior
    measurement = experiment.claim.gradient_measurement or experiment.behavior_measurement
    return Checker(measurement, claim.corners, behavior.shift.confidence, behavior.seed)


def answer_checks(
    experiment: Experiment,
    corners: PatchingCorners,
    checked: Checked,
    ranking: Sequence[int],
    activations: PromptActivations,
) -> dict[str, Any]:
    """Check the named latents, and more of the ranking, on generated answers, compared with random latents."""
    behavior = experiment.behavior
    confidence, n_latents = behavior.shift.confidence, experiment.view.n_latents
    checker = Checker(experiment.behavior_measurement, corners, confidence, behavior.seed)
    random = RandomParts(activations, checked.named, behavior.seed)
    part = Part(latent_mask(checked.named, n_latents))
    draws = random.draws([checked.named] * behavior.checks.answer_draws, activations.norm(part))
    together = compare(checker, part, random_shares(checker, draws, "random sets"))
    more = top_n_parts(ranking, behavior.checks.answer_counts, n_latents, leave_out=len(checked.named))
    return {
        "n_prompts": experiment.behavior_measurement.n_prompts,
        "together": checks_as_dict(together, confidence),
        "curve": curve(checker, more, CHECKS),
    }
