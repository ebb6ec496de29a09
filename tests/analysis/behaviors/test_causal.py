"""Causal checks on a network with planted mediation: latents that carry the shift pass, others fail."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from analysis.behaviors.activations import PromptActivations
from analysis.behaviors.attribution import measure_corners
from analysis.behaviors.causal import (
    Checker,
    Compared,
    RandomParts,
    compare,
    curve,
    latent_mask,
    random_shares,
    remainder,
    top_n_parts,
)
from analysis.behaviors.change_decomposition import Part
from analysis.behaviors.logit_metrics import NextTokenLogOdds
from analysis.behaviors.measurement import LogitMeasurement
from analysis.behaviors.prompt_statistics import Estimate
from analysis.behaviors.prompts import Prompt
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
    prompts = [Prompt(str(i), generator.integers(7, 30, size=4 + i)) for i in range(8)]
    return LogitMeasurement(
        PromptActivations.from_rows(pair, view, metric.rows(prompts), TokenPolicy()), metric
    )


@pytest.fixture
def checker(measured: LogitMeasurement) -> Checker:
    return Checker(measured, measure_corners(measured), 0.95, 0)


@pytest.mark.parametrize("kind", ["necessity", "sufficiency", "steering"])
@pytest.mark.parametrize(("latents", "share"), [([0], 0.3), ([1], 0.2), ([0, 1], 0.5), ([2], 0.0)])
def test_latents_carry_their_planted_shares(
    checker: Checker, kind: str, latents: list[int], share: float
) -> None:
    found = checker.share(kind, Part(latent_mask(latents, 4)))  # pyright: ignore[reportArgumentType]
    assert found.value == pytest.approx(share, abs=1e-4)


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


def test_random_latents_have_the_norm_and_exclude_the_named(measured: LogitMeasurement) -> None:
    activations = measured.activations
    random = RandomParts(activations, [0], 0)
    drawn = random.like([0], 0.125)
    assert drawn is not None and drawn.latents is not None
    assert drawn.latents.tolist() == [False, True, False, False]
    assert activations.norm(drawn) == pytest.approx(0.125)
    assert random.like([0, 0], 1.0) is None


def test_a_claim_beats_chance_only_if_no_draw_reaches_it(
    measured: LogitMeasurement, checker: Checker
) -> None:
    activations = measured.activations
    part, norm = Part(latent_mask([0], 4)), activations.norm(Part(latent_mask([0], 4)))
    drawn = RandomParts(activations, [0], 0).like([0], norm)
    assert drawn is not None
    # The only other live latent is a planted one in another direction, which at this norm carries far more.
    null = random_shares(checker, [drawn] * 20, "draws")
    assert not compare(checker, part, null)["necessity"].passed(0.95)
    nothing = random_shares(checker, [Part(latent_mask([2], 4))] * 20, "draws")
    found = compare(checker, part, nothing)
    assert found["necessity"].passed(0.95) and found["necessity"].p_value == pytest.approx(1 / 21)


@pytest.mark.parametrize(
    ("estimate", "random", "passed"),
    [
        (Estimate(0.5, 0.4, 0.6), (0.1,) * 20, True),
        (Estimate(0.5, 0.4, 0.6), (0.1,) * 19 + (0.5,), False),
        (Estimate(0.5, -0.1, 0.6), (0.1,) * 20, False),
        (Estimate(0.004, 0.003, 0.005), (0.0,) * 20, False),
        (Estimate(0.5, 0.4, 0.6), (0.1,) * 3, False),
        (Estimate(0.5, 0.4, 0.6), (), False),
        (Estimate(0.5, np.nan, np.nan), (0.1,) * 20, False),
    ],
)
def test_when_a_check_is_passed(estimate: Estimate, random: tuple[float, ...], passed: bool) -> None:
    assert Compared(estimate, random).passed(0.95) is passed
