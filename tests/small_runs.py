"""The smallest finished runs on the toy pair, made by the command in this process, for tests of whole run folders."""

import contextlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crosscoder.command.app import app

SETTINGS = [
    "crosscoder.n_latents=32",
    "training.n_tokens=20000",
    "training.batch_tokens=512",
    "training.checkpoint_every=10",
    "training.evaluate_every=20",
    "activations.shard_tokens=8192",
    "text.max_length=32",
    "controls.seeds=1",
    "discovery.prompts=30",
    "discovery.attribute=0",
    "wandb.mode=disabled",
    "threads=1",
]
BEHAVIOR = ["checks.draws=19", "checks.latent_draws=19", "checks.replicas=false"]


class Said(NamedTuple):
    """How a command ended."""

    code: int
    error: str


def crosscoder(*words: str | Path) -> Said:
    """Run the command in this process. An exception that is no user's error passes through."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()), quiet(), handlers():
        code = app([str(word) for word in words], standalone_mode=False)
    return Said(
        int(code or 0), "\n".join(line for line in errors.getvalue().split("\n") if "\r" not in line).strip()
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Switch progress bars off."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


@contextlib.contextmanager
def handlers() -> Iterator[None]:
    """Restore the handlers of signals afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make(folder: Path, *words: str) -> Path:
    """Make a run with every stage."""
    assert crosscoder("demo", folder, "--toy", *SETTINGS, *words) == Said(0, "")
    return folder
