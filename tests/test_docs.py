"""Every command and every piece of Python in the documents does what they say, on small models in place of a user's."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from crosscoder.command.app import app

from .documents import GUIDES, ROOT, Fence, commands, fences
from .tiny_pairs import WORDS, save_adapter, save_llama, write_texts

LOGS = ("benchmarks", "planted")
"""Say which commands made their tables. Those take hours, so it is checked that they are commands still."""

RECIPES = ("recipes",)
"""Code for packages that need not be installed; tests/test_recipes.py runs each recipe where its package is."""

ELSEWHERE = {
    "make demo": (".ci/run", "make demo"),
    "make test": (".ci/run", "make test"),
    "crosscoder explain runs/my-pair explain.yaml": (
        "tests/analysis/explanations/test_explain.py",
        "def endpoint()",
    ),
    # The texts here are shorter than one sequence of delphi.
    "crosscoder export runs/my-pair --to delphi --with-examples": (
        "tests/analysis/sharing/test_delphi_cache.py",
        "write_delphi(run, tmp_path)",
    ),
    "crosscoder evaluate discovery zoo runs/zoo": (
        "tests/test_evaluate_discovery.py",
        "evaluate_discovery(zoo, out",
    ),
    "torchrun --standalone --nproc-per-node 8 --no-python crosscoder harvest pair.yaml --part env": (
        "tests/training/test_harvest_parts.py",
        '"torch.distributed.run",',
    ),
    "crosscoder harvest pair.yaml output=runs/served --from-files served": (
        "tests/training/test_outside_harvest.py",
        '"--from-files", tmp_path / "files"',
    ),
    "torchrun --standalone --nproc-per-node 8 -m crosscoder run pair.yaml": (
        "tests/test_ranks.py",
        '"torch.distributed.run",',
    ),
    "crosscoder browse runs/my-pair --serve --live": (
        "tests/analysis/live/test_command.py",
        '"--serve", "--live"',
    ),
}
"""Commands that would start this very test, install, ask a server or be one: the file that does it, and what stands there."""

SMALL = {
    "org/base-model, revision: 0123abc": "base-model",
    "org/base-model": "base-model",
    "model.layers.15": "model.layers.1",
    "n_latents: 16384": "n_latents: 48",
    "n_latents: 1024": "n_latents: 24",
    "k: 64": "k: 6",
    "# gpu.yaml": "# gpu.yaml\ndiscovery: {prompts: 40, variants: 1, nulls: [itself], attribute: 0}",
    "controls: {seeds: 2}": "controls: {seeds: 2}\ntraining: {n_tokens: 6000}\ndiscovery: {prompts: 40, variants: 1, nulls: [itself], attribute: 0}",
    "k: 32": "k: 4",
    "n_tokens: 50_000_000": "n_tokens: 6000",
    "n_tokens: 50_000_000}": "n_tokens: 6000}\ndiscovery: {prompts: 40, variants: 1, nulls: [itself], attribute: 0}",
    "n_tokens: 2_000_000": "n_tokens: 4000",
    "s3://my-bucket": "memory://my-bucket",
    "--k 32,48,64,96": "--k 2,4,6,8",
    "crosscoder.sparsity.k=48": "crosscoder.sparsity.k=4",
    "training.n_tokens=20000": "training.n_tokens=4000 controls.drift=false controls.identity=false controls.shuffled=false",
    "--k 8 --seeds 1": "--k 8 --seeds 1 training.n_tokens=20000",
    "text.answers=true": "text.answers=true text.max_length=128",
    "bench step": "bench step shape.n_latents=512 shape.d_model=32 shape.batch_tokens=256 shape.k=8 large=null --repeats 1",
}
"""What stands in the documents, and what is put in its place here: other sizes and names, nothing else."""


def small(text: str) -> str:
    """Each place is exchanged once, the longest match first."""
    for found in sorted(SMALL, key=len, reverse=True):
        text = text.replace(found, f"\0{list(SMALL).index(found)}\0")
    for index, shown in enumerate(SMALL.values()):
        text = text.replace(f"\0{index}\0", shown)
    return text


def test_every_stand_in_is_used() -> None:
    everything = "\n".join(path.read_text(encoding="utf-8") for path in GUIDES)
    assert [found for found in SMALL if found not in everything] == []


def test_commands_run_elsewhere_are_run_there() -> None:
    typed = {command for _, command in commands()}
    for command, (place, done) in ELSEWHERE.items():
        assert command in typed
        assert done in (ROOT / place).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LOGS)
def test_commands_of_a_log_are_commands_still(name: str) -> None:
    lines = [
        line.strip()
        for fence in fences(ROOT / "docs" / f"{name}.md")
        for line in fence.text.splitlines()
        if line.startswith("crosscoder ")
    ]
    assert lines
    group = typer.main.get_command(app)
    for line in lines:
        _, verb, *words = shlex.split(line)
        parsed: Any = group
        while hasattr(parsed, "commands"):
            if parsed is not group:
                verb, *words = words
            parsed = parsed.commands[verb]
        # Raises where an option is not known or a value cannot be read.
        parsed.make_context(verb, list(words))


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: models, an adapter, texts, questions, arrays, the run of docs/own_pair.md and its behavior."""
    folder = tmp_path_factory.mktemp("user")
    base = save_llama(folder / "base-model")
    for seed, name in enumerate(("step-1000", "step-2000", "my-fine-tune"), start=1):
        _save_changed(base, folder / name, seed)
    save_adapter(base, folder / "my-lora")
    chat, prose = write_texts(folder / "texts", 40)
    chat.rename(folder / "chats.jsonl")
    prose.rename(folder / "prose.jsonl")
    questions = [{"messages": [{"role": "user", "content": f"{word} {i}?"}]} for i, word in enumerate(WORDS)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in questions))
    generator = np.random.default_rng(0)
    shared = generator.standard_normal((3000, 16)).astype(np.float32)
    np.save(folder / "a.npy", shared)
    np.save(folder / "b.npy", shared + 0.3 * generator.standard_normal((3000, 16)).astype(np.float32))
    for name in ("configs", "crosscoder"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        first = next(fence for fence in fences(ROOT / "docs" / "own_pair.md") if fence.file == "pair.yaml")
        carry_out(first)
        type_command("crosscoder run pair.yaml")
        carry_out(next(fence for fence in fences(ROOT / "docs" / "behaviors.md") if fence.file))
        type_command("crosscoder attribute runs/my-pair refusal.yaml")
    return folder


def _save_changed(base: Path, folder: Path, seed: int) -> None:
    """The base model with weights that have moved a little, further for each seed."""
    shutil.copytree(base, folder)
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * seed * torch.randn_like(parameter))
    model.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of importing sae-lens
@pytest.mark.parametrize(
    "path", [path for path in GUIDES if path.stem not in LOGS + RECIPES], ids=lambda path: path.stem
)
def test_a_document_does_what_it_says(path: Path, user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user_folder)
    names: dict[str, Any] = {"activations": torch.randn(5, 2, 16)}
    for fence in fences(path):
        carry_out(fence, names)


def carry_out(fence: Fence, names: dict[str, Any] | None = None) -> None:
    """Write the file, type the commands, run the Python."""
    if fence.file is not None:
        Path(fence.file).write_text(small(fence.text), encoding="utf-8")
    for command in fence.commands:
        if command not in ELSEWHERE:
            type_command(command)
    if fence.language == "python":
        exec(compile(fence.text, "a document", "exec"), names)


def type_command(command: str) -> None:
    """Run one command of the console. A requirement that is not met is an answer: exit code 3."""
    program, *words = shlex.split(small(command))
    assert program == "crosscoder", f"{command}: not a command of this project, and not named in ELSEWHERE"
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code in ({0, 3} if "--require" in words else {0}), f"{command}\n{done.output}"
