"""Which latents carry a shift between two models that share no space, found on one half of the prompts, and what holds on the other.

Causal checks are made within the intervened model: what is left of its behavior when latents are brought to their mean there,

    necessity   [M_B(h_B) - M_B(h_B - part)] / [M_B(h_B) - M_B(mean_B)]

beside random latents of like frequency and the same norm. Sufficiency is undefined: what latents write into one model cannot be put
into the other.
"""

from collections.abc import Sequence
from typing import Any

from crosscoder.config.behavior import Behavior

from ..causal import PARTS, Kind, latent_mask
from ..change_decomposition import Part
from ..dose_response import cost_as_dict
from ..named_latents import Checked, check_named, findings, rank_by_contribution
from ..patching import INTERVENED
from ..prompt_statistics import Estimate, Resamples, Values
from .activations import PerModelActivations
from .attribution import AttributionDifference

_PARTS = {name: part for name, part in PARTS.items() if name != "bias"}


def unshared_decomposition(found: AttributionDifference, confidence: float, seed: int) -> dict[str, Any]:
    """As `explanation.decomposition`, with null for what two models that share no space do not have."""
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
    }


def rank_unshared(found: AttributionDifference) -> list[int]:
    """Latents that push the behavior the way it shifted, the strongest first."""
    return rank_by_contribution(found.direction * found.latents.mean(axis=0))


class WithinModelChecker:
    """Shares of the intervened model's behavior, above its mean activation, that go with parts of its activations."""

    kinds: tuple[Kind, ...] = ("necessity",)
    parts = _PARTS

    def __init__(
        self, activations: PerModelActivations, claim: AttributionDifference, behavior: Behavior
    ) -> None:
        self._activations, self._own = activations, claim.intervened
        self._resamples = Resamples(activations.n_prompts, behavior.shift.confidence, behavior.seed)
        self.n_prompts = activations.n_prompts

    def share(self, kind: Kind, part: Part) -> Estimate:
        """Of a part, brought to its mean; nothing but necessity is defined."""
        assert kind in self.kinds
        changed = self._activations.values_from(
            INTERVENED, lambda index: self._activations.without(INTERVENED, index, part)
        )
        return self._resamples.ratio(self._own.value - changed, self._own.effect)

    def reconstruction_effect(self) -> dict[str, Estimate]:
        """What is lost with what the dictionary does not rebuild."""
        return {"intervened": self.share("necessity", Part(error=True))}


def check_unshared(
    activations: PerModelActivations,
    ranking: Sequence[int],
    found: AttributionDifference,
    claim: AttributionDifference,
    behavior: Behavior,
) -> Checked:
    """The named latents on the prompts of the claim: see `check_named`."""
    shares = WithinModelChecker(activations, claim, behavior)
    contribution = found.direction * claim.latents
    return check_named(shares, activations, activations.view.n_latents, ranking, contribution, behavior)


def unshared_findings(
    activations: PerModelActivations,
    elsewhere: PerModelActivations,
    ranking: Sequence[int],
    claim: AttributionDifference,
    checked: Checked,
    behavior: Behavior,
) -> dict[str, Any]:
    """As causal.json has them; null for what is undefined."""
    n_latents = activations.view.n_latents
    part = Part(latent_mask(checked.named, n_latents))
    # What taking it out of the intervened model does to unrelated text.
    resamples = Resamples(elsewhere.n_prompts, behavior.shift.confidence, behavior.seed)
    return {
        "of": "intervened",
        **findings(WithinModelChecker(activations, claim, behavior), n_latents, ranking, checked, behavior),
        "answers": None,
        "removal_cost": cost_as_dict(resamples, elsewhere.compare_with_unchanged(part)),
        "steering": [],
    }
