"""A harvest in parts ends in the bytes of one process, whatever the number of parts, their order and their interruptions."""

import json
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crosscoder.activations import part_records, shards
from crosscoder.activations.shards import Manifest, ShardReader
from crosscoder.config import AdapterSource, RunConfig
from crosscoder.errors import ConfigError, CrosscoderError, FormatError, ResourceError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.parts import Part
from crosscoder.text.documents import Documents, tokenize
from tests.processes import run_python, start_python
from tests.small_runs import Said, crosscoder
from tests.tiny_pairs import run_config, save_adapter, save_llama
from training import extraction, inputs
from training import harvest as harvest_module
from training import stages as stages_module
from training.harvest import harvest
from training.harvest_parts import (
    folder_of_part,
    harvest_part,
    join_parts,
    parts_of_group,
    require_joined,
    share_harvest,
)

CLOCKS = {"command", "started", "wall_seconds"}
"""What of the record of the stage differs between two harvests that are equal."""


class Setting:
    """A pair, its texts, and a harvest by one process."""

    def __init__(self, folder: Path, config: RunConfig, pair: ModelPair | None = None) -> None:
        assert config.pair is not None and config.text is not None
        self.folder, self.config = folder, config
        self.pair = pair or load_pair(config.pair)
        self.documents: Documents = tokenize(
            config.text, config.tokens, self.pair.tokenizer, self.pair.chat_template, config.seed, self.pair.readers
        )  # fmt: skip
        self.whole = RunFolder.create(folder / "whole", self.at(folder / "whole"))
        harvest(self.whole, config, self.pair, self.documents)

    def at(self, output: Path) -> RunConfig:
        return self.config.model_copy(update={"output": output})

    def part(self, run: Path, number: int, of: int) -> None:
        with folder_of_part(self.at(run), Part(number, of)) as folder:
            harvest_part(folder, self.config, self.pair, self.documents, Part(number, of))

    def assert_equal(self, run: Path) -> None:
        assert contents(run) == contents(self.whole.path)
        assert recorded(run) == recorded(self.whole.path)
        RunFolder.open(run)
        assert not list(run.glob(".part*"))


def contents(run: Path) -> dict[str, bytes]:
    folder = run / "activations"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def recorded(run: Path) -> dict[str, Any]:
    """The manifest of a run without its clocks, after a check that it has them."""
    manifest = json.loads((run / "manifest.json").read_text())
    stage = manifest["stages"]["harvest"]
    assert stage.keys() >= CLOCKS and stage["wall_seconds"] > 0
    manifest["stages"]["harvest"] = {name: value for name, value in stage.items() if name not in CLOCKS}
    return manifest


pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_llama(folder / "a")
    save_llama(folder / "b", 1, width=12)
    save_llama(folder / "large", 1, width=24, n_layers=5, words=True)
    for seed in (1, 2):
        save_adapter(folder / "a", folder / f"adapter{seed}", seed)
    return folder


@pytest.fixture(scope="module")
def setting(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("setting")
    return Setting(folder, run_config(folder, models / "a", models / "b"))


def with_pair(config: RunConfig, **changes: Any) -> RunConfig:
    assert config.pair is not None
    return config.model_copy(update={"pair": config.pair.model_copy(update=changes)})


CACHE = {"kind": "cache", "dtype": "float32", "shard_tokens": 120, "batch_tokens": 96}


def plain(folder: Path, models: Path, **overrides: Any) -> RunConfig:
    return run_config(folder, models / "a", models / "b", **overrides)


def chats_alone(folder: Path, models: Path) -> RunConfig:
    config = plain(folder, models, activations=CACHE | {"shard_tokens": 30})
    assert config.text is not None
    return config.model_copy(
        update={"text": config.text.model_copy(update={"sources": config.text.sources[:1]})}
    )


def two_tokenizers(folder: Path, models: Path) -> RunConfig:
    config = run_config(folder, models / "a", models / "large", tokens={"mask_repeated": False})
    return with_pair(config, align="characters", intervened_hookpoint="model.layers.3")


def adapter_and_snapshot(folder: Path, models: Path) -> RunConfig:
    config = run_config(folder, models / "a", {"adapter": str(models / "adapter2")})
    return with_pair(config, snapshots=(AdapterSource(adapter=str(models / "adapter1")),))


VARIANTS: dict[str, Callable[[Path, Path], RunConfig]] = {
    "float32": plain,
    "bfloat16": lambda folder, models: plain(folder, models, activations=CACHE | {"dtype": "bfloat16"}),
    "float16": lambda folder, models: plain(folder, models, activations=CACHE | {"dtype": "float16"}),
    "held-out tokens alone": lambda folder, models: plain(
        folder, models, activations=CACHE | {"kind": "stream", "shard_tokens": 40}
    ),
    "fewer shards than parts": lambda folder, models: plain(
        folder, models, activations=CACHE | {"shard_tokens": 10_000}
    ),
    "one batch a shard": lambda folder, models: plain(
        folder, models, activations=CACHE | {"shard_tokens": 1}
    ),
    "outliers": lambda folder, models: plain(folder, models, tokens={"outlier_multiple": 1.3}),
    "no token masked": lambda folder, models: plain(
        folder, models, tokens={"mask_special": False, "mask_first": 0, "mask_repeated": False}
    ),
    "many tokens masked": lambda folder, models: plain(folder, models, tokens={"mask_first": 6}),
    "chats alone": chats_alone,
    "context": lambda folder, models: run_config(folder, models / "a", {"context": "amber birch cedar"}),
    "inner hookpoints": lambda folder, models: with_pair(
        plain(folder, models), hookpoint="model.layers.1.mlp", intervened_hookpoint="model.layers.2"
    ),
    "two tokenizers": two_tokenizers,
    "adapter and snapshot": adapter_and_snapshot,
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_number_of_parts_ends_in_the_bytes_of_one_process(
    models: Path, tmp_path: Path, variant: str
) -> None:
    setting = Setting(tmp_path, VARIANTS[variant](tmp_path, models))
    dropped = sum(side.n_outliers for side in Manifest.load(setting.whole.activations).sides.values())
    assert (dropped > 0) == (variant == "outliers")
    # The first variant for every number of parts, the others for one each: they differ in what a part holds.
    numbers = (1, 2, 3, 7)
    place = list(VARIANTS).index(variant)
    for of in numbers if place == 0 else (numbers[1 + place % 3],):
        run = tmp_path / f"parts{of}"
        for number in sorted(range(1, of + 1), key=lambda number: number * 5 % 7):
            setting.part(run, number, of)
        assert join_parts(RunFolder(run))
        setting.assert_equal(run)


def test_parts_make_their_own_shards_alone(setting: Setting, tmp_path: Path) -> None:
    made = []
    for number in (1, 2, 3):
        setting.part(tmp_path / str(number), number, 3)
        files = contents(tmp_path / str(number))
        made.append({name for name in files if name.startswith(("train/", "held_out/"))})
    assert all(made)
    assert sum(map(len, made)) == len(set.union(*made)) == len(contents(setting.whole.path)) - 2


def interrupt_after(patch: pytest.MonkeyPatch, n_batches: int) -> None:
    done: list[int] = []

    def extract(*arguments: Any) -> Any:
        if len(done) == n_batches:
            raise KeyboardInterrupt
        done.append(1)
        return extraction.extract(*arguments)

    patch.setattr(harvest_module, "extract", extract)


@pytest.mark.parametrize("n_batches", [0, 1, 2, 3])
def test_an_interrupted_part_resumes(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_batches: int
) -> None:
    for number in (2, 1):
        with monkeypatch.context() as patch:
            interrupt_after(patch, n_batches)
            with pytest.raises(KeyboardInterrupt):
                setting.part(tmp_path, number, 2)
        finished = set(contents(tmp_path))
        with pytest.raises(FormatError, match="not finished"):
            join_parts(RunFolder(tmp_path))
        assert set(contents(tmp_path)) == finished
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("activations/*/*.safetensors")}
        assert bool(before) == (n_batches > 0 or number == 1)
        setting.part(tmp_path, number, 2)
        assert {path: path.stat().st_mtime_ns for path in before} == before  # not made again
    assert join_parts(RunFolder(tmp_path))
    setting.assert_equal(tmp_path)


def test_a_harvest_that_one_process_began_goes_on_in_parts(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(tmp_path, setting.at(tmp_path))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            harvest(folder, setting.config, setting.pair, setting.documents)
    begun = {path: path.stat().st_mtime_ns for path in tmp_path.glob("activations/*/*.safetensors")}
    assert len(begun) > 2
    for number in (3, 2, 1):
        setting.part(tmp_path, number, 3)
    assert {path: path.stat().st_mtime_ns for path in begun} == begun
    assert join_parts(folder)
    setting.assert_equal(tmp_path)


def test_a_harvest_that_ranks_began_is_finished_by_one_process(
    setting: Setting, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part that a person began is left to that person (`test_missing_parts_are_named`)."""
    run = tmp_path / "run"
    folder = RunFolder.create(run, setting.at(run))
    inputs = folder, setting.config, setting.pair, setting.documents
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            share_harvest(*inputs, of=3)
    assert parts_of_group(folder) == 3
    begun = {path: path.stat().st_mtime_ns for path in run.glob("activations/*/*.safetensors")}
    assert len(begun) > 2
    with pytest.raises(FormatError, match=r"parts? .*of 3 (is|are) not finished: run `crosscoder harvest"):
        join_parts(folder)
    assert crosscoder("harvest", settings_file) == Said(0, "")
    assert {path: path.stat().st_mtime_ns for path in begun} == begun
    assert parts_of_group(folder) == 0
    setting.assert_equal(run)


def test_a_join_that_was_killed_is_finished_by_the_next(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        setting.part(tmp_path, number, 2)
    with monkeypatch.context() as patch:
        patch.setattr(part_records, "forget_records", interrupted)
        with pytest.raises(KeyboardInterrupt):
            join_parts(RunFolder(tmp_path))
    require_joined(RunFolder(tmp_path))
    setting.assert_equal(tmp_path)
    setting.part(tmp_path, 1, 5)  # finds the harvest whole
    require_joined(RunFolder(tmp_path))
    setting.assert_equal(tmp_path)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_part_finds_the_disk_full_and_resumes(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def write(path: Path, content: str | bytes) -> None:
        if path.suffix == ".safetensors":
            written.append(path)
        if len(written) == 2:
            raise ResourceError(f"{path}: the disk is full")
        write_atomic(path, content)

    write_atomic = shards.write_atomic
    setting.part(tmp_path, 2, 2)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_atomic", write)
        with pytest.raises(ResourceError, match="disk is full"):
            setting.part(tmp_path, 1, 2)
    setting.part(tmp_path, 1, 2)
    assert join_parts(RunFolder(tmp_path))
    setting.assert_equal(tmp_path)


def test_what_all_parts_still_write_has_to_fit(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    setting.part(tmp_path, 1, 2)
    done = sum(file.stat().st_size for file in tmp_path.glob("activations/*/*.safetensors"))
    total = sum(file.stat().st_size for file in setting.whole.path.glob("activations/*/*.safetensors"))
    for free, fits in ((int(0.9 * (total - done)), False), (int(1.2 * (total - done)), True)):
        with monkeypatch.context() as patch:
            patch.setattr(harvest_module.shutil, "disk_usage", lambda _, free=free: usage(0, 0, free))
            if fits:
                setting.part(tmp_path, 2, 2)
            else:
                with pytest.raises(ResourceError, match="output: the activations need"):
                    setting.part(tmp_path, 2, 2)


def test_a_part_of_other_libraries_says_so(
    setting: Setting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setting.part(tmp_path, 1, 3)
    setting.part(tmp_path, 2, 3)
    assert "differ by rounding" not in caplog.text
    RunFolder(tmp_path).update_manifest("versions", {"torch": "1.0"})
    setting.part(tmp_path, 3, 3)
    assert f"this part runs with torch {torch.__version__}, but the harvest began with 1.0" in caplog.text


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_missing_parts_are_named(setting: Setting, tmp_path: Path) -> None:
    run, again = tmp_path / "a run", f"crosscoder harvest '{tmp_path / 'a run'}' --part"
    setting.part(run, 2, 8)
    with pytest.raises(FormatError, match="parts 1, 3, 4, 5, 6") as caught:
        join_parts(RunFolder(run))
    for number in (1, 4, 5, 6, 8):
        setting.part(run, number, 8)
    with pytest.raises(FormatError) as caught:
        join_parts(RunFolder(run))
    assert str(caught.value).endswith(
        f"parts 3 and 7 of 8 are not finished: run `{again} 3/8`, and the others likewise"
    )
    setting.part(run, 7, 8)
    with pytest.raises(FormatError) as caught:
        join_parts(RunFolder(run))
    assert str(caught.value) == f"{run / 'activations'}: part 3 of 8 is not finished: run `{again} 3/8`"
    with pytest.raises(FormatError, match="the harvest of train is not finished"):
        ShardReader(run / "activations", "train")


@pytest.mark.parametrize("of", [1, 3, 4])
def test_another_number_of_parts_is_refused(setting: Setting, tmp_path: Path, of: int) -> None:
    setting.part(tmp_path, 1, 2)
    before = contents(tmp_path)
    with pytest.raises(
        ConfigError, match=f"--part: 1/{of} was asked for, but the harvest .* is done in 2 parts"
    ):
        setting.part(tmp_path, 1, of)
    assert contents(tmp_path) == before
    setting.part(tmp_path, 2, 2)
    assert join_parts(RunFolder(tmp_path))


def record(run: Path, number: int, of: int) -> Path:
    return run / "activations" / "parts" / f"{number}-of-{of}.json"


def altered_rows(run: Path) -> None:
    path = record(run, 1, 2)
    path.write_text(path.read_text().replace('"rows": ', '"rows": 1'))


def truncated(run: Path) -> None:
    path = record(run, 1, 2)
    path.write_bytes(path.read_bytes()[:200])


def nested(run: Path) -> None:
    record(run, 1, 2).write_text("[" * 100_000)


def no_text(run: Path) -> None:
    record(run, 1, 2).write_bytes(b"\xff\xfe{")


def renamed(run: Path) -> None:
    record(run, 1, 2).rename(record(run, 2, 2))


def mixed(run: Path) -> None:
    """Parts of two divisions, as without file locks two processes could leave."""
    manifest = Manifest.load(run / "activations")
    part_records.PartRecord.begin(manifest, Part(1, 4), "").save(run / "activations")


def shard_is_gone(run: Path) -> None:
    (run / "activations" / "held_out" / "00000.safetensors").unlink()


def of_another_store(run: Path) -> None:
    manifest = Manifest.load(run / "activations")
    other = manifest.model_copy(update={"max_norms": (1.0, 1.0)})
    part_records.PartRecord.begin(other, Part(1, 2), "").save(run / "activations")


def names_another_file(run: Path) -> None:
    path = record(run, 1, 2)
    found = part_records.PartRecord.parse(path.read_bytes(), str(path), "")
    side = found.sides["held_out"]
    shard = side.shards[0].model_copy(update={"file": "../../../etc/passwd"})
    found.with_side("held_out", side.model_copy(update={"shards": (shard, *side.shards[1:])})).save(
        run / "activations"
    )


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (altered_rows, "1-of-2.json: altered (it does not match its own digest); remove it and run `crosscoder harvest"),
        (truncated, "1-of-2.json: not the record of a part"),
        (nested, "1-of-2.json: not the record of a part"),
        (no_text, "1-of-2.json: not the record of a part"),
        (renamed, "2-of-2.json: is the record of part 1/2"),
        (mixed, "holds parts of 2 and of 4"),
        (shard_is_gone, "00000.safetensors: missing, but part 1/2 wrote it"),
        (of_another_store, "1-of-2.json: was made for other activations"),
        (names_another_file, "1-of-2.json: was made for other activations"),
    ],
)  # fmt: skip
def test_damaged_parts_are_refused_by_name(
    setting: Setting, tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    for number in (1, 2):
        setting.part(tmp_path, number, 2)
    damage(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(FormatError) as caught:
        join_parts(RunFolder(tmp_path))
    assert complaint in str(caught.value)
    assert contents(tmp_path) == before
    if damage is not mixed and damage is not shard_is_gone:
        with pytest.raises(FormatError):
            setting.part(tmp_path, 1, 2)
        assert contents(tmp_path) == before


HOLD = """
import sys, time
from pathlib import Path
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.parts import Part
folder, number, of = RunFolder(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
with folder.locked_part(Part(number, of)) if number else folder.locked():
    print("held", flush=True)
    time.sleep(100)
"""


def other_process(run: Path, number: int, of: int) -> subprocess.Popen[str]:
    process = start_python("-c", HOLD, run, str(number), str(of), folder=run)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_locks_of_parts(setting: Setting, tmp_path: Path) -> None:
    setting.part(tmp_path, 1, 3)
    with other_process(tmp_path, 2, 3) as process:
        try:
            setting.part(tmp_path, 3, 3)  # at once with another part
            with pytest.raises(
                ResourceError, match=rf"process {process.pid} on .* works on part 2 of 3; wait"
            ):
                setting.part(tmp_path, 2, 3)
            with pytest.raises(ResourceError, match="works in this run folder; wait until it ends"):
                join_parts(RunFolder(tmp_path))
            other = setting.config.model_copy(update={"seed": 5})
            with pytest.raises(ConfigError, match=r"seed: the run in .* has 0, but 5 was requested"):
                Setting.part(replaced(setting, other), tmp_path, 3, 3)
        finally:
            process.kill()
    with other_process(tmp_path, 0, 0) as process:
        try:
            with pytest.raises(ResourceError, match=rf"process {process.pid} on .* works in this run folder"):
                setting.part(tmp_path, 2, 3)
        finally:
            process.kill()
    setting.part(tmp_path, 2, 3)
    assert join_parts(RunFolder(tmp_path))
    setting.assert_equal(tmp_path)


def replaced(setting: Setting, config: RunConfig) -> Setting:
    other = object.__new__(Setting)
    other.__dict__ |= setting.__dict__ | {"config": config}
    return other


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings_file(setting: Setting, tmp_path: Path) -> Path:
    path = tmp_path / "pair.yaml"
    settings = setting.config.model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump(settings | {"output": str(tmp_path / "run")}))
    return path


def test_the_command_writes_parts_and_joins_them(
    setting: Setting, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert crosscoder("harvest", settings_file, "--part", "2/3") == Said(0, "")
    # What needs the activations names the missing part before it loads a model.
    with monkeypatch.context() as patch:
        patch.setattr(inputs, "load_pair", AssertionError("loaded the models"))
        for verb in (["harvest"], ["harvest", "--join"], ["train"], ["sweep", "--k", "4"]):
            said = crosscoder(verb[0], settings_file, *verb[1:])
            assert said == Said(
                2, f"crosscoder: {run / 'activations'}: parts 1 and 3 of 3 are not finished: run `crosscoder harvest {run} --part 1/3`, "
                "and the others likewise",
            )  # fmt: skip
    for rank in (0, 2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        assert crosscoder("harvest", run, "--part", "env") == Said(0, "")
    # Without --part, they would be ranks of one command (tests/test_ranks.py), but this is not all that torchrun sets.
    assert crosscoder("harvest", settings_file) == Said(
        2, "crosscoder: torchrun: RANK and WORLD_SIZE are set, but not MASTER_ADDR and MASTER_PORT; start the command with torchrun, or "
        "unset the variables of torchrun",
    )  # fmt: skip
    monkeypatch.delenv("WORLD_SIZE")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 0)
        assert crosscoder("harvest", settings_file) == Said(0, "")
    setting.assert_equal(run)
    assert crosscoder("harvest", settings_file, "--join") == Said(0, "")


def test_a_failed_first_part_leaves_the_settings_free(settings_file: Path, tmp_path: Path) -> None:
    wrong = crosscoder("harvest", settings_file, "pair.hookpoint=model.layers.9", "--part", "1/2")
    assert wrong.code == 2 and "model.layers.9" in wrong.error
    assert crosscoder("harvest", settings_file, "--part", "1/2") == Said(0, "")
    said = crosscoder("harvest", settings_file, "activations.dtype=float16", "--part", "2/2")
    assert said.code == 2
    assert said.error.startswith(
        f"crosscoder: activations.dtype: the run in {tmp_path / 'run'} has 'float32', but 'float16'"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--part", "9/8"], "--part: there is no part 9/8"),
        (["--part", "0/8"], "parts are counted from 1; give 1/8 to 8/8"),
        (["--part", "env"], "--part env: no launcher assigned a part"),
        (["--part", "1/2", "--join"], "--part, --join: give one of them"),
        (["--join"], "--join: no part of a harvest is in"),
    ],
)
def test_bad_words_are_refused(
    settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], complaint: str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    said = crosscoder("harvest", settings_file, *words)
    assert said.code == 2
    assert complaint in said.error and "\n" not in said.error
    assert not (tmp_path / "run" / "activations").exists()


@pytest.mark.parametrize(("rank", "n_gpus", "chosen"), [(0, 8, []), (3, 8, [3]), (3, 1, [0]), (3, 0, [])])
def test_each_process_of_a_machine_takes_its_own_gpu(
    settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, n_gpus: int, chosen: list[int]
) -> None:  # fmt: skip
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(stages_module, "folder_of_part", stop)
    for name, value in {"RANK": rank, "WORLD_SIZE": 8, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, str(value))
    assert crosscoder("harvest", settings_file, "--part", "env").error == "crosscoder: stopped"
    assert taken == chosen


def stop(*_: object) -> None:
    raise CrosscoderError("stopped")


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_parts_at_once_of_which_one_is_stopped(
    setting: Setting, settings_file: Path, tmp_path: Path, sign: signal.Signals
) -> None:
    run, words = tmp_path / "run", ("-m", "crosscoder", "harvest", settings_file, "--part")
    processes = [start_python(*words, f"{number}/3", folder=tmp_path) for number in (1, 2, 3)]
    while not record(run, 3, 3).exists() and processes[2].poll() is None:
        pass
    processes[2].send_signal(sign)
    codes = [process.wait(timeout=300) for process in processes]
    assert codes[:2] == [0, 0]
    assert codes[2] in (0, 130 if sign == signal.SIGTERM else -sign)  # 0: it was faster
    for process in processes:
        process.communicate()
    if codes[2]:
        assert crosscoder("harvest", settings_file, "--part", "3/3") == Said(0, "")
    assert crosscoder("harvest", settings_file, "--join") == Said(0, "")
    setting.assert_equal(run)
    assert not list(run.rglob("*.partial"))


@pytest.mark.slow
def test_torchrun_starts_all_parts(setting: Setting, settings_file: Path, tmp_path: Path) -> None:
    launcher = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
    )  # what torchrun is
    words = (sys.executable, "-m", "crosscoder", "harvest", settings_file, "--part", "env")
    done = run_python(*launcher, *words, folder=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()[1::3]) == ["1/2", "2/2"]
    assert join_parts(RunFolder(tmp_path / "run"))
    setting.assert_equal(tmp_path / "run")
