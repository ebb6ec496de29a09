"""Causal checks of the latents at the ends of a ranking, together and singly, compared with random latents of the same norm.

The set is claimed first, single latents second:

    set             necessity and sufficiency together against random sets; Holm's procedure over the two
    single latents  necessity and sufficiency of each against the latents most like it, all at one norm; the procedure of Benjamini and
                    Hochberg over latents and checks, because they are a list: of those called causal, few are wrong. If the set passed
                    no check, its two tests count among them, so that a latent has to hold by itself. Latents that contributed less
                    than `MIN_SHARE` on the find set could not be claimed and are not tested, which leaves more power for the others.

Both ends are checked: the latents that carry the shift, and, with the sign reversed, those that push against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64
from tqdm.auto import tqdm

from crosscoder.config.behavior import Behavior

from .behavior_files import MIN_SHARE
from .causal import (
    CHECKS,
    Compared,
    Kind,
    Opposite,
    Shares,
    Shortage,
    association,
    checks_as_dict,
    compare,
    compared_with,
    curve,
    defined,
    passes,
    remainder,
    shortage,
    top_n_parts,
    without_interval,
)
from .change_decomposition import Part
from .multiple_testing import benjamini_hochberg, draws_for_benjamini_hochberg, draws_for_holm
from .prompt_statistics import Values
from .random_parts import PartNorms, RandomParts, latent_mask
from .ranking import Ranking

Evidence = Literal["observed", "associated", "causal"]

BRIEF_DRAWS = 99
"""Random sets for a check beside the main one; more if two checks need more at the confidence asked for."""


class Draws(NamedTuple):
    """How many random draws the checks use."""

    sets: int
    """Random sets for the named latents together."""

    against: int
    """Random sets for the latents against the shift together."""

    singles: int
    """Latents that single ones are compared with."""


def draws_of(behavior: Behavior, generated: bool) -> Draws:
    """Return the numbers of draws of a metric of logits, or of generated answers."""
    checks = behavior.checks
    if generated:
        return Draws(checks.answer_draws, checks.answer_draws, checks.answer_draws)
    return Draws(checks.draws, brief_draws(behavior), checks.latent_draws)


def brief_draws(behavior: Behavior) -> int:
    """Return the number of random sets for a check beside the main one."""
    enough = max(BRIEF_DRAWS, draws_for_holm(len(CHECKS), behavior.shift.confidence))
    return min(behavior.checks.draws, enough)


@dataclass(frozen=True)
class Checked:
    """The causal checks of the named latents at one end of a ranking."""

    named: tuple[int, ...]
    together: dict[Kind, Compared]
    single: dict[int, dict[Kind, Compared]]
    association: dict[int, float]
    """p-value of each latent's attribution on the claim set; 1 if it has the other sign."""

    confidence: float

    n_tests: int = 0
    """Number of tests that those of the single latents are corrected for; 0 if none is made."""

    @property
    def set_passed(self) -> bool | None:
        """Whether the named latents together pass a check; None if none is made."""
        return passes(self.together, self.confidence)

    def evidence(self, latent: int) -> Evidence:
        """Return the level of evidence of one latent."""
        associated = self.association[latent] <= (1 - self.confidence) / len(self.named)
        if not associated:
            return "observed"
        return "causal" if passes(self.single[latent], self.confidence) else "associated"

    @property
    def level(self) -> Evidence:
        """The level of evidence of all named latents together."""
        if self.set_passed:
            return "causal"
        levels = {self.evidence(latent) for latent in self.named}
        return "associated" if levels & {"associated", "causal"} else "observed"


class BothEnds(NamedTuple):
    """The causal checks at both ends of a ranking."""

    along: Checked
    against: Checked
    draws: Draws
    n_alive: int
    """Number of latents that could be drawn."""

    norm: float
    """Norm at which single latents are compared."""


class _Bank:
    """The effects of single latents, all at one norm: the named ones, and the latents most like them."""

    def __init__(
        self, shares: Shares, random: RandomParts, named: Sequence[int], norm: float, n_others: int
    ) -> None:
        self.n_latents = random.n_latents
        parts = {latent: random.scaled_to([latent], norm) for latent in random.alike(named, n_others + 1)}
        self._parts = {latent: part for latent, part in parts.items() if part is not None}
        self._shares = shares
        self._effects: dict[Kind, dict[int, Values]] = {}

    @property
    def n_others(self) -> int:
        """Least number of latents that one is compared with."""
        return max(0, len(self._parts) - 1)

    def effects(self, kind: Kind) -> dict[int, Values]:
        """Return the effect of every latent of the bank; measured on first use."""
        if kind not in self._effects:
            effects = self._shares.effects(kind, list(self._parts.values()))
            listed = tqdm(effects, desc=f"single latents, {kind}", total=len(self._parts), leave=False)
            self._effects[kind] = dict(zip(self._parts, listed, strict=True))
        return self._effects[kind]


class _End(NamedTuple):
    """One end of a ranking; everything in it is positive in its direction."""

    shares: Shares
    sign: int
    """1 for the latents that carry the shift, -1 for those against it."""

    named: tuple[int, ...]
    found: Float64[np.ndarray, " latent"]
    """Contributions on the find set."""

    tested: frozenset[int]
    """The named latents that are checked singly."""

    contribution: Float64[np.ndarray, "prompt latent"] | None
    """Attributions on the claim set."""

    n_sets: int


def check_named(
    shares: Shares,
    activations: PartNorms,
    ranking: Ranking,
    contribution: Float64[np.ndarray, "prompt latent"] | None,
    behavior: Behavior,
    draws: Draws,
) -> BothEnds:
    """Check the latents at both ends of a ranking, together and singly, against random latents.

    Args:
        contribution: Attributions on the claim set, positive in the direction of the shift on the find set. Without them (None), the
            association of a latent is determined by its checks.
    """
    random, n_named = RandomParts(activations, behavior.seed), behavior.checks.latents
    ends = [
        _End(
            shares if sign > 0 else Opposite(shares),
            sign,
            tuple(latents[:n_named]),
            sign * ranking.contribution,
            frozenset(np.flatnonzero(sign * ranking.contribution >= MIN_SHARE * ranking.shift).tolist()),
            None if contribution is None else sign * contribution,
            n_sets,
        )
        for latents, sign, n_sets in ((ranking.along, 1, draws.sets), (ranking.against, -1, draws.against))
    ]
    named = [latent for end in ends for latent in end.named]
    norms = [activations.norm(Part(latent_mask([latent], random.n_latents))) for latent in named]
    norm = float(np.median([norm for norm in norms if norm > 0] or [0.0]))
    bank = _Bank(shares, random, named if norm > 0 else [], norm, draws.singles)
    along, against = (_check_end(end, activations, random, bank, behavior) for end in ends)
    return BothEnds(along, against, draws, len(random.alive), norm)


def check_set(
    shares: Shares,
    activations: PartNorms,
    random: RandomParts,
    named: Sequence[int],
    found: Float64[np.ndarray, " latent"],
    n_draws: int,
    confidence: float,
) -> dict[Kind, Compared]:
    """Check latents together against up to `n_draws` random sets; not made without latents.

    Args:
        found: Contributions on the find set, positive for the latents.
    """
    part = Part(latent_mask(named, random.n_latents))
    sets = random.sets(named, found, activations.norm(part), n_draws)
    return compare(shares, part, sets, confidence)


def _check_end(
    end: _End, activations: PartNorms, random: RandomParts, bank: _Bank, behavior: Behavior
) -> Checked:
    confidence, named = behavior.shift.confidence, end.named
    together = check_set(end.shares, activations, random, named, end.found, end.n_sets, confidence)
    checked = Checked(named, together, {}, {}, confidence)
    made = [p_value for check in together.values() if (p_value := check.tested_p) is not None]
    single, n_tests = _check_singles(end, bank, [] if checked.set_passed else made, confidence)
    associated = {
        latent: association(end.contribution[:, latent])
        if end.contribution is not None
        else (0.0 if any(check.estimate.low > 0 for check in single[latent].values()) else 1.0)
        for latent in named
    }
    return replace(checked, single=single, association=associated, n_tests=n_tests)


def _check_singles(
    end: _End, bank: _Bank, extra: Sequence[float], confidence: float
) -> tuple[dict[int, dict[Kind, Compared]], int]:
    """Return the checks of single latents, and the number of tests that they are corrected for: themselves, and those of `extra`.

    They are made if a latent that alone carries the shift could pass, with both its checks as good as can be.
    """
    shares, named = end.shares, end.named
    kinds = defined(shares, CHECKS)
    n_tests = len(end.tested.intersection(named)) * len(kinds) + len(extra)
    needed = draws_for_benjamini_hochberg(n_tests, len(kinds), confidence)
    missing = shortage(bank.n_others, needed, shares.n_prompts)
    found: dict[int, dict[Kind, Compared]] = {latent: {} for latent in named}
    for kind in kinds:
        own = shares.effects(kind, [Part(latent_mask([latent], bank.n_latents)) for latent in named])
        for latent, effect in zip(named, own, strict=True):
            estimate = shares.ratio(effect)
            too_small = None if latent in end.tested else Shortage("share")
            lacks = too_small or missing or without_interval(estimate)
            if lacks is not None:
                found[latent][kind] = Compared(estimate, shortage=lacks)
                continue
            effects = {other: end.sign * values for other, values in bank.effects(kind).items()}
            # A latent that does not fire on these prompts changes nothing at any norm.
            at_norm = effects.pop(latent, np.zeros_like(effect))
            found[latent][kind] = compared_with(
                shares, estimate, at_norm, list(effects.values()), confidence, shares.ratio(at_norm).value
            )
    tests: dict[tuple[int, Kind], float] = {
        (latent, kind): p_value
        for latent, checks in found.items()
        for kind, check in checks.items()
        if (p_value := check.tested_p) is not None
    }
    if not tests:
        return found, 0
    p_values = [*tests.values(), *extra]
    adjusted = benjamini_hochberg(np.array(p_values, dtype=np.float64)).tolist()
    for (latent, kind), p_value in zip(tests, adjusted, strict=False):
        found[latent][kind] = replace(found[latent][kind], p_adjusted=p_value)
    return found, len(p_values)


def findings(
    shares: Shares, n_latents: int, ranking: Ranking, checked: BothEnds, behavior: Behavior
) -> dict[str, Any]:
    """Return the checks for causal.json, without answers, costs and steering; null where a check is undefined."""
    along = checked.along
    counts = (*behavior.checks.counts, behavior.checks.latents)
    return {
        **_end_as_dict(along),
        "confidence": along.confidence,
        "n_prompts": shares.n_prompts,
        "random": {
            "set": "one latent like each named one, any that fires on the claim prompts, scaled to the norm of the named latents",
            "single": "the latents most like the named ones, each scaled to the same norm",
            "alike": "firing frequency and norm",
            "draws": checked.draws.sets,
            "draws_against": checked.draws.against,
            "latents": checked.draws.singles,
            "norm": checked.norm,
            "pool": checked.n_alive,
        },
        "against": _end_as_dict(checked.against) | {"sign": -1},
        "curve": curve(shares, top_n_parts(ranking.along, counts, n_latents)),
        "remainder": remainder(shares, n_latents),
        "rebuilding": {side: found.as_dict() for side, found in shares.reconstruction_effect().items()},
    }


def _end_as_dict(checked: Checked) -> dict[str, Any]:
    confidence = checked.confidence
    n_single = sum(check.made for checks in checked.single.values() for check in checks.values())
    return {
        "named": list(checked.named),
        "level": checked.level,
        "order": ["set", "single latents"],
        "set_passed": checked.set_passed,
        "corrections": {
            "set": {
                "method": "Holm",
                "tests": sum(check.made for check in checked.together.values()),
            },
            "single": {
                "method": "Benjamini-Hochberg",
                "tests": checked.n_tests,
                "with_set": checked.n_tests > n_single,
            },
        },
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
    }
