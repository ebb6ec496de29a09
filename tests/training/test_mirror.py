"""The copy of a run at a URL: a snapshot that is there as a whole or not at all, and that another machine goes on from."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from crosscoder.config import RunConfig
from crosscoder.errors import ConfigError, FormatError, ResourceError
from crosscoder.run.folder import RunFolder
from crosscoder.run.mirror import INDEX, Mirror, copy_now, files_of, mirrored
from tests.small_runs import crosscoder
from tests.stores import Flaky, damage, flaky
from training import stages
from training.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "crosscoder": {"n_latents": 16, "sparsity": {"kind": "batch_topk", "k": 3}},
    "training": {
        "n_tokens": 960, "batch_tokens": 48, "lr": 1e-3, "checkpoint_every": 4, "evaluate_every": 10, "calibration_tokens": 100, "device": "cpu",
    },
    "controls": {"drift": False, "intermittent": False, "identity": False, "shuffled": False, "difference": False, "seeds": 1, "workers": 1},
    "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(folder / f"{name}.npy", random.standard_normal((1200, 6), dtype=np.float32))
    return folder


def settings_of(arrays: Path, output: Path) -> RunConfig:
    files = {"kind": "files", "reference": str(arrays / "a.npy"), "intervened": str(arrays / "b.npy")}
    return RunConfig.model_validate(SETTINGS | {"output": str(output), "activations": files})


@pytest.fixture(scope="module")
def trained(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    stages.train(settings_of(arrays, run))
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A trained run that a test may change."""
    Mirror(f"file://{tmp_path}/origin", "url").put(trained)
    Mirror(f"file://{tmp_path}/origin", "url").fetch(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def place() -> Iterator[type[Flaky]]:
    with flaky() as found:
        yield found
    MemoryFileSystem.store.clear()


def contents(run: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files_of(run, everything=True)}


@pytest.mark.parametrize("scheme", ["memory", "file", "flaky"])
def test_a_copy_that_is_fetched_is_the_run(
    trained: Path, tmp_path: Path, place: type[Flaky], scheme: str
) -> None:
    url = f"file://{tmp_path}/bucket" if scheme == "file" else f"{scheme}://bucket/run"
    Mirror(url, "url").put(trained)
    Mirror(url, "url").fetch(tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == contents(trained)
    assert {"config.yaml", "files.json", "controls/seed_1/files.json"} <= contents(trained).keys()
    assert any(name.startswith("checkpoints/") for name in contents(trained))
    RunFolder.open(tmp_path / "fetched")
    Mirror(url, "url").fetch(tmp_path / "light", checkpoints=False)
    assert not list((tmp_path / "light").rglob("checkpoints/*"))
    RunFolder.open(tmp_path / "light")
    with pytest.raises(ConfigError, match="is there already; name a new folder"):
        Mirror(url, "url").fetch(tmp_path / "light")


def test_only_what_changed_is_sent_and_what_is_gone_is_removed(run: Path, place: type[Flaky]) -> None:
    sent: list[str] = []

    def arrives(path: str, content: bytes) -> bytes:
        sent.append(path)
        return content

    place.on_write = arrives
    mirror = Mirror("flaky://bucket", "url")
    mirror.put(run)
    assert len(sent) > 10
    n_objects = len(place.store)
    sent.clear()
    mirror.put(run)
    assert sent == ["/bucket/run.json"]
    (run / "report").mkdir()
    (run / "report/report.md").write_text("new")
    sent.clear()
    mirror.put(run)
    assert len(sent) == 2 and len(place.store) == n_objects + 1
    (run / "report/report.md").unlink()
    place().pipe_file("/bucket/objects/of_someone_else", b"x")
    mirror.put(run)
    assert len(place.store) == n_objects + 1
    assert "/bucket/objects/of_someone_else" in place.store


def test_a_copy_that_is_cut_short_leaves_the_one_before(
    run: Path, tmp_path: Path, place: type[Flaky]
) -> None:
    mirror, before = Mirror("flaky://bucket", "url"), contents(run)
    mirror.put(run)
    for number in range(3):
        (run / f"report{number}").mkdir()
        (run / f"report{number}/report.md").write_text(f"new {number}")
    done: list[str] = []
    for number in range(4):
        done.clear()

        def arrives(path: str, content: bytes, number: int = number) -> bytes | BaseException:
            done.append(path)
            return OSError("connection reset") if len(done) > number else content

        place.on_write = arrives
        with pytest.raises(ResourceError, match="connection reset"):
            mirror.put(run)
        if done[-1].endswith(INDEX):
            break
        place.on_write = lambda path, content: content
        mirror.fetch(tmp_path / f"fetched{number}")
        assert contents(tmp_path / f"fetched{number}") == before
    assert done[-1].endswith(INDEX), (
        "the control: at last all files are there, and the list of them is cut short"
    )
    with pytest.raises(FormatError, match=r"flaky://bucket/run\.json: not the list of files of a run"):
        mirror.fetch(tmp_path / "half")
    place.on_write = lambda path, content: content
    mirror.put(run)
    mirror.fetch(tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == contents(run) != before


def test_a_damaged_file_is_refused_and_a_fetch_goes_on(run: Path, tmp_path: Path, place: type[Flaky]) -> None:
    mirror = Mirror("flaky://bucket", "url")
    mirror.put(run)
    index = json.loads(place().cat_file("/bucket/run.json"))
    digest = index["files"]["crosscoder/model.safetensors"]["digest"]
    whole = place.store[f"/bucket/objects/{digest}"].getvalue()
    damage(place, f"/bucket/objects/{digest}")
    with pytest.raises(FormatError, match=rf"flaky://bucket/objects/{digest}: damaged"):
        mirror.fetch(tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    place().rm_file(f"/bucket/objects/{digest}")
    with pytest.raises(
        FormatError, match=rf"{digest}: missing, but run\.json lists it as model\.safetensors"
    ):
        mirror.fetch(tmp_path / "fetched")
    place().pipe_file(f"/bucket/objects/{digest}", whole)
    place.read.clear()
    mirror.fetch(tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == contents(run)
    assert f"/bucket/objects/{digest}" in place.read and len(place.read) < len(index["files"])


@pytest.mark.parametrize(
    "name",
    ["../escaped", "/etc/escaped", "a/../../escaped", ".lock", "controls/.mirror", "a\\b", "C:x", "a//b", ""],
)
def test_a_list_with_other_names_is_refused(run: Path, tmp_path: Path, place: type[Flaky], name: str) -> None:
    mirror = Mirror("flaky://bucket", "url")
    mirror.put(run)
    index = json.loads(place().cat_file("/bucket/run.json"))
    index["files"][name] = index["files"]["config.yaml"]
    place().pipe_file("/bucket/run.json", json.dumps(index).encode())
    with pytest.raises(FormatError, match="which is no file of a run"):
        mirror.fetch(tmp_path / "fetched")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "origin"}


def test_the_work_of_another_machine_is_not_replaced(run: Path, tmp_path: Path, place: type[Flaky]) -> None:
    url = "flaky://bucket"
    Mirror(url, "url").put(run)
    Mirror(url, "url").fetch(tmp_path / "other")
    (tmp_path / "other/report").mkdir()
    for text in ("one", "two"):
        (tmp_path / "other/report/report.md").write_text(text)
        Mirror(url, "url").put(tmp_path / "other")
    with pytest.raises(
        ConfigError, match="holds another run, or this one as another machine went on with it"
    ):
        Mirror(url, "url").put(run)
    assert contents(tmp_path / "other")["report/report.md"] == b"two"
    with pytest.raises(ConfigError, match="holds another run"), mirrored(run, url, "--mirror"):
        pytest.fail("found only after the work")
    with mirrored(tmp_path / "other", url, "--mirror"):
        pass


def test_shards_on_this_machine_are_not_copied(run: Path, place: type[Flaky]) -> None:
    for name in ("manifest.json", "train/00000.safetensors", "parts/1-of-2.json"):
        path = run / "activations" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert not any(name.startswith("activations/") for name, _ in files_of(run))
    pair = "pair: {reference: {model: a}, intervened: {model: b}, hookpoint: x}\ntext: {sources: [{path: t, name: t}]}\n"
    (run / "config.yaml").write_text(f"output: x\n{pair}activations: {{store: {{url: 's3://bucket/x'}}}}\n")
    copied = [name for name, _ in files_of(run) if name.startswith("activations/")]
    assert copied == ["activations/manifest.json"], "the control: with shards at a URL, their manifest is"


def test_a_training_goes_on_elsewhere_bit_for_bit(
    arrays: Path, trained: Path, tmp_path: Path, place: type[Flaky], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, lost = "flaky://bucket", tmp_path / "lost"
    after_step = Trainer._after_step

    def stop(self: Trainer, *arguments: Any, **options: Any) -> None:
        after_step(self, *arguments, **options)
        if self.state.step == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_after_step", stop)
        with pytest.raises(KeyboardInterrupt), mirrored(lost, url, "--mirror"):
            stages.train(settings_of(arrays, lost))
    Mirror(url, "url").fetch(tmp_path / "elsewhere")
    steps = sorted(path.name for path in (tmp_path / "elsewhere/checkpoints").iterdir())
    assert steps == ["step_00000004", "step_00000008"]
    with mirrored(tmp_path / "elsewhere", url, "--mirror"):
        stages.train(settings_of(arrays, tmp_path / "elsewhere"))
    Mirror(url, "url").fetch(tmp_path / "end")
    for name in (
        "crosscoder/model.safetensors",
        "controls/seed_1/crosscoder/model.safetensors",
        "metrics.jsonl",
    ):
        assert contents(tmp_path / "end")[name] == contents(trained)[name]


def test_a_copy_that_fails_meanwhile_is_told_and_the_last_one_must_succeed(
    run: Path, place: type[Flaky], caplog: pytest.LogCaptureFixture
) -> None:
    place.on_write = lambda path, content: OSError("connection reset")

    def work() -> None:
        with mirrored(run, "flaky://bucket", "--mirror"):
            copy_now(run.parent)
            assert not caplog.records
            copy_now(run)
            assert "connection reset" in caplog.text

    with pytest.raises(ResourceError, match="connection reset"), caplog.at_level(logging.WARNING):
        work()
    copy_now(run)  # outside, nothing is copied


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUN", "other"], "copy: none of FROM and TO is a URL"),
        (["s3://a/b", "s3://a/c"], "copy: both of FROM and TO is a URL"),
        (["RUN", "s3://key:SECRET@bucket/x"], "TO: the URL holds a user name or a password"),
        (["https://host/x?sig=SECRET", "new"], "FROM: the URL has a part after ? or #"),
        (["nowhere", "flaky://bucket"], "nowhere: no such run folder"),
        (["flaky://bucket/empty", "new"], "flaky://bucket/empty: holds no copy of a run"),
    ],
)
def test_the_verb_refuses_in_one_line(trained: Path, place: type[Flaky], words: list[str], said: str) -> None:
    done = crosscoder("copy", *(str(trained) if word == "RUN" else word for word in words))
    assert done.code == 2 and said in done.error
    assert "SECRET" not in done.error


def test_the_verb_copies_there_and_back(trained: Path, tmp_path: Path, place: type[Flaky]) -> None:
    assert crosscoder("copy", trained, "flaky://bucket/verb").code == 0
    assert crosscoder("copy", "flaky://bucket/verb", tmp_path / "back").code == 0
    assert contents(tmp_path / "back") == contents(trained)
