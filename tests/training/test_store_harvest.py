"""Harvest to a URL, in one process or in parts on machines that share nothing else, and training from there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from analysis.latents.trained_run import TrainedRun
from crosscoder.activations.shard_store import StoreReader
from crosscoder.activations.shards import SPLITS, ShardReader
from crosscoder.config import RunConfig
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.parts import Part
from tests.tiny_pairs import run_config, save_llama
from training import extraction, stages
from training import harvest as harvest_module
from training.store_source import StoreSource

SETTINGS: dict[str, Any] = {
    "crosscoder": {"n_latents": 32, "sparsity": {"kind": "batch_topk", "k": 4}},
    "training": {
        "n_tokens": 1600, "batch_tokens": 80, "lr": 1e-3, "checkpoint_every": 5, "evaluate_every": 10, "calibration_tokens": 200, "device": "cpu",
    },
    "controls": {"drift": False, "intermittent": False, "identity": False, "shuffled": False, "difference": False, "seeds": 1, "workers": 1},
    "survey": {"documents": 0},
    "threads": 1,
}  # fmt: skip


class Setting:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        save_llama(folder / "a")
        save_llama(folder / "b", 1)
        self.local = self.at("local")
        stages.harvest(self.local)

    def at(self, name: str, url: str | None = None, **store: Any) -> RunConfig:
        """Settings of a run in the folder of this name, with activations at a URL."""
        config = run_config(self.folder, self.folder / "a", self.folder / "b", **SETTINGS)
        settings = config.activations.model_dump() | {
            "store": None if url is None else {"url": url, "buffer_tokens": 260} | store
        }
        return RunConfig.model_validate(
            config.model_dump() | {"output": str(self.folder / name), "activations": settings}
        )

    def expected(self) -> dict[str, bytes]:
        folder = RunFolder(self.local.output).activations
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    yield Setting(tmp_path_factory.mktemp("setting"))
    MemoryFileSystem.store.clear()


def at(url: str) -> dict[str, bytes]:
    system, root = fsspec.core.url_to_fs(url)
    found = {path.removeprefix(f"{root}/"): system.cat_file(path) for path in system.find(root)}
    return {name: content for name, content in found.items() if not name.startswith(("plan", "parts/"))}


def weights(config: RunConfig) -> bytes:
    return (RunFolder(config.output).crosscoder / "model.safetensors").read_bytes()


def interrupt_after(patch: pytest.MonkeyPatch, n_batches: int) -> None:
    done: list[int] = []

    def extract(*arguments: Any) -> Any:
        if len(done) == n_batches:
            raise KeyboardInterrupt
        done.append(1)
        return extraction.extract(*arguments)

    patch.setattr(harvest_module, "extract", extract)


def test_a_harvest_to_a_url_that_is_interrupted_ends_in_the_bytes_of_a_local_one(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, url = setting.at("interrupted", "memory://interrupted"), "memory://interrupted"
    for n_batches in (0, 2):
        with monkeypatch.context() as patch:
            interrupt_after(patch, n_batches)
            with pytest.raises(KeyboardInterrupt):
                stages.harvest(config)
        assert "manifest.json" not in at(url)
        assert ("held_out/00000.safetensors" in at(url)) == (n_batches > 0)
    stages.harvest(config)
    assert at(url) == setting.expected()
    record = RunFolder(config.output).read_manifest()["stages"]["harvest"]
    assert record["finished"] and record["store"] == url
    RunFolder.open(config.output)


@pytest.mark.slow
def test_machines_that_share_a_url_alone_harvest_in_parts_and_train(setting: Setting, tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'bucket'}"
    one, two, three = (setting.at(f"machine{number}", url) for number in (1, 2, 3))
    stages.harvest_one_part(two, Part(2, 2))
    with pytest.raises(
        FormatError, match=r"part 1 of 2 is not finished: run .*activations\.store\.url=file://"
    ):
        stages.train(three)
    with pytest.raises(ConfigError, match=r"the harvest in file://.*bucket is done in 2 parts"):
        stages.harvest_one_part(one, Part(1, 3))
    stages.harvest_one_part(one, Part(1, 2))
    stages.join(three)
    assert at(url) == setting.expected()
    for config in (one, three):
        stages.train(config)
    assert weights(one) == weights(three)
    record = RunFolder(one.output).read_manifest()
    assert record["stages"]["harvest"]["store"] == url, "noted also by the machine that did not join"
    assert record["pair"] and record["data"]
    assert record["stages"]["train"]["order"]["buffer_tokens"] == 260
    assert record["stages"]["train"]["order"]["blocks_of_first_pass"] > 2
    other = setting.at("other", url)
    with pytest.raises(
        FormatError, match=r"file://.*bucket: holds the activations of another run: settings\.seed was 0"
    ):
        stages.train(other.model_copy(update={"seed": 1}))


@pytest.mark.slow
def test_training_from_a_url_resumes_in_the_middle_of_a_block_bit_for_bit(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, broken = (
        setting.at("whole", f"file://{tmp_path / 'b'}"),
        setting.at("broken", "memory://broken", cache_gb=5e-5),
    )
    stages.train(whole)
    stopped: list[Any] = []

    def batches(self: StoreSource, batch_tokens: int, state: Any = None) -> Any:
        for number, found in enumerate(original(self, batch_tokens, state)):
            if number == 7:
                stopped.append(found[1])
                raise KeyboardInterrupt
            yield found

    original = StoreSource.batches
    with monkeypatch.context() as patch:
        patch.setattr(StoreSource, "batches", batches)
        with pytest.raises(KeyboardInterrupt):
            stages.train(broken)
    state = json.loads(next(RunFolder(broken.output).checkpoints.glob("*5/state.json")).read_text())["source"]
    assert 0 < state["offset"] < 260, "the checkpoint is in the middle of a block"
    stages.train(broken)
    assert weights(broken) == weights(whole)
    for name in ("metrics.jsonl", "controls/seed_1/crosscoder/model.safetensors"):
        assert (broken.output / name).read_bytes() == (whole.output / name).read_bytes()
    copies = sum(path.stat().st_size for path in broken.output.glob("activations/*/*.safetensors"))
    assert 0 < copies <= 5e4 < sum(map(len, setting.expected().values())), "fewer copies than shards"
    local = setting.at("local")
    stages.train(local)
    assert weights(local) != weights(whole), "the control: another order gives other weights"
    reader = TrainedRun(RunFolder(broken.output), broken).reader
    assert isinstance(reader, StoreReader)
    for split in SPLITS:
        rows = ShardReader(RunFolder(local.output).activations, split)
        assert rows.n_tokens == sum(len(batch.values) for batch in rows.batches(50))
    expected = ShardReader(RunFolder(local.output).activations, "held_out")
    assert torch.equal(next(reader.batches(10**6)).values, next(expected.batches(10**6)).values)


def test_a_store_may_move_but_not_appear(setting: Setting) -> None:
    config = setting.at("moved", "memory://moved")
    assert "GB at memory://moved, " in stages.doctor(config)
    stages.harvest(config)
    moved = setting.at("moved", "memory://elsewhere", cache_gb=1.5)
    stages.harvest(moved)
    assert at("memory://elsewhere") == {}, "the folder has the manifest, so nothing is written again"
    with pytest.raises(
        ConfigError, match=r"activations\.store\.buffer_tokens: .* has 260, but 70 was requested"
    ):
        stages.harvest(setting.at("moved", "memory://moved", buffer_tokens=70))
    with pytest.raises(ConfigError, match=r"activations\.store"):
        stages.harvest(setting.at("local", "memory://moved"))
