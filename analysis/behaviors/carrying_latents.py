"""Finds the latents that carry a shift on one half of the prompts, and checks them on the other half."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from tqdm.auto import tqdm

from .activations import PromptActivations
from .attribution import Attribution, PatchingCorners, attribute, measure_corners
from .causal import CHECKS, Checker, checks_as_dict, curve, passes, share, top_n_parts
from .change_decomposition import Part
from .experiment import Experiment, Side
from .named_latents import BothEnds, Checked, check_named, check_set, draws_of
from .prompt_statistics import Resamples, Values
from .random_parts import RandomParts, latent_mask
from .ranking import Ranking, cancellation

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


def rank(experiment: Experiment, found: DecomposedShift) -> Ranking:
    """Return the contributions to the shift, positive in its direction.

    The contribution is the attribution; without a gradient, it is the necessity of each of the latents that change most.
    """
    if found.attribution is not None:
        size = abs(float(found.corners.total.mean()))
        return Ranking(found.direction * found.attribution.mean, size)
    return Ranking(_single_necessity(experiment, found))


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
        contribution[latent] = share(checker, "necessity", Part(latent_mask([latent], n_latents))).value
    return contribution


def decomposition(found: DecomposedShift, ranking: Ranking, confidence: float, seed: int) -> dict[str, Any]:
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
            "cancellation": cancellation(attribution.latents, corners.total, ranking, resamples),
        }
    return result


def check(
    experiment: Experiment, ranking: Ranking, found: DecomposedShift, claim: DecomposedShift
) -> BothEnds:
    """Check the named latents on the claim set: see `check_named`."""
    contribution = None if claim.attribution is None else found.direction * claim.attribution.latents
    draws = draws_of(experiment.behavior, generated=claim.attribution is None)
    return check_named(
        checker_for(experiment, claim),
        experiment.claim.activations,
        ranking,
        contribution,
        experiment.behavior,
        draws,
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
    ranking: Ranking,
    activations: PromptActivations,
) -> dict[str, Any]:
    """Check the named latents together, and more of the ranking, on generated answers, compared with random latents.

    A claim about answers rests on this check alone: the one in nats does not carry over.
    """
    behavior, measurement = experiment.behavior, experiment.behavior_measurement
    confidence, n_latents = behavior.shift.confidence, experiment.view.n_latents
    checker = Checker(measurement, corners, confidence, behavior.seed)
    random = RandomParts(activations, behavior.seed)
    together = check_set(
        checker,
        activations,
        random,
        checked.named,
        ranking.contribution,
        behavior.checks.answer_draws,
        confidence,
    )
    more = top_n_parts(ranking.along, behavior.checks.answer_counts, n_latents, leave_out=len(checked.named))
    return {
        "unit": measurement.unit,
        "n_prompts": measurement.n_prompts,
        "draws": behavior.checks.answer_draws,
        "set_passed": passes(together, confidence),
        "together": checks_as_dict(together, confidence),
        "curve": curve(checker, more, CHECKS),
    }
