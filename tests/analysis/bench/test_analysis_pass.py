import pytest

from analysis.bench.analysis_pass import analysis_passes
from analysis.latents.dictionary_view import view_of
from analysis.latents.statistics import StatisticsAccumulator
from crosscoder.planted import SMALL, PlantedPair
from tests.analysis.readers import MemoryReader


def test_both_passes_process_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeatedly; and `pass` is the one that `analyze` uses."""
    pair, seen = PlantedPair(counts=SMALL), []
    update = StatisticsAccumulator.update
    monkeypatch.setattr(
        StatisticsAccumulator,
        "update",
        lambda self, batch, observation: (seen.append(len(batch.values)), update(self, batch, observation)),
    )
    view = view_of(pair.dictionary(), (48, 48), "paired")
    passes = analysis_passes(view, list(MemoryReader(pair.sample(300), (48, 48)).batches(128)))
    assert passes.keys() == {"encode", "pass"}
    for _ in range(2):
        assert passes["encode"]() == 300
        assert passes["pass"]() == 300
    assert seen == [128, 128, 44] * 2
