"""Which latents carry a shift, found on one half of the prompts, and what holds of it on the other."""

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
"""Times as many latents as are named, that are patched one by one where there is no gradient."""


@dataclass(frozen=True)
class DecomposedShift:
    """The shift on one half of the prompts, taken apart where the metric has a gradient."""

    corners: PatchingCorners
    attribution: Attribution | None

    @property
    def direction(self) -> float:
        """Sign of the shift."""
        return float(np.sign(self.corners.total.mean()))


def decompose_shift(experiment: Experiment, side: Side) -> DecomposedShift:
    """PatchingCorners and, with a gradient, attributions."""
    measured = side.gradient_measurement
    if measured is None:
        return DecomposedShift(measure_corners(experiment.answers(side.prompts)), None)
    corners = measure_corners(measured)
    settings = experiment.behavior.attribution
    return DecomposedShift(corners, attribute(measured, corners, settings, experiment.view.n_latents))


def rank(experiment: Experiment, found: DecomposedShift) -> list[int]:
    """Latents that push the behavior the way it shifted, the strongest first.

    By their attribution; without a gradient by what is left of the shift when each of those that change most is taken out.
    """
    if found.attribution is not None:
        contribution = found.direction * found.attribution.mean
    else:
        contribution = _patched(experiment, found)
    return rank_by_contribution(contribution)


def _patched(experiment: Experiment, found: DecomposedShift) -> Float64[np.ndarray, " latent"]:
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
    """The shift and its parts, each in the unit of the metric and as a share of the shift, with intervals over prompts."""
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
    """The named latents on the prompts of the claim: see `check_named`."""
    contribution = None if claim.attribution is None else found.direction * claim.attribution.latents
    checker, n_latents = checker_for(experiment, claim), experiment.view.n_latents
    return check_named(
        checker, experiment.claim.activations, n_latents, ranking, contribution, experiment.behavior
    )


def checker_for(experiment: Experiment, claim: DecomposedShift) -> Checker:
    """Checks by the metric that latents are found with, on the prompts of the claim."""
    behavior = experiment.behavior
    measured = experiment.claim.gradient_measurement or experiment.behavior_measurement
    return Checker(measured, claim.corners, behavior.shift.confidence, behavior.seed)


def answer_checks(
    experiment: Experiment,
    corners: PatchingCorners,
    checked: Checked,
    ranking: Sequence[int],
    activations: PromptActivations,
) -> dict[str, Any]:
    """What the named latents, and more of the ranking, do to generated answers, beside random ones."""
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
