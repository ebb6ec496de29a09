"""Which latents carry a shift between two models that share no space, found on one half of the prompts, and what holds on the other.

Causal checks are made within the intervened model: what is left of its behavior when latents are brought to their mean there,

    necessity   [M_B(h_B) - M_B(h_B - part)] / [M_B(h_B) - M_B(mean_B)]

beside random latents of like frequency and the same norm. Sufficiency is undefined: what latents write into one model cannot be put
into the other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from crosscoder.behavior import Behavior

from .causal import PARTS, Compared, RandomParts, along, association, chosen
from .change import Part
from .explanation import Checked, one_by_one
from .own_attribution import Difference
from .own_reading import OwnReading
from .runs import INTERVENED
from .statistics import Estimate, Resamples, Values
from .steering import told_cost

_PARTS = {name: part for name, part in PARTS.items() if name != "bias"}


def own_decomposition(found: Difference, confidence: float, seed: int) -> dict[str, Any]:
    """As `explanation.decomposition`, with null for what two models that share no space do not have."""
    resamples = Resamples(len(found.total), confidence, seed)

    def told(values: Values) -> dict[str, Any]:
        return {
            "value": resamples.mean(values).as_dict(),
            "share": resamples.ratio(values, found.total).as_dict(),
        }

    total, residual = float(found.total.mean()), float(found.of(lambda side: side.residual).mean())
    sides = {"reference": found.reference, "intervened": found.intervened}
    return {
        "total": resamples.mean(found.total).as_dict(),
        "corners": {
            **{name: float(side.value.mean()) for name, side in sides.items()},
            "intervened_from_reference": None,
            "reference_from_intervened": None,
        },
        "represented": None,
        "above": None,
        "interaction": None,
        "parts": {
            "latents": told(found.latents.sum(axis=1)),
            "bias": None,
            "error": told(found.of(lambda side: side.error)),
            "left_out": told(found.of(lambda side: side.left_out)),
        },
        "baseline": told(found.of(lambda side: side.baseline))
        | {name: float(side.baseline.mean()) for name, side in sides.items()},
        "residual": residual,
        "residual_share": residual / total if total else None,
        "steps": found.steps,
    }


def rank_apart(found: Difference) -> list[int]:
    """Latents that push the behavior the way it shifted, the strongest first."""
    pushing = found.direction * found.latents.mean(axis=0)
    order = np.argsort(-pushing, kind="stable")
    return [int(latent) for latent in order if pushing[latent] > 0]


class OwnChecker:
    """Shares of the intervened model's behavior, above its mean activation, that go with parts of its activations."""

    def __init__(self, reading: OwnReading, claim: Difference, behavior: Behavior) -> None:
        self._reading, self._own = reading, claim.intervened
        self._resamples = Resamples(reading.n_prompts, behavior.shift.confidence, behavior.seed)

    def share(self, part: Part) -> Estimate:
        """Of a part, brought to its mean."""
        changed = self._reading.values_from(
            INTERVENED, lambda index: self._reading.without(INTERVENED, index, part)
        )
        return self._resamples.ratio(self._own.value - changed, self._own.effect)

    def random(self, draws: Sequence[Part]) -> tuple[float, ...]:
        """Shares that go with random parts."""
        return tuple(self.share(draw).value for draw in tqdm(draws, desc="random sets", leave=False))

    def compared(self, part: Part, draws: Sequence[Part]) -> Compared:
        """A part beside random ones."""
        return Compared(self.share(part), self.random(draws))


def check_apart(
    reading: OwnReading, ranking: Sequence[int], found: Difference, claim: Difference, behavior: Behavior
) -> Checked:
    """Named latents, all together and one by one, beside random ones, as in `explanation.check`."""
    n_latents, confidence = reading.observer.n_latents, behavior.shift.confidence
    named = tuple(ranking[: behavior.checks.latents])
    checker, random = OwnChecker(reading, claim, behavior), RandomParts(reading, named, behavior.seed)
    part = Part(chosen(named, n_latents))
    n_draws = behavior.checks.draws
    together = checker.compared(part, random.draws([named] * n_draws, reading.norm(part)))
    alone = {latent: Part(chosen([latent], n_latents)) for latent in named}
    largest = max((reading.norm(own) for own in alone.values()), default=0.0)
    null = checker.random(random.draws(one_by_one(named, n_draws), largest))
    single = {latent: Compared(checker.share(own), null) for latent, own in alone.items()}
    associated = {
        latent: association(found.direction * claim.latents[:, latent], confidence, behavior.seed)
        for latent in named
    }
    return Checked(
        named,
        {"necessity": together},
        {latent: {"necessity": one} for latent, one in single.items()},
        associated,
        confidence,
    )


def own_findings(
    reading: OwnReading,
    elsewhere: OwnReading,
    ranking: Sequence[int],
    claim: Difference,
    checked: Checked,
    behavior: Behavior,
) -> dict[str, Any]:
    """As causal.json has them; null for what is undefined."""
    n_latents, confidence = reading.observer.n_latents, checked.confidence
    checker = OwnChecker(reading, claim, behavior)
    counts = (*behavior.checks.counts, behavior.checks.latents)
    everything = Part(torch.ones(n_latents, dtype=torch.bool))
    return {
        "of": "intervened",
        "named": list(checked.named),
        "level": checked.level,
        "confidence": confidence,
        "n_prompts": reading.n_prompts,
        "together": {"necessity": checked.together["necessity"].as_dict(confidence), "sufficiency": None},
        "latents": [
            {
                "latent": latent,
                "evidence": checked.evidence(latent),
                "association_p": checked.association[latent],
                "necessity": checked.single[latent]["necessity"].as_dict(confidence),
                "sufficiency": None,
            }
            for latent in checked.named
        ],
        "curve": [
            {
                "n": n,
                "necessity": checker.share(part).as_dict(),
                "sufficiency": None,
                "steering": None,
            }
            for n, part in along(ranking, counts, n_latents)
        ],
        "remainder": {
            name: {"necessity": checker.share(part).as_dict(), "sufficiency": None}
            for name, part in {"latents": everything, **_PARTS}.items()
        },
        "rebuilding": {"intervened": checker.share(Part(error=True)).as_dict()},
        "answers": None,
        "removal_cost": _cost(elsewhere, Part(chosen(checked.named, n_latents)), behavior),
        "steering": [],
    }


def _cost(elsewhere: OwnReading, part: Part, behavior: Behavior) -> dict[str, Any]:
    """What taking a part out of the intervened model does to unrelated text."""
    resamples = Resamples(elsewhere.n_prompts, behavior.shift.confidence, behavior.seed)
    return told_cost(resamples, *elsewhere.beside_unchanged(part))
