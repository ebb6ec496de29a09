"""Causal checks of sets and of single latents: what carries the shift passes, what does not fails, and what cannot pass is not made."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from analysis.behaviors.causal import Compared, Shortage
from analysis.behaviors.named_latents import (
    BothEnds,
    Checked,
    Draws,
    brief_draws,
    check_named,
    draws_of,
    findings,
)
from analysis.behaviors.ranking import Ranking
from crosscoder.config.behavior import Behavior

from .made_up_shares import MadeUpShares, equal_latents

SEEDS = 50
TEN = {7: 0.8} | dict.fromkeys(range(20, 29), 0.03)
"""One latent that carries most of the shift, and nine that carry a little."""


def behavior(**checks: Any) -> Behavior:
    return Behavior.model_validate(
        {"name": "b", "prompts": ["a", "b", "c", "d"], "metric": {"kind": "perplexity"}, "checks": checks}
    )


def checked(shares: MadeUpShares, found: np.ndarray, claim: np.ndarray | None, **checks: Any) -> BothEnds:
    made = behavior(**checks)
    return check_named(shares, shares, Ranking(found), claim, made, draws_of(made, generated=False))


def planted(
    effects: dict[int, float], n_latents: int = 300, n_prompts: int = 24
) -> tuple[MadeUpShares, Any, Any]:
    """Return latents without effect, up to noise, but for those given."""
    generator = np.random.default_rng(1)
    claim = generator.normal(0, 0.002, (2, n_prompts, n_latents))
    for latent, effect in effects.items():
        claim[:, :, latent] += effect
    found = generator.normal(0, 0.002 / np.sqrt(n_prompts), n_latents)
    found[list(effects)] += list(effects.values())
    return MadeUpShares(claim, np.ones(n_latents)), found, claim.mean(axis=0)


def test_one_latent_that_carries_the_shift_passes_alone_and_its_set_passes() -> None:
    shares, found, claim = planted({7: 0.8})
    along = checked(shares, found, claim).along
    assert along.named[0] == 7 and len(along.named) == 10
    assert along.set_passed and along.level == "causal"
    assert [latent for latent in along.named if along.evidence(latent) == "causal"] == [7]
    necessity = along.together["necessity"]
    assert len(necessity.random) == 200 and necessity.p_value == pytest.approx(1 / 201)
    assert necessity.p_adjusted == pytest.approx(2 / 201)
    assert necessity.excess is not None and necessity.excess.value == pytest.approx(0.8, abs=0.05)
    single = along.single[7]["sufficiency"]
    # All other latents, those named among them. Only one contributed enough on the find set to be tested.
    assert len(single.random) == 299 and single.p_adjusted == pytest.approx(2 / 2 / 300)
    assert along.n_tests == 2 and along.single[along.named[1]]["necessity"].shortage == Shortage("share")


def test_what_cancels_is_named_at_both_ends() -> None:
    shares, found, claim = planted({7: 7.4, 8: -6.4})
    both = checked(shares, found, claim)
    assert both.along.named[0] == 7 and both.against.named[0] == 8
    assert both.along.evidence(7) == both.against.evidence(8) == "causal"
    assert both.against.set_passed and 8 not in both.along.named
    content = findings(shares, 300, Ranking(found), both, behavior(counts=[1]))
    assert (
        content["named"][0] == 7 and content["against"]["named"][0] == 8 and content["against"]["sign"] == -1
    )
    # Positive shares push against the shift.
    assert content["against"]["latents"][0]["necessity"]["value"] == pytest.approx(6.4, rel=0.01)


@pytest.fixture(scope="module")
def equals() -> list[Checked]:
    """Checks of equal latents. They are chosen by the noise of the find set, which the claim set does not share."""
    return [
        checked(*equal_latents(seed), draws=39, latent_draws=79, latents=3).along for seed in range(SEEDS)
    ]


def test_equal_latents_pass_no_more_often_than_the_level(equals: list[Checked]) -> None:
    """Though their mean effect is far above the least share that counts."""
    assert all(along.together["necessity"].estimate.low > 0.01 for along in equals)
    sets = sum(bool(along.set_passed) for along in equals)
    singles = sum(any(along.evidence(latent) == "causal" for latent in along.named) for along in equals)
    assert sets <= 0.06 * SEEDS and singles <= 0.06 * SEEDS


def test_p_values_of_equal_latents_are_uniform(equals: list[Checked]) -> None:
    """Rank p-values have ties only at their steps, which a random number breaks."""
    p_values, generator = [], np.random.default_rng(0)
    for seed, along in enumerate(equals):
        # One latent of a run: those of one run share their draws.
        for check in along.single[along.named[seed % 3]].values():
            assert check.p_value is not None
            p_values.append(check.p_value - generator.uniform() / (1 + len(check.random)))
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_a_check_without_the_draws_it_needs_is_not_made_and_says_how_many() -> None:
    shares, found, claim = planted(TEN)
    made = checked(shares, found, claim, draws=38, latent_draws=198)
    runs = shares.runs
    along = made.along
    assert along.set_passed is None and along.level == "associated" and along.evidence(7) == "associated"
    entry = findings(shares, 300, Ranking(found), made, behavior(counts=[1]))
    set_check, single = entry["together"]["necessity"], entry["latents"][0]["necessity"]
    for check, value, have, needs in ((set_check, 1.07, 38, 39), (single, 0.8, 198, 199)):
        assert check["made"] is False and check["passed"] is check["p_value"] is check["p_adjusted"] is None
        assert check["needs"] == {"draws": needs} and f"{have} different random draws" in check["why_not"]
        assert check["random"] == [] and check["value"] == pytest.approx(value, abs=0.05)
    assert runs == 2 * (2 + 20), "one run for each share, none for a control that decides nothing"
    assert checked(shares, found, claim, draws=39, latent_draws=199).along.set_passed


def test_a_check_on_too_few_latents_or_prompts_is_not_made() -> None:
    few = checked(*planted(TEN, n_latents=150))
    assert few.along.set_passed and few.along.single[7]["necessity"].shortage is not None
    assert few.along.single[7]["necessity"].shortage.needs == 199
    short = checked(*planted({7: 0.8}, n_prompts=11)).along
    shortage = short.together["necessity"].shortage
    assert shortage is not None and shortage.of == "prompts" and shortage.needs == 12
    assert short.set_passed is None and short.evidence(7) != "causal"


def test_without_the_set_a_latent_has_to_hold_by_itself() -> None:
    """The tests of the set then count among those that single latents are corrected for."""
    shares, found, claim = planted({7: 0.8})
    # The set's own effects cancel: 7 is offset by another of the named latents.
    found[8], found[7] = 0.5, 0.9
    claim_effects = shares._effects
    claim_effects[:, :, 8] -= 0.8
    along = checked(shares, found, claim).along
    assert {7, 8} <= set(along.named) and along.set_passed is False
    assert along.n_tests == 6 and along.single[7]["necessity"].p_adjusted == pytest.approx(6 / 2 / 300)
    assert along.evidence(7) == "causal"


def test_latents_that_do_not_fire_on_the_claim_prompts_are_named_and_not_checked() -> None:
    shares, found, claim = planted({})
    shares._norms[:] = 0
    along = checked(shares, found, claim).along
    assert len(along.named) == 10 and along.set_passed is None and along.n_tests == 0
    assert {check.made for checks in along.single.values() for check in checks.values()} == {False}


def test_without_a_contribution_nothing_is_named() -> None:
    shares, found, claim = planted({})
    both = checked(shares, np.zeros_like(found), claim)
    assert both.along.named == both.against.named == () and both.along.level == "observed"
    content = findings(shares, 300, Ranking(np.zeros_like(found)), both, behavior(counts=[1]))
    assert content["latents"] == [] and content["together"]["necessity"]["made"] is False


def test_lost_draws_end_early_and_cannot_pass() -> None:
    shares, found, claim = equal_latents(3)
    along = checked(shares, found, claim).along
    for check in along.together.values():
        assert check.p_value is not None
        assert (len(check.random) == 200) is (check.p_value <= 0.05)
        assert len(check.random) >= 19


def test_draws_follow_the_metric_and_the_confidence() -> None:
    made = behavior(draws=150, latent_draws=300, answer_draws=45)
    assert draws_of(made, generated=False) == Draws(150, 99, 300)
    assert draws_of(made, generated=True) == Draws(45, 45, 45)
    strict = made.model_copy(update={"shift": made.shift.model_copy(update={"confidence": 0.99})})
    assert brief_draws(strict) == 150
    assert brief_draws(behavior()) == 99


def test_a_check_that_is_not_corrected_has_no_verdict() -> None:
    shares, _, _ = planted({})
    estimate = shares.ratio(np.full(24, 0.5))
    assert Compared(estimate, (0.1,) * 200, estimate).passed(0.95) is None
