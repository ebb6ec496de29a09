"""Causal checks on a network with planted mediation: latents that carry the shift pass, others fail."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from analysis.behaviors.activations import PromptActivations
from analysis.behaviors.attribution import measure_corners
from analysis.behaviors.causal import (
    Checker,
    Compared,
    Opposite,
    compare,
    compared_with,
    curve,
    passes,
    remainder,
    share,
    top_n_parts,
)
from analysis.behaviors.change_decomposition import Part
from analysis.behaviors.logit_metrics import NextTokenLogOdds
from analysis.behaviors.measurement import LogitMeasurement, values_of_each
from analysis.behaviors.patching import INTERVENED, REFERENCE, PatchedRun
from analysis.behaviors.prompt_statistics import Estimate
from analysis.behaviors.prompts import Prompt
from analysis.behaviors.random_parts import RandomParts, latent_mask
from analysis.latents.dictionary_view import view_of
from crosscoder.config import TokenPolicy
from tests.planted_network import NO, YES, planted_dictionary, planted_pair
from tests.tiny_pairs import save_llama


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> LogitMeasurement:
    """Half of the shift through two latents (0.3 and 0.2), a quarter through the error, a quarter above."""
    folder = tmp_path_factory.mktemp("models")
    pair = planted_pair(AutoTokenizer.from_pretrained(save_llama(folder / "llama")), first=0.3, second=0.2)
    metric = NextTokenLogOdds(torch.tensor([YES]), torch.tensor([NO]))
    view = view_of(planted_dictionary(0.3, 0.2), pair.d_models, "paired")
    generator = np.random.default_rng(0)
    prompts = [Prompt(str(i), generator.integers(7, 30, size=4 + i)) for i in range(16)]
    return LogitMeasurement(
        PromptActivations.from_rows(pair, view, metric.rows(prompts), TokenPolicy()), metric
    )


@pytest.fixture
def checker(measured: LogitMeasurement) -> Checker:
    return Checker(measured, measure_corners(measured), 0.95, 0)


@pytest.mark.parametrize("kind", ["necessity", "sufficiency", "steering"])
@pytest.mark.parametrize(("latents", "planted"), [([0], 0.3), ([1], 0.2), ([0, 1], 0.5), ([2], 0.0)])
def test_latents_carry_their_planted_shares(
    checker: Checker, kind: str, latents: list[int], planted: float
) -> None:
    found = share(checker, kind, Part(latent_mask(latents, 4)))  # pyright: ignore[reportArgumentType]
    assert found.value == pytest.approx(planted, abs=1e-4)


def test_the_remainder_locates_the_rest(checker: Checker) -> None:
    found = remainder(checker, 4)
    shares = {name: kinds["necessity"]["value"] for name, kinds in found.items()}
    assert shares == pytest.approx({"latents": 0.5, "bias": 0.0, "error": 0.25, "left_out": 0.0}, abs=1e-4)


def test_the_curve_is_cumulative(checker: Checker) -> None:
    points = curve(checker, top_n_parts([0, 1], (1, 2, 500), 4))
    assert [point["n"] for point in points] == [1, 2]
    assert [point["necessity"]["value"] for point in points] == pytest.approx([0.3, 0.5], abs=1e-4)


def test_reconstruction_removes_the_effect_of_the_error(checker: Checker) -> None:
    """Without its error the intervened model loses the quarter that the error carries."""
    found = checker.reconstruction_effect()
    assert found["intervened"].value == pytest.approx(-0.25, abs=1e-4)
    assert found["reference"].value == pytest.approx(0.0, abs=1e-4)


def test_shares_against_the_shift_have_the_other_sign(checker: Checker) -> None:
    part = Part(latent_mask([0], 4))
    assert share(Opposite(checker), "necessity", part).value == pytest.approx(-0.3, abs=1e-4)
    assert Opposite(checker).reconstruction_effect()["intervened"].value == pytest.approx(-0.25, abs=1e-4)


def test_several_runs_in_one_forward_pass_equal_single_runs(measured: LogitMeasurement) -> None:
    runs = [
        PatchedRun(model, start, Part(latent_mask(latents, 4), scale=scale), sign)
        for model, start, sign in (
            (INTERVENED, INTERVENED, -1),
            (INTERVENED, REFERENCE, 1),
            (REFERENCE, REFERENCE, 1),
        )
        for latents, scale in (([0], 1.0), ([1], 2.0), ([0, 1], 0.5))
    ]
    together = list(values_of_each(measured, runs))
    assert len(together) == len(runs)
    for run, values in zip(runs, together, strict=True):
        np.testing.assert_allclose(values, measured.values(run), atol=1e-5)


def test_a_latent_that_another_one_matches_does_not_pass(
    measured: LogitMeasurement, checker: Checker
) -> None:
    part, norm = Part(latent_mask([0], 4)), measured.activations.norm(Part(latent_mask([0], 4)))
    drawn = RandomParts(measured.activations, 0).scaled_to([1], norm)
    assert drawn is not None
    # The only other live latent is a planted one in another direction, which at this norm carries far more.
    lost = compare(checker, part, [drawn] * 39, 0.95)
    assert passes(lost, 0.95) is False and len(lost["necessity"].random) == 19
    found = compare(checker, part, [Part(latent_mask([2], 4))] * 39, 0.95)
    assert found["necessity"].passed(0.95) and found["necessity"].p_value == pytest.approx(1 / 40)
    assert found["necessity"].p_adjusted == pytest.approx(2 / 40)


@pytest.mark.parametrize(
    ("estimate", "random", "passed"),
    [
        (Estimate(0.5, 0.4, 0.6), (0.1,) * 39, True),
        (Estimate(0.5, 0.4, 0.6), (0.1,) * 38 + (0.5,), False),
        (Estimate(0.5, -0.1, 0.6), (0.1,) * 39, False),
        (Estimate(0.004, 0.003, 0.005), (0.0,) * 39, False),
        # Random draws undo nearly as much: the interval of the excess contains 0.
        (Estimate(1.0, 0.93, 1.07), (0.95,) * 39, False),
    ],
)
def test_when_a_check_is_passed(estimate: Estimate, random: tuple[float, ...], passed: bool) -> None:
    low, high = estimate.value - estimate.low, estimate.high - estimate.value
    excess = estimate.value - float(np.mean(random))
    check = Compared(estimate, random, Estimate(excess, excess - low, excess + high))
    assert check.tested_p is not None
    assert (check.tested_p <= 0.025) is passed


class OfOne:
    """Shares of a shift of 1 on each of twenty prompts, with exact intervals."""

    kinds, parts, n_prompts, whole = ("necessity",), {}, 20, np.ones(20)

    def effects(self, kind: str, parts: list[Part]) -> object:
        raise AssertionError("nothing is run")

    def ratio(self, effect: np.ndarray) -> Estimate:
        return Estimate(float(effect.mean()), float(effect.mean()) - 0.01, float(effect.mean()) + 0.01)

    def reconstruction_effect(self) -> dict[str, Estimate]:
        return {}


def test_the_excess_is_over_the_mean_of_the_draws_and_uncertain_by_prompts_and_draws() -> None:
    shares = OfOne()
    estimate = shares.ratio(np.full(20, 0.5))
    same = compared_with(shares, estimate, np.full(20, 0.5), [np.full(20, 0.1)] * 40, 0.95)  # pyright: ignore[reportArgumentType]
    assert same.excess == pytest.approx((0.4, 0.39, 0.41))
    spread = [np.full(20, value) for value in np.linspace(-0.9, 1.1, 40)]
    wide = compared_with(shares, estimate, np.full(20, 0.5), spread, 0.95)  # pyright: ignore[reportArgumentType]
    assert wide.excess is not None and same.excess is not None
    assert wide.excess.value == pytest.approx(0.4) and wide.excess.low < same.excess.low - 0.1


def test_a_check_that_is_not_made_has_no_verdict(checker: Checker) -> None:
    entry = compare(checker, Part(latent_mask([0], 4)), [Part(latent_mask([2], 4))] * 38, 0.95)
    content = entry["necessity"].as_dict(0.95)
    assert content["made"] is False and content["passed"] is None and content["needs"] == {"draws": 39}
    assert passes(entry, 0.95) is None and passes({}, 0.95) is None
    assert content["value"] == pytest.approx(0.3, abs=1e-4)


def test_a_share_of_a_shift_that_may_be_0_is_not_checked(measured: LogitMeasurement) -> None:
    corners = measure_corners(measured)
    noise = np.random.default_rng(0).normal(0, 10, measured.n_prompts)
    unsure = replace(corners, intervened=corners.reference + noise - noise.mean() + 0.01)
    found = compare(
        Checker(measured, unsure, 0.95, 0), Part(latent_mask([0], 4)), [Part(latent_mask([2], 4))] * 39, 0.95
    )
    shortage = found["necessity"].shortage
    assert (
        shortage is not None and shortage.of == "shift" and found["necessity"].as_dict(0.95)["needs"] is None
    )
