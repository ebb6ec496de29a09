from dataclasses import replace

import pytest
import torch
from torch import Tensor

from analysis.latents.mean_difference import (
    EARLY,
    LISTED,
    DifferenceAccumulator,
    DifferenceMoments,
    describe_difference,
)
from analysis.latents.readable_lists import null_lists
from crosscoder.activations.batch import ActivationBatch
from crosscoder.planted import PlantedPair

from .matrix_reader import MatrixReader

D = 48


TOKENS = ["a", "b", "c", "d"]


def reader(width: int) -> MatrixReader:
    """Four tokens, along the first four axes."""
    return MatrixReader(torch.eye(width)[:4])


def moments_of(values: Tensor, size: int = 100) -> DifferenceMoments:
    accumulator = DifferenceAccumulator((values.shape[1] // 2,) * 2)
    for rows in torch.arange(len(values)).split(size):
        accumulator.update(ActivationBatch(values[rows], rows // 50, rows % 50))
    return accumulator.result()


def test_moments_are_those_of_all_tokens() -> None:
    values = PlantedPair().sample(1230, seed=1)
    difference = (values[:, D:] - values[:, :D]).double()
    found = moments_of(values)
    early = torch.arange(1230) % 50 < EARLY
    torch.testing.assert_close(found.mean, difference.mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.early_mean, difference[early].mean(0), atol=1e-6, rtol=1e-5)
    some = difference[::4]
    torch.testing.assert_close(found.second, some.T @ some / len(some), atol=1e-5, rtol=1e-4)
    assert found.square == pytest.approx(float(difference.square().sum(1).mean()))
    assert (found.n_tokens, found.n_early) == (1230, int(early.sum()))
    torch.testing.assert_close(moments_of(values, size=7).second, found.second, atol=1e-5, rtol=1e-4)


def test_a_planted_shift_is_named_with_its_share_and_its_token() -> None:
    """All tokens are shifted along axis 2, and a third of them also along axis 1, by twice as much."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(3000, 16, generator=generator)
    intervened = reference.clone()
    intervened[:, 2] += 3
    intervened[torch.rand(3000, generator=generator) < 1 / 3, 1] += 6
    found = describe_difference(
        moments_of(torch.cat([reference, intervened], dim=1)), reader(16), TOKENS, None, 0.05
    )
    by_name = {entry["name"]: entry for entry in found}
    # E|δ|² = 9 + 12; the mean is (2, 3), the variance along axis 1 is 8.
    assert by_name["mean"]["share"] == pytest.approx(13 / 21, abs=0.02)
    assert by_name["mean"]["top"][:2] == ["c", "b"]
    assert by_name["component 1"]["share"] == pytest.approx(8 / 21, abs=0.04)
    assert by_name["component 1"]["top"][0] == "b"
    assert by_name["component 2"]["share"] == pytest.approx(0, abs=5e-3)
    assert by_name["mean"]["share"] + by_name["component 1"]["share"] == pytest.approx(1, abs=0.05)


def test_a_difference_along_tokens_reads_as_tokens_and_one_along_others_does_not() -> None:
    """A vocabulary in families of eight; the models differ along one family, and along noise."""
    generator = torch.Generator().manual_seed(0)
    families = torch.randn(40, 32, generator=generator)
    rows = families.repeat_interleave(8, dim=0) + 0.3 * torch.randn(320, 32, generator=generator)
    through = MatrixReader(rows)
    null = null_lists(through, torch.randn(200, 32, generator=generator), 1, LISTED, seed=0)
    vocabulary = [f"family {token // 8}" for token in range(320)]
    reference = torch.randn(600, 32, generator=generator)
    for direction, reads in ((families[5], True), (torch.randn(32, generator=generator), False)):
        moments = moments_of(torch.cat([reference, reference + direction], dim=1))
        mean = describe_difference(moments, through, vocabulary, null, 0.05)[0]
        assert mean["readable"]["top"] is reads
        assert not reads or set(mean["top"]) == {"family 5"}
        unjudged = describe_difference(moments, through, vocabulary, None, 0.05)[0]
        assert unjudged["readable"] == {"top": False, "bottom": False}


def test_identical_models_have_no_directions() -> None:
    values = torch.randn(100, 8).repeat(1, 2)
    assert describe_difference(moments_of(values), reader(8), TOKENS, None, 0.05) == []


def test_without_models_there_are_shares_and_no_tokens() -> None:
    found = describe_difference(moments_of(PlantedPair().sample(500)), None, [], None, 0.05)
    assert len(found) == 5
    assert all(entry["top"] == entry["bottom"] == [] for entry in found)
    assert all(0 <= entry["share"] <= 1 for entry in found)


def test_components_explain_the_share_of_the_spectrum() -> None:
    """Numbers of components that exceed the number of directions are omitted."""
    moments = DifferenceMoments(
        n_tokens=10,
        n_early=0,
        mean=torch.zeros(6).double(),
        early_mean=torch.zeros(6).double(),
        square=10.0,
        second=torch.diag(torch.tensor([1.0, 4.0, 2.0, 1.0, 1.0, 1.0])).double(),
    )
    assert moments.explained_by_components() == pytest.approx({1: 0.4, 4: 0.8})
    nothing = replace(moments, second=torch.zeros(6, 6).double())
    assert nothing.explained_by_components() == {}


def test_a_constant_difference_has_no_variance() -> None:
    mean = torch.arange(6).double()
    moments = DifferenceMoments(10, 0, mean, mean, float(mean.square().sum()), torch.outer(mean, mean))
    assert moments.explained_by_components() == {}
