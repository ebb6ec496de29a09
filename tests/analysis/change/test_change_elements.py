import json
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity

from analysis.change.change_elements import ChangeDescription, describe_change
from analysis.change.leading_part import leading_part
from analysis.change.partition import PARTS
from analysis.latents.dictionary_view import DictionaryView, view_of
from analysis.latents.held_out_sums import HeldOut
from analysis.report.wording import say
from crosscoder.dictionary.views import View
from crosscoder.planted import PlantedPair
from crosscoder.planted.regimes import REGIMES
from tests.analysis.latents.test_statistics import READS, observer_on
from tests.analysis.readers import MemoryReader, collect

from .planted_changes import BURST_SHARE, SHARED, PlantedChange, planted, settings_of


def shares(description: ChangeDescription) -> dict[str, float]:
    return {name: description.record["parts"][name]["share"] for name in PARTS}


def noise_share(pair: PlantedChange, size: float = 0.03) -> float:
    one, other = pair.reader.values.double().chunk(2, dim=1)
    return 2 * one.shape[1] * size**2 / float((other - one).square().sum(dim=1).mean())


def assert_complete(description: ChangeDescription) -> None:
    """The parts add up to the whole, and the record is JSON."""
    assert sum(shares(description).values()) == pytest.approx(1, abs=1e-6)
    assert tuple(description.record["parts"]) == PARTS
    json.dumps(description.record, allow_nan=False)
    part = leading_part(description.record)
    assert say(part.template, **part.numbers).text


def test_an_offset_is_found_where_it_is_planted() -> None:
    pair = planted(offset=0.3)
    found = pair.described()
    assert_complete(found)
    assert found.record["largest"] == "offset"
    assert shares(found)["offset"] == pytest.approx(1 - noise_share(pair), abs=0.01)
    assert shares(found)["bias"] == pytest.approx(0, abs=1e-3)
    assert float(cosine_similarity(found.offset[0], pair.offset, dim=0)) > 0.999
    assert not found.record["map"]["established"] and not found.record["subspaces"]


@pytest.mark.parametrize("rank", [1, 4])
def test_a_map_is_found_where_it_is_planted(rank: int) -> None:
    pair = planted(rank=rank)
    found = pair.described()
    assert_complete(found)
    record = found.record["map"]
    assert (record["rank"], record["established"]) == (rank, True)
    assert found.map_read.shape == found.map_write.shape == (rank, 48)
    # What it reads is known only in the dimensions in which activations vary.
    reference = pair.reader.values[:, :48].double()
    varied = torch.linalg.svd(reference - reference.mean(dim=0), full_matrices=False).Vh[:SHARED]
    planted_read = torch.linalg.svd(pair.map_read @ varied.T @ varied, full_matrices=False).Vh
    assert float(torch.linalg.svdvals(found.map_read @ planted_read.T).min()) > 0.95
    assert float(torch.linalg.svdvals(found.map_write @ pair.map_write.T).min()) > 0.95
    # The mean of what it writes is no deviation from a mean, and stays with the latents.
    parts = shares(found)
    assert parts["map"] + parts["other_latents"] == pytest.approx(1 - noise_share(pair), abs=0.02)
    assert parts["other_latents"] < 0.04
    assert not found.record["offset"]["established"] and not found.record["subspaces"]


def test_bursts_are_a_subspace_and_nothing_else() -> None:
    pair = planted(bursts=True)
    found = pair.described()
    assert_complete(found)
    (subspace,) = found.record["subspaces"]
    assert subspace["dimension"] == 8
    assert subspace["token_share"] == pytest.approx(BURST_SHARE, abs=0.004)
    assert subspace["token_share_low"] < BURST_SHARE < subspace["token_share_high"]
    assert subspace["stability"] > 0.9
    assert subspace["share"] == shares(found)["subspaces"] == pytest.approx(1 - noise_share(pair), abs=0.03)
    assert subspace["members"] == found.members[0].tolist()
    assert set(subspace["members"]) == set(range(30, 46))
    assert not found.record["offset"]["established"] and not found.record["map"]["established"]
    assert found.record["latents"] == {"one_sided": 0, "two_sided": 0}


def test_examples_are_the_tokens_with_the_largest_change_in_the_subspace() -> None:
    pair = planted(bursts=True)
    (subspace,) = pair.described().record["subspaces"]
    one, other = pair.reader.values.double().chunk(2, dim=1)
    within = ((other - one) @ pair.basis.T).norm(dim=1)
    examples = subspace["examples"]
    assert len(examples) == len({example["document"] for example in examples}) == 8
    for example in examples:
        row = example["row"]
        assert int(pair.reader.document[row]) == example["document"]
        assert int(pair.reader.position[row]) == example["position"]
        assert float(within[row]) == pytest.approx(example["size"], rel=0.1)
        assert float(within[row]) > 1.8


def test_claimed_latents_are_parts_of_their_own() -> None:
    found = planted(new=6, lost=6).described()
    assert_complete(found)
    assert found.record["largest"] == "one_sided"
    assert found.record["latents"] == {"one_sided": 12, "two_sided": 0}
    assert not found.record["map"]["established"] and not found.record["offset"]["established"]
    turned = planted(rescaled=8).described()
    assert turned.record["largest"] == "two_sided"
    assert "as many latents" in turned.record["map"]["reason"]


def test_a_latent_that_no_other_training_found_is_no_part_of_its_own() -> None:
    pair = planted(new=6)
    labels = ["undetermined"] * len(pair.labels)
    reader = pair.reader
    found = describe_change(held_out(pair.view, reader), labels, labels, pair.others)
    assert found is not None
    assert_complete(found)
    assert shares(found)["one_sided"] == 0
    assert found.record["largest"] == "other_latents"


@pytest.mark.parametrize("noises", [(0.03, 0.03), (0.0, 0.2)])
def test_between_models_that_differ_by_noise_nothing_is_found(noises: tuple[float, float]) -> None:
    for seed in range(3):
        found = planted(seed=seed, noises=noises).described()
        assert_complete(found)
        assert not found.record["offset"]["established"]
        assert not found.record["map"]["established"]
        assert found.record["subspaces"] == []
        assert shares(found)["error"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    "regime",
    ["null_noise", "null_drift", "null_bursts", "null_heavy_tails", "null_rounding", "topic_offsets"],
)
def test_no_map_is_found_in_regimes_without_one(regime: str) -> None:
    pair = REGIMES[regime].make(0)
    view, reader = exact_view(pair, 8000)
    labels = ["shared"] * view.n_latents
    found = describe_change(held_out(view, reader), labels, labels, [])
    assert found is not None
    assert_complete(found)
    assert not found.record["map"]["established"]
    assert not found.record["offset"]["established"]


@pytest.mark.parametrize("rank", [1, 4])
def test_the_map_of_a_planted_regime_is_found(rank: int) -> None:
    view, reader = exact_view(REGIMES[f"low_rank_{rank}"].make(0), 8000)
    labels = ["shared"] * view.n_latents
    found = describe_change(held_out(view, reader), labels, labels, [])
    assert found is not None
    assert (found.record["map"]["rank"], found.record["map"]["established"]) == (rank, True)
    assert found.record["largest"] == "map"


def held_out(view: DictionaryView, reader: MemoryReader) -> HeldOut:
    return HeldOut(view, reader, reader.context(), settings_of())


def exact_view(pair: PlantedPair, n_tokens: int) -> tuple[DictionaryView, MemoryReader]:
    values, d_models = pair.sample(n_tokens, seed=1), pair.d_models
    return view_of(pair.dictionary(), d_models, "paired"), MemoryReader(
        values, d_models, pair.document_tokens
    )


def test_exchanging_the_models_changes_signs_and_no_share() -> None:
    changes = {"new": 4, "lost": 4, "rescaled": 2, "offset": 0.3, "rank": 4, "bursts": True}
    one, other = (planted(**changes, swapped=swapped).described() for swapped in (False, True))
    assert shares(one) == pytest.approx(shares(other), abs=1e-5)
    assert one.record["largest"] == other.record["largest"]
    torch.testing.assert_close(one.offset, -other.offset, atol=1e-6, rtol=0)
    for place, entry in enumerate(one.record["subspaces"]):
        assert entry["dimension"] == other.record["subspaces"][place]["dimension"]
        assert entry["members"] == other.record["subspaces"][place]["members"]


@pytest.mark.parametrize("reads", READS)
def test_without_claims_the_parts_are_those_of_the_dictionary(reads: View) -> None:
    """Any view, any weights: latents, bias and error as the statistics sum them."""
    values = PlantedPair().null("noise").sample(400)
    reader, view = MemoryReader(values, (48, 48), 10), observer_on(values, reads)
    statistics = collect(view, reader)
    labels = ["undetermined"] * view.n_latents
    found = describe_change(held_out(view, reader), labels, (), [])
    assert found is not None
    assert_complete(found)
    square = float(statistics.totals["shift/square"].sum())
    parts = shares(found)
    assert parts["other_latents"] == pytest.approx(float(statistics.sums["shift"].sum()) / square, abs=1e-5)
    assert parts["bias"] == pytest.approx(float(statistics.totals["shift/bias"].sum()) / square, abs=1e-5)
    assert parts["error"] == pytest.approx(float(statistics.totals["shift/error"].sum()) / square, abs=1e-5)
    assert found.record["subspaces_reason"].startswith("a subspace must be found by 2")


def test_where_there_is_no_difference_there_is_nothing_to_describe() -> None:
    pair = planted(n_tokens=400)
    one, _ = pair.reader.values.chunk(2, dim=1)
    same = replace(pair, reader=MemoryReader(torch.cat([one, one], dim=1), (48, 48)))
    labels = pair.labels
    assert describe_change(held_out(same.view, same.reader), labels, labels, pair.others) is None


def test_with_few_documents_nothing_is_established() -> None:
    found = planted(offset=0.3, rank=1, n_tokens=160).described()
    assert_complete(found)
    assert not found.record["offset"]["established"] and not found.record["map"]["established"]
    assert all(part["low"] is None for part in found.record["parts"].values())


@pytest.mark.slow
def test_intervals_of_parts_cover_the_value_of_many_tokens() -> None:
    """Of ten samples of one pair, nearly all hold the share of a sample ten times as large."""
    whole = planted(new=6, n_tokens=100_000)
    truth = shares(whole.described())["one_sided"]
    covered = 0
    for part in range(10):
        rows = slice(10_000 * part, 10_000 * (part + 1))
        reader = MemoryReader(whole.reader.values[rows], (48, 48))
        entry = replace(whole, reader=reader).described().record["parts"]["one_sided"]
        covered += entry["low"] <= truth <= entry["high"]
    assert covered >= 8
