"""Python subprocesses that can import the packages of this repository from any folder."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(
    *words: str | Path,
    folder: Path | None = None,
    timeout: float | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run Python to completion, whatever its exit code.

    Args:
        words: Arguments of `python`.
        folder: Working directory.
        timeout: In seconds.
        variables: Environment variables, in addition to those of this process.
    """
    return subprocess.run(
        _command(words),
        cwd=folder,
        env=_environment() | dict(variables or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start_python(
    *words: str | Path, folder: Path, variables: Mapping[str, str] | None = None, asked: bool = False
) -> subprocess.Popen[str]:
    """Start Python with its output in pipes, and if it is `asked` with its input in one."""
    return subprocess.Popen(
        _command(words),
        cwd=folder,
        env=_environment() | dict(variables or {}),
        stdin=subprocess.PIPE if asked else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _command(words: tuple[str | Path, ...]) -> list[str]:
    return [sys.executable, *map(str, words)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
