"""What holds of the latents that a ranking names: all together and one by one, each beside random ones of like size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from tqdm.auto import tqdm

from crosscoder.config.behavior import Behavior

from .causal import (
    Compared,
    Kind,
    PartNorms,
    RandomParts,
    Shares,
    association,
    checks_as_dict,
    compare,
    curve,
    latent_mask,
    random_shares,
    remainder,
    top_n_parts,
)
from .change_decomposition import Part

Evidence = Literal["observed", "associated", "causal"]


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


def rank_by_contribution(contribution: Float64[np.ndarray, " latent"]) -> list[int]:
    """Latents that push a behavior the way it shifted, the strongest first."""
    order = np.argsort(-contribution, kind="stable")
    return order[contribution[order] > 0].tolist()


def check_named(
    shares: Shares,
    activations: PartNorms,
    n_latents: int,
    ranking: Sequence[int],
    contribution: Float64[np.ndarray, "prompt latent"] | None,
    behavior: Behavior,
) -> Checked:
    """Named latents, all together and one by one, beside random ones.

    One by one they share one set of random latents, of the norm of the largest of them: a control that is too strict for the others,
    rather than one for each.

    Args:
        contribution: Attributions on the prompts of the claim, positive where they go the way of the shift that latents were found with.
            None: there are none, and the checks themselves say whether anything goes with a latent.
    """
    settings, confidence = behavior.checks, behavior.shift.confidence
    named = tuple(ranking[: settings.latents])
    part = Part(latent_mask(named, n_latents))
    random = RandomParts(activations, named, behavior.seed)
    draws = random.draws([named] * settings.draws, activations.norm(part))
    together = compare(shares, part, random_shares(shares, draws, "random sets"))
    alone = {latent: Part(latent_mask([latent], n_latents)) for latent in named}
    largest = max((activations.norm(own) for own in alone.values()), default=0.0)
    singles = random_shares(
        shares, random.draws(_one_by_one(named, settings.draws), largest), "random latents"
    )
    single = {
        latent: compare(shares, own, singles)
        for latent, own in tqdm(alone.items(), desc="one by one", leave=False)
    }
    associated = {
        latent: association(contribution[:, latent], confidence, behavior.seed)
        if contribution is not None
        else (0.0 if any(check.estimate.low > 0 for check in single[latent].values()) else 1.0)
        for latent in named
    }
    return Checked(named, together, single, associated, confidence)


def _one_by_one(named: Sequence[int], n_draws: int) -> list[list[int]]:
    """What random single latents are like: each of the named ones, in turn."""
    return [[named[index % len(named)]] for index in range(n_draws)] if named else []


def findings(
    shares: Shares, n_latents: int, ranking: Sequence[int], checked: Checked, behavior: Behavior
) -> dict[str, Any]:
    """The checks as causal.json has them, without answers, costs and steering; null for a check that is undefined."""
    confidence = checked.confidence
    counts = (*behavior.checks.counts, behavior.checks.latents)
    return {
        "named": list(checked.named),
        "level": checked.level,
        "confidence": confidence,
        "n_prompts": shares.n_prompts,
        "together": checks_as_dict(checked.together, confidence),
        "latents": [
            {
                "latent": latent,
                "evidence": checked.evidence(latent),
                "association_p": checked.association[latent],
                **checks_as_dict(checked.single[latent], confidence),
            }
            for latent in checked.named
        ],
        "curve": curve(shares, top_n_parts(ranking, counts, n_latents)),
        "remainder": remainder(shares, n_latents),
        "rebuilding": {side: one.as_dict() for side, one in shares.reconstruction_effect().items()},
    }
