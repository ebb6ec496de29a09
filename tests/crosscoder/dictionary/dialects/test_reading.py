"""Dictionaries of other tools compute here what they compute there, and nothing about them is guessed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from crosscoder.config import BatchTopK
from crosscoder.config.dictionary_source import DictionarySource
from crosscoder.config.model_names import model_names
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.dialects.import_dictionary import Imported, import_dictionary
from crosscoder.errors import ConfigError
from tests.foreign_dictionaries import CASES, PAIR, Case, Expected


def imported(case: Case, place: Path, **other: Any) -> Imported:
    answers = dict(case.answers)
    if str(answers.get("normalization", "")).startswith("../"):
        answers["normalization"] = str(place / answers["normalization"])
    return import_dictionary(DictionarySource(source=str(place), **(answers | other)))


def assert_same(crosscoder: Crosscoder, expected: Expected) -> None:
    with torch.no_grad():
        codes = crosscoder.encode(expected.activations)
        rebuilt = crosscoder.decode(codes)
        sparse = crosscoder.encode_sparse(expected.activations).dense()
    assert torch.equal(codes > 0, expected.codes > 0)
    torch.testing.assert_close(
        codes, expected.codes, rtol=1e-4, atol=1e-4 * float(expected.codes.abs().max())
    )
    torch.testing.assert_close(sparse, codes, rtol=1e-5, atol=1e-5)
    assert isinstance(rebuilt, torch.Tensor)
    actual = expected.reconstruction
    torch.testing.assert_close(
        rebuilt.view_as(actual), actual, rtol=1e-4, atol=1e-4 * float(actual.abs().max())
    )


@pytest.mark.parametrize("name", CASES)
def test_codes_firings_and_reconstructions_are_those_of_the_tool(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    place, expected = case.write(tmp_path / "source")
    assert 0 < (expected.codes > 0).float().mean() < 1
    found = imported(case, place)
    assert found.provenance["imported"]["dialect"] == case.dialect
    if case.calibrate:
        assert isinstance(found.crosscoder.config.sparsity, BatchTopK)
        found.crosscoder.calibrate(expected.activations.flatten(1))
    assert_same(found.crosscoder, expected)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "models" in case.answers])
def test_models_come_in_the_order_that_is_given_and_in_none_other(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    place, expected = case.write(tmp_path / "source")
    without = {key: value for key, value in case.answers.items() if key != "models"}
    with pytest.raises(ConfigError, match=r"does not say which is which.*--models"):
        imported(Case(case.dialect, without), place)
    with pytest.raises(ConfigError, match="does not name each of the 2 models once"):
        imported(case, place, models=("reference", "reference"))
    swapped = imported(case, place, models=("intervened", "reference")).crosscoder
    assert swapped.config.model_names == model_names(2)
    if case.calibrate:
        swapped.calibrate(expected.activations.flip(1).flatten(1))
    in_our_order = Expected(expected.activations.flip(1), expected.codes, expected.reconstruction.flip(1))
    assert_same(swapped, in_our_order)
    straight = imported(case, place).crosscoder
    if case.calibrate:
        straight.calibrate(expected.activations.flatten(1))
    assert not torch.equal(
        straight.encode(in_our_order.activations), swapped.encode(in_our_order.activations)
    )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "reads" in case.answers])
def test_a_difference_has_the_sign_that_is_given(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    place, expected = case.write(tmp_path / "source")
    others = {key: value for key, value in case.answers.items() if key not in ("reads", "direction")}
    open_case = Case(case.dialect, others)
    with pytest.raises(ConfigError, match="does not say what it reads"):
        imported(open_case, place)
    with pytest.raises(ConfigError, match="does not say which difference"):
        imported(open_case, place, reads="difference")
    reversed_difference = imported(
        open_case, place, reads="difference", direction="reference-intervened"
    ).crosscoder
    assert reversed_difference.config.model_names == ("difference",)
    assert_same(
        reversed_difference, Expected(-expected.activations, expected.codes, -expected.reconstruction)
    )


@pytest.mark.parametrize("name", CASES)
def test_every_answer_is_needed_and_no_other_is_taken(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    place, _ = case.write(tmp_path / "source")
    for answer in case.answers:
        kept = {key: value for key, value in case.answers.items() if key != answer}
        with pytest.raises(ConfigError, match=f"--{answer}"):
            imported(Case(case.dialect, kept), place)
    useless = {
        "models": PAIR["models"],
        "reads": "pooled",
        "threshold": 0.5,
        "activation": "topk",
        "code_normalization": "SAE",
        "normalization": "none",
    }
    for answer, value in useless.items():
        if answer not in case.answers and not (answer == "threshold" and "uncalibrated" in case.answers):
            with pytest.raises(ConfigError, match=f"{answer}: has no effect"):
                imported(case, place, **{answer: value})
