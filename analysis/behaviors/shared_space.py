"""Which latents carry a shift, found on one half of the prompts, and what holds of it on the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from tqdm.auto import tqdm

from .activations import PromptActivations
from .attribution import Attribution, Corners, attribute, measure_corners
from .causal import (
    CHECKS,
    Checker,
    RandomParts,
    along,
    chosen,
    compare,
    curve,
    random_shares,
    told_kinds,
)
from .change_decomposition import Part
from .experiment import Experiment, Side
from .named_latents import Checked, check_named, pushing_order
from .prompt_statistics import Resamples, Values

_CANDIDATES = 4
"""Times as many latents as are named, that are patched one by one where there is no gradient."""


@dataclass(frozen=True)
class Found:
    """The shift on one half of the prompts, taken apart where the metric has a gradient."""

    corners: Corners
    attribution: Attribution | None

    @property
    def direction(self) -> float:
        """Sign of the shift."""
        return float(np.sign(self.corners.total.mean()))


def take_apart(experiment: Experiment, side: Side) -> Found:
    """Corners and, with a gradient, attributions."""
    measured = side.measured
    if measured is None:
        return Found(measure_corners(experiment.answers(side.prompts)), None)
    corners = measure_corners(measured)
    settings = experiment.behavior.attribution
    return Found(corners, attribute(measured, corners, settings, experiment.view.n_latents))


def rank(experiment: Experiment, found: Found) -> list[int]:
    """Latents that push the behavior the way it shifted, the strongest first.

    By their attribution; without a gradient by what is left of the shift when each of those that change most is taken out.
    """
    if found.attribution is not None:
        pushing = found.direction * found.attribution.mean
    else:
        pushing = _patched(experiment, found)
    return pushing_order(pushing)


def _patched(experiment: Experiment, found: Found) -> Float64[np.ndarray, " latent"]:
    n_latents = experiment.view.n_latents
    sizes = experiment.find.reading.sizes().norm.numpy()
    candidates = np.argsort(-sizes, kind="stable")[: _CANDIDATES * experiment.behavior.checks.latents]
    checker = Checker(
        experiment.finder, found.corners, experiment.behavior.shift.confidence, experiment.behavior.seed
    )
    pushing = np.zeros(n_latents)
    for latent in tqdm(candidates[sizes[candidates] > 0].tolist(), desc="patch", unit="latent"):
        pushing[latent] = checker.share("necessity", Part(chosen([latent], n_latents))).value
    return pushing


def decomposition(found: Found, confidence: float, seed: int) -> dict[str, Any]:
    """The shift and its parts, each in the unit of the metric and as a share of the shift, with intervals over prompts."""
    corners = found.corners
    resamples = Resamples(len(corners.reference), confidence, seed)

    def told(values: Values) -> dict[str, Any]:
        return resamples.told(values, corners.total)

    result: dict[str, Any] = {
        "total": resamples.difference(corners.total).as_dict(),
        "corners": {
            "reference": float(corners.reference.mean()),
            "intervened": float(corners.intervened.mean()),
            "intervened_from_reference": float(corners.intervened_from_reference.mean()),
            "reference_from_intervened": float(corners.reference_from_intervened.mean()),
        },
        "represented": told(corners.represented),
        "above": told(corners.above),
        "interaction": told(corners.interaction),
        "parts": None,
    }
    attribution = found.attribution
    if attribution is not None:
        total = float(corners.total.mean())
        residual = float(attribution.residual.mean())
        result["parts"] = {
            "latents": told(attribution.latents.sum(axis=1)),
            **{name: told(values) for name, values in attribution.rest.items()},
        }
        result |= {
            "residual": residual,
            "residual_share": residual / total if total else None,
            "steps": attribution.steps,
        }
    return result


def check(experiment: Experiment, ranking: Sequence[int], found: Found, claim: Found) -> Checked:
    """The named latents on the prompts of the claim: see `check_named`."""
    pushing = None if claim.attribution is None else found.direction * claim.attribution.latents
    checker, n_latents = checker_of(experiment, claim), experiment.view.n_latents
    return check_named(checker, experiment.claim.reading, n_latents, ranking, pushing, experiment.behavior)


def checker_of(experiment: Experiment, claim: Found) -> Checker:
    """Checks by the metric that latents are found with, on the prompts of the claim."""
    behavior = experiment.behavior
    measured = experiment.claim.measured or experiment.claimed
    return Checker(measured, claim.corners, behavior.shift.confidence, behavior.seed)


def in_answers(
    experiment: Experiment,
    corners: Corners,
    checked: Checked,
    ranking: Sequence[int],
    reading: PromptActivations,
) -> dict[str, Any]:
    """What the named latents, and more of the ranking, do to generated answers, beside random ones."""
    behavior = experiment.behavior
    confidence, n_latents = behavior.shift.confidence, experiment.view.n_latents
    checker = Checker(experiment.claimed, corners, confidence, behavior.seed)
    random = RandomParts(reading, checked.named, behavior.seed)
    part = Part(chosen(checked.named, n_latents))
    draws = random.draws([checked.named] * behavior.checks.answer_draws, reading.norm(part))
    together = compare(checker, part, random_shares(checker, draws, "random sets"))
    more = along(ranking, behavior.checks.answer_counts, n_latents, leave_out=len(checked.named))
    return {
        "n_prompts": experiment.claimed.n_prompts,
        "together": told_kinds(together, confidence),
        "curve": curve(checker, more, CHECKS),
    }
