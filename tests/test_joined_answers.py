"""`text.answers`: what both models answer to `discover` joins the harvest, as one source that stays the same for the whole run."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import stages
from analysis.behaviors.unrelated_text import unrelated_prompts
from analysis.latents.trained_run import TrainedRun
from crosscoder.activations.shards import DOCUMENTS, Manifest, ShardReader, Split
from crosscoder.config import RunConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.load import dump_config
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic
from crosscoder.text.documents import Documents
from tests.small_runs import Said, crosscoder
from tests.tiny_pairs import run_config, save_llama
from training.harvest_parts import join_parts, share_harvest
from training.inputs import read_inputs
from training.stages import doctor

DISCOVERY = {"prompts": 24, "variants": 0, "answer_tokens": 5, "nulls": []}


def settings(folder: Path, models: tuple[Path, Path], **text: Any) -> RunConfig:
    config = run_config(folder, *models, discovery=DISCOVERY, wandb={"mode": "disabled"}, threads=1)
    assert config.text is not None
    joined = config.text.model_dump() | {"answers": True, "held_out": 0.3} | text
    return RunConfig.model_validate(config.model_dump() | {"text": joined})


pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return save_llama(folder / "a"), save_llama(folder / "b", 1)


@pytest.fixture(scope="module")
def asked(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which `discover` alone has worked, beside the file of its settings."""
    folder = tmp_path_factory.mktemp("asked")
    config = settings(folder, models)
    (folder / "run.yaml").write_text(dump_config(config))
    assert crosscoder("discover", folder / "run.yaml") == Said(0, "")
    return config.output


@pytest.fixture(scope="module")
def harvested(asked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = shutil.copytree(asked, tmp_path_factory.mktemp("harvested") / "run")
    assert crosscoder("harvest", run) == Said(0, "")
    return run


def transcripts(run: Path) -> list[dict[str, Any]]:
    lines = (run / "discovery" / "transcripts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_harvest_reads_what_both_models_answered(harvested: Path) -> None:
    written = transcripts(harvested)
    assert {one["from"]["model"] for one in written} >= {"reference", "intervened"}
    found = json.loads((harvested / "discovery" / "findings.json").read_text())
    prompts = {one["from"]["prompt"] for one in written}
    assert 0 < len(prompts) <= found["find_prompts"] < found["find_prompts"] + found["claim_prompts"]
    documents = Documents.load(harvested / "activations" / DOCUMENTS)
    own = documents.source == documents.source_names.index("answers")
    assert documents.source_names == ("chat", "prose", "answers") and own.sum() == len(written)
    # Both models' answers to a prompt are on one side, and activations of either side are on disk.
    numbers = np.array([one["from"]["prompt"] for one in written])
    held_out = documents.held_out[own]
    assert not set(numbers[held_out]) & set(numbers[~held_out])
    sides: tuple[tuple[Split, np.ndarray], ...] = (
        ("train", ~documents.held_out),
        ("held_out", documents.held_out),
    )
    for side, chosen in sides:
        read = np.unique(ShardReader(harvested / "activations", side).documents)
        assert own[read].any() and chosen[read].all()


def test_the_records_say_that_they_joined(harvested: Path) -> None:
    data = json.loads((harvested / "manifest.json").read_text())["data"]
    answers = data["sources"]["answers"]
    assert answers["documents"] == len(transcripts(harvested))
    assert answers["path"] == "discovery/transcripts.jsonl" and answers["tokens_train"] > 0
    assert answers["unfinished"] == sum(not one["from"]["finished"] for one in transcripts(harvested)) > 0
    assert Manifest.load(harvested / "activations").identity["text"]["answers"] == answers["digest"]


def test_parts_read_the_same_documents(harvested: Path, asked: Path, tmp_path: Path) -> None:
    run = shutil.copytree(asked, tmp_path / "run")
    for part in ("2/2", "1/2"):
        assert crosscoder("harvest", run, "--part", part) == Said(0, "")
    assert crosscoder("harvest", run, "--join") == Said(0, "")
    assert_same_harvest(run, harvested)


def test_ranks_read_the_same_documents(harvested: Path, asked: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(asked, tmp_path / "run"))
    config = folder.read_config()
    share_harvest(folder, config, *read_inputs(folder, config), of=3)
    assert join_parts(folder)
    assert_same_harvest(folder.path, harvested)


def assert_same_harvest(run: Path, harvested: Path) -> None:
    for file in sorted((harvested / "activations").rglob("*.*")):
        assert (
            run / "activations" / file.relative_to(harvested / "activations")
        ).read_bytes() == file.read_bytes()


def test_texts_unrelated_to_a_behavior_are_none_of_the_answers(harvested: Path) -> None:
    folder = RunFolder(harvested)
    run = TrainedRun(folder, folder.read_config())
    held_out, source = run.documents.split(held_out=True), run.documents.source
    n_others = int((source[held_out] < 2).sum())
    assert 0 < n_others < len(held_out)

    def texts(elsewhere: tuple[str, ...] | None) -> list[bytes]:
        behavior = Behavior.model_validate(
            {
                "name": "x",
                "prompts": ["a", "b", "c", "d"],
                "metric": {"kind": "divergence"},
                "elsewhere": elsewhere,
                "elsewhere_limit": 1000,
            }
        )
        return [prompt.token_ids.tobytes() for prompt in unrelated_prompts(behavior, run)]

    assert texts(None) == texts(("chat", "prose")) and len(texts(None)) == n_others
    assert len(texts(("answers",))) == len(held_out) - n_others


def test_a_harvest_before_the_answers_says_what_to_run(models: tuple[Path, Path], tmp_path: Path) -> None:
    config = settings(tmp_path, models)
    (tmp_path / "run.yaml").write_text(dump_config(config))
    for words in (("harvest",), ("train",), ("sweep",), ("harvest", "--part", "1/2")):
        said = crosscoder(words[0], tmp_path / "run.yaml", *words[1:])
        assert said.code == 2 and "text.answers" in said.error
        assert f"run `crosscoder discover {config.output}` first" in said.error
    assert "answers" in answers_line(config)


def answers_line(config: RunConfig) -> str:
    return next(line for line in doctor(config).splitlines() if "once discover has asked" in line)


def test_what_decides_the_answers_is_settled_by_the_harvest(harvested: Path, asked: Path) -> None:
    with pytest.raises(ConfigError, match=r"discovery\.temperature: the run in .* has 0\.5, but 0\.7"):
        changed(harvested, temperature=0.7)
    changed(harvested, minutes=3.0, least_difference=0.2, attribute=0)
    # Before the harvest, they may change, and the answers with them.
    changed(asked, temperature=0.7)
    changed(asked, temperature=0.5)
    config = RunFolder(asked).read_config()
    assert config.text is not None
    without = config.model_copy(update={"text": config.text.model_copy(update={"answers": False})})
    with pytest.raises(ConfigError, match=r"text\.answers"):
        RunFolder.create(asked, without)


def changed(run: Path, **discovery: Any) -> None:
    config = RunFolder(run).read_config()
    update = {"discovery": config.discovery.model_copy(update=discovery)}
    RunFolder.create(run, config.model_copy(update=update))


def test_a_search_that_goes_on_leaves_the_answers_of_the_harvest(harvested: Path, tmp_path: Path) -> None:
    """Its time may have cut it short before; what it asks later would be another text."""
    run = shutil.copytree(harvested, tmp_path / "run")
    before = (run / "discovery" / "transcripts.jsonl").read_bytes()
    folder = RunFolder(run)
    digest = read_inputs(folder, folder.read_config())[1].digest()
    shutil.rmtree(run / "discovery" / "behaviors", ignore_errors=True)
    assert crosscoder("discover", run, "discovery.least_difference=0.3") == Said(0, "")
    assert (run / "discovery" / "transcripts.jsonl").read_bytes() == before
    assert crosscoder("harvest", run) == Said(0, "")
    # Removed and asked again, they are the same.
    shutil.rmtree(run / "discovery")
    assert crosscoder("harvest", run).code == 2
    assert crosscoder("discover", run) == Said(0, "")
    assert read_inputs(folder, folder.read_config())[1].digest() == digest


def test_other_answers_do_not_go_with_the_harvest(harvested: Path, tmp_path: Path) -> None:
    """The record of files does not know what was written with it."""
    run = shutil.copytree(harvested, tmp_path / "run")
    file = RunFolder(run).transcripts
    write_atomic(file, "".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]))
    said = crosscoder("harvest", run)
    assert said.code == 2 and "holds the activations of another run: text.answers was" in said.error


def test_a_damaged_file_of_answers_is_refused_by_name(asked: Path, tmp_path: Path) -> None:
    run = shutil.copytree(asked, tmp_path / "run")
    file = run / "discovery" / "transcripts.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("assistant", "user", 1), encoding="utf-8")
    with pytest.raises(FormatError, match=r"transcripts\.jsonl: was altered since the run wrote it"):
        RunFolder.create(run, RunFolder(run).read_config())
    assert "crosscoder discover" in crosscoder("harvest", run).error
    file.unlink()
    assert crosscoder("discover", run) == Said(0, "")
    assert file.read_bytes() == (asked / "discovery" / "transcripts.jsonl").read_bytes()


def test_a_search_without_time_or_without_prompts_is_refused(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    config = settings(tmp_path, models)
    (tmp_path / "run.yaml").write_text(dump_config(config))
    said = crosscoder("run", tmp_path / "run.yaml", "discovery.prompts=0")
    assert said.code == 2 and "discovery.prompts is 0" in said.error
    short = config.model_copy(update={"discovery": config.discovery.model_copy(update={"minutes": 1e-6})})
    folder = RunFolder.create(config.output, short)
    with pytest.raises(ConfigError, match=r"text\.answers: no answer can join .* raise discovery\.minutes"):
        stages.discover(folder, short)
    assert not folder.transcripts.exists()
    # More time in the same folder is the remedy that it names.
    assert crosscoder("discover", config.output, "discovery.minutes=5") == Said(0, "")
    assert folder.transcripts.exists()


def test_without_the_setting_nothing_joins(models: tuple[Path, Path], tmp_path: Path) -> None:
    config = settings(tmp_path, models, answers=False)
    (tmp_path / "run.yaml").write_text(dump_config(config))
    assert crosscoder("discover", tmp_path / "run.yaml") == Said(0, "")
    assert not RunFolder(config.output).transcripts.exists()
    assert crosscoder("harvest", tmp_path / "run.yaml") == Said(0, "")
    manifest = Manifest.load(config.output / "activations")
    assert set(manifest.identity["text"]) == {"digest"}
    assert Documents.load(config.output / "activations" / DOCUMENTS).source_names == ("chat", "prose")
