"""Two processes analyze a run as one does, byte for byte: each reads some of the groups of documents and some of the controls."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis import stages
from analysis.labels.control_reading import ControlReading, controls_to_read, read_control
from analysis.latents import held_out_pass
from analysis.latents.unselected_scaling import UnselectedSums, unselected_inputs
from analysis.rank_work import Helper, SharedPasses
from crosscoder.config import AnalysisConfig, ControlsConfig
from crosscoder.planted import SMALL, PlantedPair
from crosscoder.run.folder import RunFolder
from crosscoder.run.rank_tasks import announce_end, next_task
from crosscoder.runtime.process_group import process_group
from tests.groups import Group, group_of
from tests.training.in_memory import run_config
from tests.training.test_doctor import files
from training.stages import train

BATCH = 24
CONTROLS = {
    "drift": True,
    "intermittent": False,
    "identity": False,
    "shuffled": True,
    "seeds": 1,
    "difference": False,
}


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with group_of(2) as started:
        yield started


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run from arrays, with controls."""
    path = tmp_path_factory.mktemp("ranks")
    values = PlantedPair(counts=SMALL).sample(1600)
    arrays = files(path, *values.split(48, dim=1)).activations
    documents = path / "documents.npy"
    np.save(documents, np.arange(1600) // 16)
    config = run_config(path / "run", n_latents=24, steps=20).model_copy(
        update={
            "activations": arrays.model_copy(update={"documents": documents, "held_out": 0.5}),
            "controls": ControlsConfig.model_validate(CONTROLS),
            "analysis": AnalysisConfig(bootstrap_samples=50, top_examples=2, quantile_examples=1),
            "threads": 1,
        }
    )
    train(config)
    return RunFolder.open(path / "run")


def analyze(path: Path, batch: int) -> list[Any]:
    """Analyze a run and ask about all of its latents, by all ranks if there are several: each takes every second item. Return the answer on rank 0,
    the tasks on others."""
    held_out_pass._MAX_BATCH = batch
    group, folder = process_group(), RunFolder(path)
    group.claims = lambda n_items: iter(range(group.rank, n_items, group.size))
    if group.rank == 0:
        config = folder.read_config()
        stages.analyze(folder, config)
        # Latents of this run are not labeled, so that `analyze` asks about none.
        passes, every = SharedPasses(stages.open_run(folder, config)), np.arange(24)
        inputs = unselected_inputs(every, every % 2 == 0, np.full(24, 0.1))
        asked = passes(UnselectedSums, passes.held_out(), inputs).result()
        announce_end()
        return [{name: value.tolist() for name, value in asked.moments.sums.items()}, asked.jaccard.tolist()]
    done = []
    while (task := next_task()) is not None:
        Helper().carry_out(task)
        done.append(task.get("pass", task["name"]))
    return done


def collect(n_own: int) -> Any:
    """Collect tensors of every shape and precision. Return what came of the other rank."""
    rank = process_group().rank
    own: dict[str, torch.Tensor] = {
        "numbers": torch.arange(6.0).view(2, 3).T + rank,  # not contiguous
        "half": torch.full((2, 1), rank + 0.5, dtype=torch.bfloat16),
        "whole": torch.tensor(2**40 + rank),
        "flags": torch.tensor([True, False]),
        "none": torch.zeros(0, 4, dtype=torch.int32),
    }
    found: list[dict[str, torch.Tensor]] = []
    more = {f"own {place}": torch.tensor([place]) for place in range(n_own * rank)}
    process_group().collect(own | more, found.append)
    return [
        {name: (str(value.dtype), value.tolist()) for name, value in of_rank.items()} for of_rank in found
    ]


def tables(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder.path / "analysis").iterdir()}


@pytest.mark.slow
def test_tensors_of_all_ranks_arrive_at_rank_0(group: Group) -> None:
    (other,), nothing = group.run(collect, 2)
    assert nothing == []
    assert other == {
        "numbers": ("torch.float32", [[1, 4], [2, 5], [3, 6]]),
        "half": ("torch.bfloat16", [[1.5], [1.5]]),
        "whole": ("torch.int64", 2**40 + 1),
        "flags": ("torch.bool", [True, False]),
        "none": ("torch.int32", []),
        "own 0": ("torch.int64", [0]),
        "own 1": ("torch.int64", [1]),
    }


@pytest.mark.slow
def test_two_processes_write_the_tables_of_one(group: Group, trained: RunFolder, monkeypatch: Any) -> None:
    monkeypatch.setattr(held_out_pass, "_MAX_BATCH", BATCH)
    torch.set_num_threads(1)
    asked = analyze(trained.path, BATCH)
    alone = tables(trained)
    found, done = group.run(analyze, trained.path, BATCH)
    assert done == ["read", "OffsetAccumulator", "TermMoments", "PartitionSums", "UnselectedSums"]
    assert found == asked and sum(map(sum, asked[0]["chosen"])) > 0
    found = tables(trained)
    assert {"features.parquet", "summary.json", "examples.parquet", "histograms.parquet"} <= found.keys()
    assert found.keys() == alone.keys()
    for name, content in found.items():
        assert content == alone[name], name
    # Positive control: batches of other groups change rounding, which the tables show.
    group.run(analyze, trained.path, 2 * BATCH)
    assert tables(trained)["summary.json"] != alone["summary.json"]


def test_the_reading_of_a_control_is_the_same_after_it_was_sent(trained: RunFolder) -> None:
    config, run = trained.read_config(), stages.open_run(trained, trained.read_config())
    for control in controls_to_read(config, trained):
        reading = read_control(control, trained, run.reader, run.context, torch.device("cpu"))
        sent = ControlReading.of_tensors(reading.tensors())
        assert sent.fve == reading.fve and sent.features.labels == reading.features.labels
        assert sent.features.columns.keys() == reading.features.columns.keys()
        for name, column in reading.features.columns.items():
            assert sent.features.columns[name].dtype == column.dtype
            assert sent.features.columns[name].tobytes() == column.tobytes(), name
        one, other = (each.features.evidence for each in (reading, sent))
        assert one is not None and other is not None
        for latent in range(24):
            assert repr(one.at(latent)) == repr(other.at(latent))
