"""Texts in the stages: they are checked before models are loaded, and the manifest says what was read, so that the same is read again."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crosscoder.command import stages_in_turn
from crosscoder.config import RunConfig
from crosscoder.errors import ConfigError, DataError, FormatError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic
from tests.tiny_pairs import WORDS, run_config, save_adapter, save_llama
from training import stages

OLD, NEW = "0" * 39 + "a", "0" * 39 + "b"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    base = save_llama(folder / "base")
    return base, save_adapter(base, folder / "adapter")


def config_of(
    folder: Path, models: tuple[Path, Path], *sources: dict[str, Any], **settings: Any
) -> RunConfig:
    config = run_config(folder, models[0], {"adapter": str(models[1])}, **settings)
    data = config.model_dump(mode="json")
    data["text"]["sources"] = [{"name": f"source{n}", **one} for n, one in enumerate(sources)]
    return RunConfig.model_validate(data)


def test_texts_are_checked_before_models_are_loaded(
    tmp_path: Path, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    for place in ("training.inputs.load_pair", "training.doctor.load_pair", "analysis.stages.load_pair"):
        monkeypatch.setattr(place, load, raising=False)
    good = tmp_path / "good.jsonl"
    good.write_text("".join(json.dumps({"text": word}) + "\n" for word in WORDS))
    (tmp_path / "bad.jsonl.gz").write_text("{}")
    for last, said in (
        (tmp_path / "gone.jsonl", "does not exist"),
        (tmp_path / "bad.jsonl.gz", "not gzip data"),
    ):
        config = config_of(tmp_path / "a", models, {"path": str(good)}, {"path": str(last)})
        for stage in (
            stages.doctor,
            stages.harvest,
            stages.train,
            lambda c: stages.sweep(c, [4]),
            stages_in_turn.run_all,
        ):
            with pytest.raises((ConfigError, DataError), match=said):
                stage(config)
    assert not config.output.exists()
    # The positive control: with texts that are there, models are loaded.
    with pytest.raises(AssertionError, match="a model was loaded"):
        stages.harvest(config_of(tmp_path / "b", models, {"path": str(good)}))


def test_prompts_of_behaviors_are_checked_before_models_are_loaded(
    tmp_path: Path, models: tuple[Path, Path]
) -> None:
    (tmp_path / "texts.txt").write_text("oak\n\nelm\n\npine\n")
    behavior = tmp_path / "behavior.yaml"
    behavior.write_text("{name: answers, prompts: gone.jsonl, metric: {kind: divergence}}")
    config = config_of(tmp_path, models, {"path": str(tmp_path / "texts.txt")}, behaviors=[str(behavior)])
    with pytest.raises(
        ConfigError, match=r"prompts of the behavior 'answers': file gone\.jsonl does not exist"
    ):
        stages_in_turn.run_all(config)
    assert not config.output.exists()


def test_the_manifest_says_what_was_read(tmp_path: Path, models: tuple[Path, Path]) -> None:
    with gzip.open(tmp_path / "table.csv.gz", "wt") as file:
        file.write("instruction,input,output,id\n")
        file.writelines(f'{n} oak?,,"rose, elm",{n}\n' for n in range(8))
        file.write(",,nothing,9\n")
    (tmp_path / "prose").mkdir()
    for part in range(3):
        (tmp_path / f"prose/{part}.txt").write_text("\n\n".join(f"{part} {word}" for word in WORDS[:4]))
    rows = [{"body": f"{n} pine fern"} for n in range(6)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    config = config_of(
        tmp_path,
        models,
        {"path": str(tmp_path / "table.csv.gz")},
        {"path": str(tmp_path / "prose")},
        {"dataset": str(tmp_path / "saved"), "text_field": "body", "limit": 5},
    )
    stages.harvest(config)
    found = RunFolder(config.output).read_manifest()["data"]["sources"]
    assert [found[f"source{n}"]["documents"] for n in range(3)] == [8, 12, 5]
    assert found["source0"]["left_out"] == {"empty": 1}
    assert found["source0"]["path"] == str(tmp_path / "table.csv.gz")
    assert found["source1"]["files"] == 3
    assert (
        found["source2"].items()
        >= {"dataset": str(tmp_path / "saved"), "split": "train", "position": 5}.items()
    )


class Hub:
    """A hub with one dataset, whose newest commit can change."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.newest = folder, OLD
        self.load = datasets.load_dataset_builder
        for commit in (OLD, NEW):
            rows = [{"text": f"{n} {commit[-1]} oak fern"} for n in range(12)]
            (folder / commit).mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(rows), folder / commit / "train.parquet")

    def __call__(self, name: str, config: str | None, revision: str | None) -> Any:
        assert name == "org/name"
        commit = revision or self.newest
        builder = self.load(str(self.folder / commit))
        files = {"train": [f"hf://datasets/org/name@{commit}/train.parquet"]}
        return SimpleNamespace(
            config=SimpleNamespace(data_files=files),
            info=builder.info,
            download_and_prepare=builder.download_and_prepare,
            as_dataset=builder.as_dataset,
            as_streaming_dataset=builder.as_streaming_dataset,
        )


@pytest.mark.parametrize("streaming", [False, True])
def test_a_harvest_that_continues_reads_the_same_commit(
    tmp_path: Path, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(datasets, "load_dataset_builder", hub)
    one = {"dataset": "org/name", "streaming": streaming, "limit": 10}
    config = config_of(tmp_path, models, one)
    stages.harvest(config)
    shards = {path.name: path.read_bytes() for path in (config.output / "activations").rglob("*.safetensors")}
    recorded = RunFolder(config.output).read_manifest()["data"]["sources"]["source0"]
    assert (recorded["revision"], recorded["position"]) == (OLD, 10)
    hub.newest = NEW
    stages.harvest(config)
    assert {
        path.name: path.read_bytes() for path in (config.output / "activations").rglob("*.safetensors")
    } == shards
    # The positive control: without the record, the newest commit is read, and that is another run.
    manifest = config.output / "manifest.json"
    kept = json.loads(manifest.read_text())
    del kept["data"]
    write_atomic(manifest, json.dumps(kept))
    with pytest.raises(FormatError, match="another run"):
        stages.harvest(config)
