"""The claims of SECURITY.md that have no test elsewhere: nothing in a model folder or a run folder runs code or sends anything away."""

import ast
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from crosscoder.command.app import app
from crosscoder.command.arguments import load_settings
from crosscoder.config import ModelSource, RunConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.explanation import ExplanationSettings
from crosscoder.config.load import dump_config, load_config
from crosscoder.errors import CrosscoderError
from crosscoder.language_models.adapter_files import AdapterRequest, read_adapter
from crosscoder.language_models.loading import load_model, load_tokenizer
from crosscoder.run.folder import RunFolder

from .tiny_pairs import run_config, save_llama

ROOT = Path(__file__).parents[1]
PACKAGES = ("crosscoder", "training", "analysis")


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def write_bomb(path: Path, marker: Path) -> None:
    import pickle  # noqa: TID251

    path.write_bytes(pickle.dumps({"weight": Bomb(marker)}))
    # Positive control: whoever unpickles it runs it.
    pickle.loads(path.read_bytes())
    marker.rmdir()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_llama(tmp_path / "model")


def load(folder: Path) -> object:
    import torch

    return load_model("pair.reference", ModelSource(model=str(folder), dtype="float32"), torch.device("cpu"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_in_a_model_folder_is_refused_and_never_run(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    write_bomb(folder / name, tmp_path / "ran")
    with pytest.raises(Exception):  # noqa: B017, PT011 - which error it is, is a matter of loading
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's, while it makes an adapter
def test_a_pickle_in_an_adapter_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(folder)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
        str(tmp_path / "adapter")
    )
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    write_bomb(tmp_path / "adapter" / "adapter_model.bin", tmp_path / "ran")
    with pytest.raises(Exception):  # noqa: B017, PT011 - which error it is, is a matter of loading
        read_adapter(
            AdapterRequest("pair.intervened", str(tmp_path / "adapter"), "x"),
            AutoModelForCausalLM.from_pretrained(folder),
            torch.device("cpu"),
        )
    assert not (tmp_path / "ran").exists()


def test_python_in_a_model_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    for name in ("modeling_x.py", "configuration_x.py", "tokenization_x.py"):
        (folder / name).write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    for name, known in (("config.json", "unheard_of"), ("tokenizer_config.json", "XTokenizer")):
        record = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        record["auto_map"] = {
            "AutoConfig": "configuration_x.XConfig",
            "AutoModelForCausalLM": "modeling_x.X",
            "AutoTokenizer": ["tokenization_x.XTokenizer", None],
        }
        record["model_type" if name == "config.json" else "tokenizer_class"] = known
        (folder / name).write_text(json.dumps(record))
    with pytest.raises(CrosscoderError):
        load(folder)
    with pytest.raises(CrosscoderError):
        load_tokenizer("pair.reference", str(folder), None)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.mkdir('RAN') }}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{{ 'a' * 10 ** 14 }}",
        "{% include 'config.json' %}",
    ],
)
def test_a_chat_template_is_sandboxed(
    folder: Path, tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosscoder.text.chat_templates import encode_chat

    monkeypatch.chdir(tmp_path)
    tokenizer = load_tokenizer("pair.reference", str(folder), None)
    with pytest.raises(CrosscoderError):
        encode_chat(tokenizer, template, [{"role": "user", "content": "a"}], "a chat")
    assert not (tmp_path / "RAN").exists()


# --- run folders ------------------------------------------------------------------------------------------------------

CALLABLE = "kind: callable\n  file: scorer.py\n  function: score"
ENDPOINT = "kind: judge\n  question: '{answer}'\n  judge: {kind: endpoint, url: 'http://127.0.0.1:9/v1', model: m, key_variable: HOME}"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A run folder from someone else, with a behavior of the given metric."""
    save_llama(tmp_path / "reference")
    config = run_config(
        tmp_path, tmp_path / "reference", tmp_path / "reference", output=str(tmp_path / "foreign")
    )
    run = RunFolder.create(config.output, config)
    (run.path / "scorer.py").write_text(
        f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\ndef score(p, a): return [0.0] * len(a)\n"
    )
    run.config.write_text(dump_config(config.model_copy(update={"behaviors": (run.path / "evil.yaml",)})))
    return run.path


def write_behavior(folder: Path, metric: str) -> Path:
    path = folder / "evil.yaml"
    path.write_text(f"name: evil\nprompts: [a, b, c, d]\nmetric:\n  {metric}\n")
    return path


@pytest.mark.parametrize("verb", ["run", "attribute", "doctor"])
@pytest.mark.parametrize(
    ("metric", "does"), [(CALLABLE, "runs the Python file"), (ENDPOINT, "sends answers to")]
)
def test_a_run_folder_makes_nothing_run_and_sends_nothing(
    foreign: Path, verb: str, metric: str, does: str
) -> None:
    write_behavior(foreign, metric)
    found = CliRunner().invoke(app, [verb, str(foreign)])
    assert found.exit_code == 2, found.output
    assert does in found.output and f"crosscoder attribute {foreign} {foreign / 'evil.yaml'}" in found.output
    assert not (foreign.parent / "ran").exists()


def test_a_behavior_that_the_user_names_may_run_python(
    foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control: named on the command line, it gets as far as the stage, which runs it."""
    path, reached = write_behavior(foreign, CALLABLE), []

    def take(folder: RunFolder, config: RunConfig, behaviors: Sequence[Behavior]) -> Iterator[Path]:
        reached.extend(behavior.metric.kind for behavior in behaviors)
        yield folder.path

    monkeypatch.setattr("analysis.stages.attribute_each", take)
    found = CliRunner().invoke(app, ["attribute", str(foreign), str(path)])
    assert (found.exit_code, reached) == (0, ["callable"]), (found.output, found.exception)


@pytest.mark.parametrize("verb", ["run", "doctor", "discover", "analyze", "attribute", "browse", "report"])
def test_a_run_folder_does_not_run_the_code_of_a_checkpoint(foreign: Path, verb: str) -> None:
    config = load_config(foreign / "config.yaml")
    assert config.pair is not None
    asks = config.pair.reference.model_copy(update={"trust_remote_code": True})
    pair = config.pair.model_copy(update={"reference": asks})
    text = dump_config(config.model_copy(update={"pair": pair}))
    (foreign / "config.yaml").write_text(text)
    found = CliRunner().invoke(app, [verb, str(foreign)])
    assert found.exit_code == 2, found.output
    assert "trust_remote_code" in found.output and "give the YAML file" in found.output
    # Positive control: a file of settings may ask for it.
    (foreign.parent / "mine.yaml").write_text(text)
    mine = load_settings(foreign.parent / "mine.yaml", [])
    assert mine.pair is not None and mine.pair.reference.trust_remote_code


@pytest.mark.parametrize("uploads", [False, True])
@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("file:///mnt/x", (False, True)),
        ("s3://bucket/x", (False, True)),
        ("gs://bucket/x", (False, True)),
        ("sftp://host/x", (True, True)),
        ("https://host/x", (True, True)),
    ],
)
def test_a_run_folder_names_no_place_to_send_activations_to_and_no_host(
    foreign: Path, url: str, refused: tuple[bool, bool], uploads: bool
) -> None:
    config = load_config(foreign / "config.yaml")
    stored = config.activations.model_dump() | {"store": {"url": url}}
    text = dump_config(
        config.model_copy(update={"activations": type(config.activations).model_validate(stored)})
    )
    (foreign / "config.yaml").write_text(text)
    named = [f"activations.store.url={url}"]
    if refused[uploads]:
        with pytest.raises(
            CrosscoderError, match=f"give activations.store.url={url} on the command line, or the YAML file"
        ):
            load_settings(foreign, [], uploads=uploads)
    else:
        load_settings(foreign, [], uploads=uploads)
    # Positive controls: the command line and a file of settings may name it.
    load_settings(foreign, named, uploads=uploads)
    (foreign.parent / "mine.yaml").write_text(text)
    load_settings(foreign.parent / "mine.yaml", [], uploads=uploads)


@pytest.mark.parametrize("verb", ["run", "harvest", "train", "sweep"])
def test_the_verbs_that_harvest_ask_whose_place_it_is(foreign: Path, verb: str) -> None:
    config = load_config(foreign / "config.yaml")
    stored = config.activations.model_dump() | {"store": {"url": "s3://bucket/x"}}
    activations = type(config.activations).model_validate(stored)
    (foreign / "config.yaml").write_text(dump_config(config.model_copy(update={"activations": activations})))
    found = CliRunner().invoke(app, [verb, str(foreign)])
    assert found.exit_code == 2
    assert "activations of your models and your texts would be written to s3://bucket/x" in found.output


def test_nothing_leaves_the_machine_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    files = {"kind": "files", "reference": "a.npy", "intervened": "b.npy"}
    config = RunConfig.model_validate({"output": str(tmp_path), "activations": files})
    assert config.wandb.mode == "disabled"
    assert ExplanationSettings().author is None and ExplanationSettings().judge is None
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        assert load_config(path).wandb.mode in ("disabled", "offline"), path


def test_loading_a_model_folder_opens_no_connection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load(folder)
    load_tokenizer("pair.reference", str(folder), None)


# --- the source -------------------------------------------------------------------------------------------------------

RUNS_CODE = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "system",
    "popen",
    "exec_module",
    "Popen",
    "check_output",
}
STARTS_PROGRAMS = RUNS_CODE - {"eval", "compile", "exec"}
ALLOWED = {
    # The metric of kind callable, the only Python of a user that is run.
    ("analysis/behaviors/scorers.py", "exec_module"),
    # A script of the project, which searches with regular expressions and can be ended.
    ("crosscoder/runtime/expressions.py", "Popen"),
}


def calls(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            # re.compile and model.eval() are methods: only plain names, and attributes that start programs or modules, count.
            if isinstance(node.func, ast.Name) and node.func.id in RUNS_CODE:
                found.add(node.func.id)
            elif isinstance(node.func, ast.Attribute) and node.func.attr in STARTS_PROGRAMS:
                found.add(ast.unparse(node.func).rpartition(".")[2])
    return found


def test_the_source_runs_code_in_known_places_and_unpickles_nowhere() -> None:
    found = set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            # The name of an error runs nothing.
            text = re.sub(r"^from pickle import UnpicklingError.*$", "", path.read_text(), flags=re.M)
            name = path.relative_to(ROOT).as_posix()
            found |= {(name, call) for call in calls(ast.parse(text.replace("platform.system()", "''")))}
            if name == "crosscoder/dictionary/dialects/torch_files.py":
                text = text.replace('torch.load(path, map_location="cpu", weights_only=True', "")
            assert not re.search(
                r"^\s*(import|from) (pickle|marshal|shelve|dill|joblib)\b|torch\.load\(|allow_pickle=True",
                text,
                re.M,
            ), name
    assert found == ALLOWED
    assert calls(ast.parse("eval('1'); os.system('x'); model.eval(); re.compile('x')")) == {"eval", "system"}


def test_every_test_that_the_threat_model_names_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert len(named) >= 5
    for path in named:
        assert (ROOT / path).is_file(), path
    assert shutil.which("python3") is None or "trust_remote_code" in text
