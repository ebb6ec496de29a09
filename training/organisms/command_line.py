"""Command line shared by the commands that make an intervened model: arguments, and the reference to start from."""

import argparse
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

from crosscoder.demo.smollm2 import NAME, prepare

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Recipe = TypeVar("Recipe", bound=DataclassInstance)
else:
    Recipe = TypeVar("Recipe")


class Arguments(NamedTuple):
    """Arguments of a command other than its recipe."""

    out: Path
    reference: Path
    """A converted SmolLM2 folder."""


@contextmanager
def command_line(description: str, out: str, recipe: type[Recipe]) -> Iterator[tuple[Arguments, Recipe]]:
    """Parse the arguments and prepare the reference; a temporary one is removed at the end of the block.

    Every field of `recipe` that is an int, a float or a text is an option too.

    Raises:
        DataError: The package of the reference is not installed.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path, help=out)
    parser.add_argument(
        "--reference",
        type=Path,
        help="a converted SmolLM2 folder, created if missing (default: a temporary one)",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for field in fields(recipe):
        if field.type in (int, float, str):
            parser.add_argument("--" + field.name.replace("_", "-"), type=field.type, default=field.default)
    options = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(options.pop("threads"))
    out_folder, reference = options.pop("out"), options.pop("reference")
    chosen_recipe = recipe(**options)
    with tempfile.TemporaryDirectory() as scratch:
        yield Arguments(out_folder, prepare(reference or Path(scratch) / NAME)), chosen_recipe
