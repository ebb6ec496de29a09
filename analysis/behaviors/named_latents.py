"""Causal checks of the top latents of a ranking, together and singly, compared with random latents of the same norm."""

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
    """The causal checks of the named latents."""

    named: tuple[int, ...]
    together: dict[Kind, Compared]
    single: dict[int, dict[Kind, Compared]]
    association: dict[int, float]
    """p-value of each latent's attribution on the claim set; 1 if it has the opposite sign of the shift."""

    confidence: float

    def evidence(self, latent: int) -> Evidence:
        """Return the level of evidence of one latent."""
        associated = self.association[latent] <= (1 - self.confidence) / len(self.named)
        if not associated:
            return "observed"
        passed = any(check.passed(self.confidence) for check in self.single[latent].values())
        return "causal" if passed else "associated"

    @property
    def level(self) -> Evidence:
        """The level of evidence of all named latents together."""
        if any(check.passed(self.confidence) for check in self.together.values()):
            return "causal"
        levels = {self.evidence(latent) for latent in self.named}
        return "associated" if levels & {"associated", "causal"} else "observed"


def rank_by_contribution(contribution: Float64[np.ndarray, " latent"]) -> list[int]:
    """Return the latents with a positive contribution to the shift, largest first."""
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
    """Check the top latents of a ranking, together and singly, against random latents.

    Single latents share one set of random latents with the norm of the largest: a stricter control for the others than one set for each.

    Args:
        contribution: Attributions on the claim set, positive in the direction of the shift on the find set. Without them (None), the
            association of a latent is determined by its checks.
    """
    settings, confidence = behavior.checks, behavior.shift.confidence
    named = tuple(ranking[: settings.latents])
    part = Part(latent_mask(named, n_latents))
    random = RandomParts(activations, named, behavior.seed)
    draws = random.draws([named] * settings.draws, activations.norm(part))
    together = compare(shares, part, random_shares(shares, draws, "random sets"))
    parts = {latent: Part(latent_mask([latent], n_latents)) for latent in named}
    largest = max((activations.norm(single_part) for single_part in parts.values()), default=0.0)
    random_singles = random_shares(
        shares, random.draws(_single_patterns(named, settings.draws), largest), "random latents"
    )
    single = {
        latent: compare(shares, single_part, random_singles)
        for latent, single_part in tqdm(parts.items(), desc="single latents", leave=False)
    }
    associated = {
        latent: association(contribution[:, latent], confidence, behavior.seed)
        if contribution is not None
        else (0.0 if any(check.estimate.low > 0 for check in single[latent].values()) else 1.0)
        for latent in named
    }
    return Checked(named, together, single, associated, confidence)


def _single_patterns(named: Sequence[int], n_draws: int) -> list[list[int]]:
    """Return the patterns of the random single latents: each named latent in turn."""
    return [[named[index % len(named)]] for index in range(n_draws)] if named else []


def findings(
    shares: Shares, n_latents: int, ranking: Sequence[int], checked: Checked, behavior: Behavior
) -> dict[str, Any]:
    """Return the checks for causal.json, without answers, costs and steering; null where a check is undefined."""
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
        "rebuilding": {side: share.as_dict() for side, share in shares.reconstruction_effect().items()},
    }
