"""A run folder: where each file of a run lies, which settings it was made with, and what was done to it."""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from ..config import RunConfig
from ..config.introspection import Place, leaves
from ..config.load import dump_config, load_config
from ..config.messages import show
from ..errors import ConfigError, FormatError, did_you_mean
from ..runtime.files import write_atomic

SCHEMA_VERSION = 1
"""Version of manifest.json."""

WITHOUT_EFFECT = ("output", "wandb", "threads", "training.log_every")
"""Settings that change no result: where it lies, what is logged, how many cores compute it."""

READING = ("analysis", "behaviors", "controls", "survey")
"""Settings of how a dictionary is read and checked: they change nothing that harvest and training make of it."""

DICTIONARY = ("crosscoder", "training")
"""Settings of the dictionary: nothing depends on them before it is trained, so a harvest or a sweep leaves them free."""

_LIBRARIES = (
    "crosscoder", "jaxtyping", "numpy", "pandas", "peft", "pyarrow", "pydantic", "sae-lens", "safetensors", "tokenizers",
    "torch", "transformers", "wandb",
)  # fmt: skip


class RunFolder:
    """One run on disk. `create` for the verbs that make something, `open` for those that read it."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def config(self) -> Path:
        """The settings, as resolved."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """What was read, with which versions and commands, how long it took."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, written while training."""
        return self.path / "metrics.jsonl"

    @property
    def survey(self) -> Path:
        """What the models differ in before any dictionary."""
        return self.path / "survey.json"

    @property
    def sweep(self) -> Path:
        """Folder of the dictionaries of a sweep, and of what it chose: sweep.json."""
        return self.path / "sweep"

    @property
    def crosscoder(self) -> Path:
        """Folder of the trained dictionary; loads alone."""
        return self.path / "crosscoder"

    @property
    def linear_map(self) -> Path:
        """Maps between models that share no space (`crosscoder.activations.linear_map`); there only where they are needed."""
        return self.path / "frame.safetensors"

    @property
    def checkpoints(self) -> Path:
        """Folder of resumable training states."""
        return self.path / "checkpoints"

    @property
    def activations(self) -> Path:
        """Folder of activations on disk."""
        return self.path / "activations"

    @property
    def analysis(self) -> Path:
        """Folder of everything read off the dictionary."""
        return self.path / "analysis"

    @property
    def features(self) -> Path:
        """One row a latent."""
        return self.analysis / "features.parquet"

    @property
    def examples(self) -> Path:
        """Where each latent fires."""
        return self.analysis / "examples.parquet"

    @property
    def histograms(self) -> Path:
        """How often each latent fires how strongly, by source of text."""
        return self.analysis / "histograms.parquet"

    @property
    def trajectories(self) -> Path:
        """What becomes of each latent over the checkpoints of a chain; only with snapshots."""
        return self.analysis / "trajectories.parquet"

    @property
    def neighbors(self) -> Path:
        """The latents whose directions lie nearest to each."""
        return self.analysis / "neighbors.parquet"

    @property
    def rules(self) -> Path:
        """A short rule for where a latent fires, and how well it tells; of the latents that matter most."""
        return self.analysis / "rules.parquet"

    @property
    def explanations(self) -> Path:
        """Folder of what a language model wrote of latents: explanations.parquet and every reply."""
        return self.path / "explanations"

    @property
    def logits(self) -> Path:
        """Which tokens each latent points at, per model."""
        return self.analysis / "logits.parquet"

    @property
    def summary(self) -> Path:
        """Counts per label, and the quality of the dictionary."""
        return self.analysis / "summary.json"

    @property
    def behaviors(self) -> Path:
        """Folder of one folder a behavior that was attributed."""
        return self.path / "behaviors"

    @property
    def report(self) -> Path:
        """Folder of report.json, report.md and report.html."""
        return self.path / "report"

    @property
    def browser(self) -> Path:
        """Folder of the page, index.html."""
        return self.path / "browser"

    @property
    def plots(self) -> Path:
        """Folder of the figures, and of the numbers behind each."""
        return self.path / "plots"

    @property
    def drift(self) -> Path:
        """The null pair that the control `drift` is trained on; in the control's own folder."""
        return self.path / "drift.safetensors"

    @property
    def wandb(self) -> Path:
        """Folder that wandb writes into."""
        return self.path / "wandb"

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> Self:
        """The run folder at `path` for these settings, made where it is missing.

        A folder that holds a run already is taken when its settings differ in nothing but what changes no result
        (`WITHOUT_EFFECT`), how the dictionary is read (`READING`), or, before its training began, the dictionary
        (`DICTIONARY`); config.yaml then takes the new values. One in which nothing was made yet, since a model was not found or an
        array does not fit, is begun anew with any settings.
        Raises ConfigError where any other setting differs, and where `path` is no folder.
        """
        folder = cls(path)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(f"output: {str(path)!r} is a file or lies under one; name a folder") from None
        except PermissionError:
            raise ConfigError(
                f"output: {str(path)!r} cannot be made (permission denied); name another folder"
            ) from None
        text = dump_config(config)
        if folder.config.exists():
            if folder.config.read_text(encoding="utf-8") == text:
                return folder
            if folder.holds_results():
                free = () if folder.training_began() else DICTIONARY
                folder.require_same(config, (*WITHOUT_EFFECT, *READING, *free))
            else:
                folder.manifest.unlink(missing_ok=True)
        write_atomic(folder.config, text)
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run that lies at `path`. Raises ConfigError where there is none."""
        folder = cls(path)
        if folder.config.is_file():
            return folder
        if folder.path.is_dir():
            raise ConfigError(
                f"{path}: not a run folder, it holds no config.yaml; make one with `crosscoder run CONFIG`"
            )
        if folder.path.exists():
            raise ConfigError(f"{path}: is a file, expected a run folder")
        parent = folder.path.parent
        near = (
            did_you_mean(folder.path.name, [entry.name for entry in parent.iterdir()])
            if parent.is_dir()
            else ""
        )
        raise ConfigError(f"{path}: no such run folder{near}")

    def read_config(self) -> RunConfig:
        """The settings of this run, its output being wherever the folder lies now."""
        return load_config(self.config).model_copy(update={"output": self.path})

    def holds_results(self) -> bool:
        """Whether anything was made here, finished or not: a file beside the settings and the records of what was begun."""
        records = (self.config, self.manifest, self.wandb)
        return any(
            entry not in records and (not entry.is_dir() or any(entry.iterdir()))
            for entry in self.path.iterdir()
        )

    def training_began(self) -> bool:
        """Whether a dictionary of this run is there, or a part of its training."""
        if self.crosscoder.exists() or self.checkpoints.exists():
            return True
        return "train" in self.read_manifest().get("stages", {})

    def require_same(self, config: RunConfig, may_differ: tuple[str, ...] = WITHOUT_EFFECT) -> None:
        """Raise ConfigError, naming the first setting outside `may_differ` that this run was made with otherwise."""
        there = dict(leaves(load_config(self.config).model_dump(mode="json")))
        asked = dict(leaves(config.model_dump(mode="json")))
        for place in dict.fromkeys((*asked, *there)):
            if _listed(place, may_differ) or (
                place in there and place in asked and there[place] == asked[place]
            ):
                continue
            found, wanted = (show(values[place]) if place in values else "unset" for values in (there, asked))
            raise ConfigError(
                f"{'.'.join(place)}: the run in {self.path} has {found}, but {wanted} was asked for; "
                "give another output, or remove that folder"
            )

    def read_manifest(self) -> dict[str, Any]:
        """What is known of this run; only the schema version where nothing was recorded yet.

        Raises FormatError where the file is damaged or of another version.
        """
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"schema_version": SCHEMA_VERSION}
        except ValueError as error:
            raise FormatError(
                f"{self.manifest}: not valid JSON ({error}); the run cannot be continued"
            ) from None
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        if version != SCHEMA_VERSION:
            raise FormatError(
                f"{self.manifest}: schema_version {version!r}, this release reads {SCHEMA_VERSION}"
            )
        return manifest

    def update_manifest(self, section: str, values: dict[str, Any]) -> None:
        """Add `values` to one section of manifest.json; keys that were there are replaced."""
        manifest = self.read_manifest()
        manifest[section] = {**manifest.get(section, {}), **values}
        write_atomic(self.manifest, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Record one stage in manifest.json: command line, versions, wall seconds, and what the body puts in, e.g.
        `stage["tokens"]`. Seconds of an interrupted attempt count; `finished` says whether the stage ended.
        """
        before = self.read_manifest().get("stages", {}).get(name, {})
        earlier = 0.0 if before.get("finished", True) else before["wall_seconds"]
        record: dict[str, Any] = {
            "command": _command_line(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "finished": False,
            "wall_seconds": earlier,
        }
        self.update_manifest("versions", _versions())
        self.update_manifest("stages", {name: record})
        noted: dict[str, Any] = {}
        begin = time.monotonic()
        try:
            yield noted
            record["finished"] = True
        finally:
            record["wall_seconds"] = round(earlier + time.monotonic() - begin, 3)
            self.update_manifest("stages", {name: {**record, **noted}})


def _listed(place: Place, names: tuple[str, ...]) -> bool:
    dotted = ".".join(place)
    return any(dotted == name or dotted.startswith(f"{name}.") for name in names)


def _command_line() -> str:
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for library in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):  # e.g. wandb, which may be absent
            found[library] = metadata.version(library)
    return found
