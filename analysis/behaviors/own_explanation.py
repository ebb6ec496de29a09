"""Which latents carry a shift between two models that share no space, found on one half of the prompts, and what holds on the other.

Causal checks are made within the intervened model: what is left of its behavior when latents are brought to their mean there,

    necessity   [M_B(h_B) - M_B(h_B - part)] / [M_B(h_B) - M_B(mean_B)]

beside random latents of like frequency and the same norm. Sufficiency is undefined: what latents write into one model cannot be put
into the other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm

from crosscoder.behavior import Behavior

from .causal import PARTS, Compared, RandomParts, chosen
from .change import Part
from .explanation import Checked
from .own_attribution import Difference
from .own_reading import OwnReading
from .runs import INTERVENED
from .statistics import Estimate, Resamples, Values, sign_flip_test
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

    def compared(self, part: Part, draws: Sequence[Part | None]) -> Compared:
        """A part beside random ones; beside none of them where there are too few latents to draw from."""
        there = [] if None in draws else [draw for draw in draws if draw is not None]
        return Compared(
            self.share(part),
            tuple(self.share(draw).value for draw in tqdm(there, desc="random sets", leave=False)),
        )


def check_apart(
    reading: OwnReading, ranking: Sequence[int], found: Difference, claim: Difference, behavior: Behavior
) -> Checked:
    """Named latents, all together and one by one, beside random ones, as in `explanation.check`."""
    n_latents, confidence = reading.observer.n_latents, behavior.shift.confidence
    named = tuple(ranking[: behavior.checks.latents])
    checker, random = OwnChecker(reading, claim, behavior), RandomParts(reading, named, behavior.seed)
    part = Part(chosen(named, n_latents))
    draws = range(behavior.checks.draws)
    together = checker.compared(part, [random.like(named, reading.norm(part)) for _ in draws])
    alone = {latent: Part(chosen([latent], n_latents)) for latent in named}
    largest = max((reading.norm(own) for own in alone.values()), default=0.0)
    singles = [random.like([named[index % len(named)]], largest) for index in draws] if named else []
    null = checker.compared(part, singles).random
    single = {latent: Compared(checker.share(own), null) for latent, own in alone.items()}
    values = found.direction * claim.latents
    association = {
        latent: sign_flip_test(values[:, latent], confidence, behavior.seed).p_value
        if values[:, latent].mean() > 0
        else 1.0
        for latent in named
    }
    return Checked(
        named,
        {"necessity": together},
        {latent: {"necessity": one} for latent, one in single.items()},
        association,
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
    counts = sorted(
        {min(count, len(ranking)) for count in (*behavior.checks.counts, behavior.checks.latents)} - {0}
    )
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
                "necessity": checker.share(Part(chosen(ranking[:n], n_latents))).as_dict(),
                "sufficiency": None,
                "steering": None,
            }
            for n in tqdm(counts, desc="curve", leave=False)
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


def own_table(
    reading: OwnReading,
    ranking: Sequence[int],
    found: Difference,
    claim: Difference,
    checked: Checked,
    behavior: Behavior,
) -> pa.Table:
    """One row a latent, as in `attribute`; attributions within each model beside their difference."""
    n_latents, sizes = reading.observer.n_latents, reading.sizes()
    place = dict(zip(ranking, range(len(ranking)), strict=True))
    columns: dict[str, Any] = {
        "latent": np.arange(n_latents),
        "rank": [place.get(latent) for latent in range(n_latents)],
        "norm": sizes.norm.numpy(),
        "firings": sizes.firings.numpy(),
        "attribution_reference": claim.reference.latents.mean(axis=0),
        "attribution_intervened": claim.intervened.latents.mean(axis=0),
    }
    for name, one in (("find", found), ("held_out", claim)):
        columns[f"attribution_{name}"] = one.latents.mean(axis=0)
        columns[f"share_{name}"] = one.latents.mean(axis=0) / one.total.mean()
    resamples = Resamples(reading.n_prompts, checked.confidence, behavior.seed)
    shares = [resamples.ratio(claim.latents[:, latent], claim.total) for latent in range(n_latents)]
    columns["share_held_out_low"] = [share.low for share in shares]
    columns["share_held_out_high"] = [share.high for share in shares]
    columns["evidence"] = [
        checked.evidence(latent) if latent in checked.association else "observed"
        for latent in range(n_latents)
    ]
    return pa.table(columns)


def _cost(elsewhere: OwnReading, part: Part, behavior: Behavior) -> dict[str, Any]:
    """What taking a part out of the intervened model does to unrelated text."""
    resamples = Resamples(elsewhere.n_prompts, behavior.shift.confidence, behavior.seed)
    return told_cost(resamples, *elsewhere.beside_unchanged(part))
