"""Coverage of intervals and the level of the test of a shift: a quick look, and the full table."""

from typing import Any

import numpy as np
import pytest

from analysis.bench.coverage import (
    CORPORA,
    STATISTICS,
    document_coverage,
    prompt_coverage,
    shift_level,
)

SPIKES = "mean or shift, rare spikes (a tenth of the prompts)"


def coverages(record: dict[str, Any], least_given: float = 0.1) -> dict[tuple[str, int], float]:
    """Return the coverage of each statistic and size whose intervals are often estimable."""
    return {
        (name, size): one["coverage"]
        for name, entries in record["coverage"].items()
        for size, one in zip(record["sizes"], entries, strict=True)
        if one["given"] >= least_given * one["repetitions"]
    }


def test_intervals_over_prompts_hold_their_level() -> None:
    """With 150 samples, three standard errors are 5.3 points."""
    found = coverages(prompt_coverage(150, seed=0, sizes=(8, 12, 40)).record)
    assert {size for _, size in found} == {12, 40}, "eight prompts are not enough"
    assert found.pop((SPIKES, 12)) < 0.85, "no interval knows of spikes that are not in its sample"
    assert len(found) == 21
    assert min(found.values()) >= 0.89


def test_intervals_over_documents_hold_their_level() -> None:
    table = document_coverage(15, seed=0, sizes=(8, 12, 100))
    found = coverages(table.record)
    assert {size for _, size in found} == {12, 100}, "eight documents are not enough"
    rare = [name for name in table.record["coverage"] if "in a tenth" in name]
    assert {(name, 100) for name in rare} <= found.keys()
    assert not {(name, 12) for name in rare} & found.keys(), "one document of twelve says nothing"
    assert min(found.values()) >= 0.9


def test_shifts_without_a_mean_are_rarely_established() -> None:
    record = shift_level(80, seed=0, sizes=(8, 40)).record
    for name, levels in record["levels"].items():
        assert max(levels["established"]) <= 0.12, name
    # Positive control: without a minimum of prompts, spikes that are not in the sample would be established.
    assert record["levels"]["rare spikes (a tenth of the prompts)"]["rejected"][0] > 0.3


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: corpus.name)
def test_the_truth_of_a_corpus_is_what_many_documents_show(corpus: Any) -> None:
    many = corpus.moments(40_000, 0).whole()
    for name, statistic in STATISTICS.items():
        assert float(statistic(many).mean()) == pytest.approx(corpus.truth[name], rel=0.03)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_table_of_coverage() -> None:
    """The nominal 95 % are between 93 and 97 %, or above where values are discrete or most documents lack the latent."""
    found = coverages(prompt_coverage(2000, seed=1).record)
    discrete = {key: value for key, value in found.items() if "answers" in key[0] or key[0] == SPIKES}
    for key in ((SPIKES, 12), (SPIKES, 20)):
        del discrete[key], found[key]
    assert min(found.values()) >= 0.93
    assert (
        max(value for key, value in found.items() if key not in discrete and "uniform" not in key[0]) <= 0.975
    )
    documents = coverages(document_coverage(300, seed=1).record)
    assert min(documents.values()) >= 0.925
    assert max(value for (name, _), value in documents.items() if "in all" in name or "nu_" in name) <= 0.97
    record = shift_level(1000, seed=1).record
    assert np.max([levels["established"] for levels in record["levels"].values()]) <= 0.06
