"""Loads a dictionary from wherever it is: a folder of ours, or files of another tool; on disk, or fetched (`source_places`)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from ...config.dictionary_source import DictionarySource
from ...errors import ConfigError, FormatError, first_line
from ...runtime.json_text import json_of
from ..crosscoder import Crosscoder
from ..storage import load_crosscoder as load_own
from ..storage import read_record
from .dictionary_files import SourceFiles
from .open_questions import Questions
from .registry import dialect_of
from .source_places import Place, located


@dataclass(frozen=True)
class Imported:
    """A dictionary, where it comes from, and what a person should know of its import."""

    crosscoder: Crosscoder
    provenance: dict[str, Any]
    notes: tuple[str, ...]
    origin: dict[str, Any]
    """The source, and what identifies its content: digests, and the commit on the Hub."""

    def summary(self) -> list[tuple[str, str]]:
        """Return what a person should check: lines of a name and a text."""
        config, origin = self.crosscoder.config, self.origin
        widths = ", ".join(
            f"{name} {width}" for name, width in zip(config.model_names, config.d_models, strict=True)
        )
        lines = [("dialect", origin.get("dialect", "crosscoder")), ("models", f"{widths} wide")]
        lines += [("latents", f"{config.n_latents}, {config.sparsity.kind}")]
        lines += [("given", f"{name} {_words(value)}") for name, value in origin.get("given", {}).items()]
        if origin.get("revision"):
            lines.append(("revision", origin["revision"]))
        return lines + [("note", note) for note in self.notes]


def import_dictionary(source: DictionarySource) -> Imported:
    """Read a dictionary of ours or of another tool.

    Raises:
        ConfigError: The files leave something open that was not given, or an answer has no effect.
        FormatError: The files are missing, damaged, in no known dialect, or not representable.
        ResourceError: wandb is not logged in.
    """
    with located(source) as place:
        return _read(source, place)


def _read(source: DictionarySource, found: Place) -> Imported:
    place, revision = found.path, found.revision
    if _is_own(place):
        return _own(source, place, revision)
    files, questions = SourceFiles(place, found.called), Questions(source)
    dialect = dialect_of(files, source.dialect)
    if source.dialect != "auto" and not dialect.recognizes(files):
        questions.note(f"read as {dialect.name} as asked, although its files do not look like it")
    try:
        reading = dialect.read(files, questions)
    except ValidationError as error:
        first = error.errors()[0]
        what = ": ".join(
            filter(None, (".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")))
        )
        raise FormatError(f"{files.place}: its settings do not fit {dialect.name} ({what})") from error
    except (
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        ValueError,
        RuntimeError,
        StopIteration,
    ) as error:
        raise FormatError(
            f"{files.place}: its files do not fit {dialect.name} ({type(error).__name__}: {first_line(error)})"
        ) from error
    questions.finish(dialect.name)
    names = reading.crosscoder.config.model_names
    given = source.model_dump(
        exclude_defaults=True, exclude={"source", "dialect", "revision", "subfolder"}, mode="json"
    )
    origin = {
        "source": source.source,
        "subfolder": source.subfolder,
        "revision": revision,
        "dialect": dialect.name,
        "given": given,
        "sha256": files.digests() | questions.digests,
        "described": json.loads(json.dumps(reading.described | found.described, default=str)),
        "notes": list(questions.notes),
    }
    provenance = {"reads": names[0] if len(names) == 1 else "paired", "imported": origin}
    return Imported(reading.crosscoder, provenance, tuple(questions.notes), origin)


def load_crosscoder(
    source: Path | str,
    device: str | torch.device = "cpu",
    *,
    dialect: str = "auto",
    revision: str | None = None,
    subfolder: str | None = None,
    **answers: Any,
) -> Crosscoder:
    """Load a dictionary: a folder of ours, or a folder, file or Hub id of another tool; `saelens:RELEASE/SAE_ID`, or
    `wandb:ENTITY/PROJECT/NAME:VERSION`.

    Args:
        dialect: The tool that wrote it; by default it is recognized.
        revision: Branch, tag or commit on the Hub.
        subfolder: Folder inside the source, e.g. of one hookpoint.
        answers: What the files do not say: `models`, `reads`, `direction`, `normalization`, `threshold` or `uncalibrated`,
            `activation`, `code_normalization` (see `crosscoder import --help`).

    Raises:
        ConfigError: The files leave something open that was not given, or an answer has no effect.
        FormatError: The files are missing, damaged, in no known dialect, or not representable.
        ResourceError: wandb is not logged in.
    """
    try:
        wanted = DictionarySource(
            source=str(source), dialect=dialect, revision=revision, subfolder=subfolder, **answers
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}, found {first['input']!r}"
        ) from None
    return import_dictionary(wanted).crosscoder.to(device)


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _is_own(place: Path) -> bool:
    """Whether there is a dictionary of ours; a folder without any file of settings says what ours would need."""
    config = place / "config.json"
    if place.is_dir() and not any(place.iterdir()):
        return True
    if not config.is_file():
        return False
    try:
        content = json_of(config)
    except ValueError:
        return True
    return isinstance(content, dict) and content.get("format") == "crosscoder"


def _own(source: DictionarySource, place: Path, revision: str | None) -> Imported:
    """Load our own folder, and keep its provenance. Answers are refused: our files leave nothing open."""
    crosscoder = load_own(place)
    Questions(source).finish("a dictionary of this toolkit")
    record = read_record(place)
    origin = {
        "source": source.source,
        "subfolder": source.subfolder,
        "revision": revision,
        "digest": record["digest"],
    }
    provenance = record.get("provenance", {})
    return Imported(
        crosscoder, provenance if revision is None else provenance | {"imported": origin}, (), origin
    )
