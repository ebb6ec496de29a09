"""Finds the latents that carry a shift between two models that share no space on one half of the prompts, and checks them on the other half.

Causal checks are made within the intervened model, by mean-ablating latents there:

    necessity   [M_B(h_B) - M_B(h_B - part)] / [M_B(h_B) - M_B(mean_B)]

compared with random latents of similar firing frequency and the same norm. Sufficiency is undefined, because contributions of latents to
one model cannot be inserted into the other.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from crosscoder.config.behavior import Behavior

from ..causal import PARTS, Kind, share
from ..change_decomposition import Part
from ..dose_response import cost_as_dict
from ..named_latents import BothEnds, check_named, draws_of, findings
from ..patching import INTERVENED
from ..prompt_statistics import Estimate, Resamples, Values
from ..random_parts import latent_mask
from ..ranking import Ranking, cancellation
from .activations import PerModelActivations
from .attribution import AttributionDifference

_PARTS = {name: part for name, part in PARTS.items() if name != "bias"}


def unshared_decomposition(
    found: AttributionDifference, ranking: Ranking, confidence: float, seed: int
) -> dict[str, Any]:
    """Like `shared_space.decomposition`, with null for parts that are undefined for two models that share no space."""
    resamples = Resamples(len(found.total), confidence, seed)

    def value_and_share(values: Values) -> dict[str, Any]:
        return resamples.value_and_share(values, found.total)

    total, residual = float(found.total.mean()), float(found.residual.mean())
    sides = {"reference": found.reference, "intervened": found.intervened}
    return {
        "total": resamples.difference(found.total).as_dict(),
        "corners": {
            **{name: float(side.value.mean()) for name, side in sides.items()},
            "intervened_from_reference": None,
            "reference_from_intervened": None,
        },
        "represented": None,
        "above": None,
        "interaction": None,
        "parts": {
            "latents": value_and_share(found.latents.sum(axis=1)),
            "bias": None,
            "error": value_and_share(found.difference(lambda side: side.error)),
            "left_out": value_and_share(found.difference(lambda side: side.left_out)),
        },
        "baseline": value_and_share(found.difference(lambda side: side.baseline))
        | {name: float(side.baseline.mean()) for name, side in sides.items()},
        "residual": residual,
        "residual_share": residual / total if total else None,
        "steps": found.steps,
        "cancellation": cancellation(found.latents, found.total, ranking, resamples),
    }


def rank_unshared(found: AttributionDifference) -> Ranking:
    """Return the contributions to the shift, positive in its direction."""
    return Ranking(found.direction * found.latents.mean(axis=0), abs(float(found.total.mean())))


class WithinModelChecker:
    """Effects of parts of the intervened model's activations, as shares of its behavior relative to its mean activation."""

    kinds: tuple[Kind, ...] = ("necessity",)
    parts = _PARTS

    def __init__(
        self, activations: PerModelActivations, claim: AttributionDifference, behavior: Behavior
    ) -> None:
        self._activations, self._attribution = activations, claim.intervened
        self._resamples = Resamples(activations.n_prompts, behavior.shift.confidence, behavior.seed)
        self.n_prompts = activations.n_prompts

    @property
    def whole(self) -> Values:
        """The intervened model's behavior relative to its mean activation."""
        return self._attribution.effect

    def ratio(self, effect: Values) -> Estimate:
        """Return an effect as a share of the behavior, with its interval over prompts."""
        return self._resamples.ratio(effect, self.whole)

    def effects(self, kind: Kind, parts: Sequence[Part]) -> Iterator[Values]:
        """Yield what mean-ablating each part removes; only necessity is defined."""
        assert kind in self.kinds
        changed = self._activations.values_without(INTERVENED, parts)
        return (self._attribution.value - values for values in changed)

    def reconstruction_effect(self) -> dict[str, Estimate]:
        """Return the share lost without the reconstruction error."""
        return {"intervened": share(self, "necessity", Part(error=True))}


def check_unshared(
    activations: PerModelActivations,
    ranking: Ranking,
    found: AttributionDifference,
    claim: AttributionDifference,
    behavior: Behavior,
) -> BothEnds:
    """Check the named latents on the claim set: see `check_named`."""
    shares = WithinModelChecker(activations, claim, behavior)
    contribution = found.direction * claim.latents
    draws = draws_of(behavior, generated=False)
    return check_named(shares, activations, ranking, contribution, behavior, draws)


def unshared_findings(
    activations: PerModelActivations,
    unrelated: PerModelActivations,
    ranking: Ranking,
    claim: AttributionDifference,
    checked: BothEnds,
    behavior: Behavior,
) -> dict[str, Any]:
    """Return the content of causal.json; null where undefined."""
    n_latents = activations.view.n_latents
    part = Part(latent_mask(checked.along.named, n_latents))
    # Side effects on unrelated text of removing the latents from the intervened model.
    resamples = Resamples(unrelated.n_prompts, behavior.shift.confidence, behavior.seed)
    return {
        "of": "intervened",
        "unit": activations.unit,
        **findings(WithinModelChecker(activations, claim, behavior), n_latents, ranking, checked, behavior),
        "answers": None,
        "removal_cost": cost_as_dict(resamples, unrelated.compare_with_unchanged(part)),
        "steering": [],
    }
