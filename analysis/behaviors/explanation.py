"""Which latents carry a shift, found on one half of the prompts, and what holds of it on the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64
from tqdm.auto import tqdm

from .causal import (
    CHECKS,
    Checker,
    Compared,
    Kind,
    RandomParts,
    along,
    association,
    chosen,
    compare,
    curve,
    random_shares,
    remainder,
)
from .change import Part
from .decomposition import Attribution, Corners, attribute, measure_corners
from .reading import Reading
from .statistics import Resamples
from .subject import Side, Subject

Evidence = Literal["observed", "associated", "causal"]

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


def take_apart(subject: Subject, side: Side) -> Found:
    """Corners and, with a gradient, attributions."""
    measured = side.measured
    if measured is None:
        return Found(measure_corners(subject.answers(side.prompts)), None)
    corners = measure_corners(measured)
    settings = subject.behavior.attribution
    return Found(corners, attribute(measured, corners, settings, subject.observer.n_latents))


def rank(subject: Subject, found: Found) -> Int64[np.ndarray, " latent"]:
    """Latents that push the behavior the way it shifted, the strongest first.

    By their attribution; without a gradient by what is left of the shift when each of those that change most is taken out.
    """
    if found.attribution is not None:
        pushing = found.direction * found.attribution.mean
    else:
        pushing = _patched(subject, found)
    order = np.argsort(-pushing, kind="stable")
    return order[pushing[order] > 0]


def _patched(subject: Subject, found: Found) -> Float64[np.ndarray, " latent"]:
    n_latents = subject.observer.n_latents
    sizes = subject.find.reading.sizes().norm.numpy()
    candidates = np.argsort(-sizes, kind="stable")[: _CANDIDATES * subject.behavior.checks.latents]
    checker = Checker(subject.finder, found.corners, subject.behavior.shift.confidence, subject.behavior.seed)
    pushing = np.zeros(n_latents)
    for latent in tqdm(candidates[sizes[candidates] > 0].tolist(), desc="patch", unit="latent"):
        pushing[latent] = checker.share("necessity", Part(chosen([latent], n_latents))).value
    return pushing


def decomposition(found: Found, confidence: float, seed: int) -> dict[str, Any]:
    """The shift and its parts, each in the unit of the metric and as a share of the shift, with intervals over prompts."""
    corners = found.corners
    resamples = Resamples(len(corners.reference), confidence, seed)

    def told(values: Float64[np.ndarray, " prompt"]) -> dict[str, Any]:
        return {
            "value": resamples.mean(values).as_dict(),
            "share": resamples.ratio(values, corners.total).as_dict(),
        }

    result: dict[str, Any] = {
        "total": resamples.mean(corners.total).as_dict(),
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


@dataclass(frozen=True)
class Checked:
    """The causal checks of some named latents."""

    named: tuple[int, ...]
    together: dict[Kind, Compared]
    single: dict[int, dict[Kind, Compared]]
    association: dict[int, float]
    """p-value of each latent's attribution on the prompts of the claim; the largest sensible where it has the other sign."""

    confidence: float

    def evidence(self, latent: int) -> Evidence:
        """What may be said of one latent."""
        associated = self.association[latent] <= (1 - self.confidence) / len(self.named)
        if not associated:
            return "observed"
        passed = any(check.passed(self.confidence) for check in self.single[latent].values())
        return "causal" if passed else "associated"

    @property
    def level(self) -> Evidence:
        """What may be said of all of them together."""
        if any(check.passed(self.confidence) for check in self.together.values()):
            return "causal"
        levels = {self.evidence(latent) for latent in self.named}
        return "associated" if levels & {"associated", "causal"} else "observed"


def check(subject: Subject, ranking: Sequence[int], found: Found, claim: Found) -> Checked:
    """Named latents, all together and one by one, beside random ones.

    One by one they share one set of random latents, of the norm of the largest of them: a control that is too strict for the others,
    rather than one for each.
    """
    behavior, reading = subject.behavior, subject.claim.reading
    settings, confidence = behavior.checks, behavior.shift.confidence
    n_latents = subject.observer.n_latents
    named = tuple(ranking[: settings.latents])
    measured = subject.claim.measured or subject.claimed
    checker = Checker(measured, claim.corners, confidence, behavior.seed)
    part = Part(chosen(named, n_latents))
    random = RandomParts(reading, named, behavior.seed)
    draws = random.draws([named] * settings.draws, reading.norm(part))
    together = compare(checker, part, random_shares(checker, draws, "random sets"))
    alone = {latent: Part(chosen([latent], n_latents)) for latent in named}
    largest = max((reading.norm(own) for own in alone.values()), default=0.0)
    singles = random_shares(
        checker, random.draws(one_by_one(named, settings.draws), largest), "random latents"
    )
    single = {
        latent: compare(checker, own, singles)
        for latent, own in tqdm(alone.items(), desc="one by one", leave=False)
    }
    associated = {
        latent: _association(latent, found, claim, single, confidence, behavior.seed) for latent in named
    }
    return Checked(named, together, single, associated, confidence)


def one_by_one(named: Sequence[int], n_draws: int) -> list[list[int]]:
    """What random single latents are like: each of the named ones, in turn."""
    return [[named[index % len(named)]] for index in range(n_draws)] if named else []


def _association(
    latent: int,
    found: Found,
    claim: Found,
    single: dict[int, dict[Kind, Compared]],
    confidence: float,
    seed: int,
) -> float:
    """How likely chance gives so large an attribution on the prompts of the claim, with the sign it was found with."""
    if claim.attribution is None:
        # Without attributions the check itself says whether anything goes with it.
        return 0.0 if any(check.estimate.low > 0 for check in single[latent].values()) else 1.0
    return association(found.direction * claim.attribution.latents[:, latent], confidence, seed)


def causal_findings(
    subject: Subject, ranking: Sequence[int], claim: Found, checked: Checked
) -> dict[str, Any]:
    """The checks as causal.json has them, without answers and steering."""
    behavior = subject.behavior
    confidence, n_latents = behavior.shift.confidence, subject.observer.n_latents
    measured = subject.claim.measured or subject.claimed
    checker = Checker(measured, claim.corners, confidence, behavior.seed)
    counts = (*behavior.checks.counts, behavior.checks.latents)
    return {
        "named": list(checked.named),
        "level": checked.level,
        "confidence": confidence,
        "n_prompts": measured.n_prompts,
        "together": {kind: one.as_dict(confidence) for kind, one in checked.together.items()},
        "latents": [
            {
                "latent": latent,
                "evidence": checked.evidence(latent),
                "association_p": checked.association[latent],
                **{kind: one.as_dict(confidence) for kind, one in checked.single[latent].items()},
            }
            for latent in checked.named
        ],
        "curve": curve(checker, along(ranking, counts, n_latents)),
        "remainder": remainder(checker, n_latents),
        "rebuilding": {side: one.as_dict() for side, one in checker.rebuilding().items()},
    }


def in_answers(
    subject: Subject, corners: Corners, checked: Checked, ranking: Sequence[int], reading: Reading
) -> dict[str, Any]:
    """What the named latents, and more of the ranking, do to generated answers, beside random ones."""
    behavior = subject.behavior
    confidence, n_latents = behavior.shift.confidence, subject.observer.n_latents
    checker = Checker(subject.claimed, corners, confidence, behavior.seed)
    random = RandomParts(reading, checked.named, behavior.seed)
    part = Part(chosen(checked.named, n_latents))
    draws = random.draws([checked.named] * behavior.checks.answer_draws, reading.norm(part))
    together = compare(checker, part, random_shares(checker, draws, "random sets"))
    more = along(ranking, behavior.checks.answer_counts, n_latents, leave_out=len(checked.named))
    return {
        "n_prompts": subject.claimed.n_prompts,
        "together": {kind: one.as_dict(confidence) for kind, one in together.items()},
        "curve": curve(checker, more, CHECKS),
    }
