"""The run folder: the path of every file of a run, its settings, and the record of its stages."""

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
from ..config.open_settings import HOOKPOINT, OPEN_SETTINGS, with_choices
from ..errors import ConfigError, FormatError, did_you_mean
from ..runtime.files import make_folder, read_json, write_atomic

SCHEMA_VERSION = 1
"""Version of manifest.json."""

RESULT_NEUTRAL_SETTINGS = ("output", "wandb", "threads", "training.log_every")
"""Settings that change no result: the folder, the logging, the number of threads."""

ANALYSIS_SETTINGS = ("analysis", "behaviors", "controls", "discovery", "survey")
"""Settings of the analysis, the controls, the search for changed behaviors and the survey: they change neither activations nor the dictionary's weights."""

DICTIONARY_SETTINGS = ("crosscoder", "training")
"""Settings of the dictionary: no result depends on them until training starts, so they may change after a harvest or sweep."""

_LIBRARIES = (
    "crosscoder", "jaxtyping", "numpy", "pandas", "peft", "pyarrow", "pydantic", "sae-lens", "safetensors", "tokenizers",
    "torch", "transformers", "wandb",
)  # fmt: skip


class RunFolder:
    """One run on disk. Verbs that write results use `create`, verbs that only read use `open`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """The record of inputs, versions, commands and durations."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """Training metrics, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def survey(self) -> Path:
        """The comparison of the models before any dictionary."""
        return self.path / "survey.json"

    @property
    def sweep(self) -> Path:
        """Folder of the dictionaries of a sweep, with its choice in sweep.json."""
        return self.path / "sweep"

    @property
    def crosscoder(self) -> Path:
        """Folder of the trained dictionary; loads on its own."""
        return self.path / "crosscoder"

    @property
    def linear_map(self) -> Path:
        """Linear maps between models that share no space (`crosscoder.activations.linear_map`); exists only for such pairs."""
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
        """Folder of the analysis of the dictionary."""
        return self.path / "analysis"

    @property
    def features(self) -> Path:
        """One row per latent."""
        return self.analysis / "features.parquet"

    @property
    def examples(self) -> Path:
        """Examples of tokens that each latent fires on."""
        return self.analysis / "examples.parquet"

    @property
    def histograms(self) -> Path:
        """Histograms of the activations of each latent, by text source."""
        return self.analysis / "histograms.parquet"

    @property
    def trajectories(self) -> Path:
        """The course of each latent over the checkpoints; exists only with snapshots."""
        return self.analysis / "trajectories.parquet"

    @property
    def neighbors(self) -> Path:
        """The nearest latents of each latent, by direction."""
        return self.analysis / "neighbors.parquet"

    @property
    def rules(self) -> Path:
        """Rules that predict where a latent fires, with their scores, for the most important latents."""
        return self.analysis / "rules.parquet"

    @property
    def explanations(self) -> Path:
        """Folder of automated explanations: explanations.parquet and every reply."""
        return self.path / "explanations"

    @property
    def logits(self) -> Path:
        """Logit tables: the tokens that each latent promotes and suppresses, per model."""
        return self.analysis / "logits.parquet"

    @property
    def summary(self) -> Path:
        """Counts per label and quality of the dictionary."""
        return self.analysis / "summary.json"

    @property
    def behaviors(self) -> Path:
        """Folder with one subfolder per attributed behavior."""
        return self.path / "behaviors"

    @property
    def discovery(self) -> Path:
        """Folder of what was found without being told: findings.json, the answers of both models, and files of behaviors."""
        return self.path / "discovery"

    @property
    def findings(self) -> Path:
        """Behaviors that changed, found without being told."""
        return self.discovery / "findings.json"

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
        """Folder of the figures and their numbers."""
        return self.path / "plots"

    @property
    def drift(self) -> Path:
        """The null pair that the control `drift` is trained on; in the folder of that control."""
        return self.path / "drift.safetensors"

    @property
    def wandb(self) -> Path:
        """Folder that wandb writes to."""
        return self.path / "wandb"

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> Self:
        """Open the run folder at `path` with these settings, and create it if missing.

        An existing run may differ in `RESULT_NEUTRAL_SETTINGS`, `ANALYSIS_SETTINGS` and, until training starts,
        `DICTIONARY_SETTINGS`; config.yaml then takes the new values. A setting that is left open stands for what the run chose,
        and a hookpoint that it has not chosen yet takes any value. A folder without results, e.g. after a model was not found, takes any settings.

        Raises:
            ConfigError: Another setting differs, or `path` is not a folder.
        """
        folder = cls(path)
        make_folder(folder.path, "output")
        text = dump_config(config)
        if folder.config.exists():
            if folder.config.read_text(encoding="utf-8") == text:
                return folder
            if folder.has_results():
                started = folder.training_started()
                free = () if started else DICTIONARY_SETTINGS
                folder.require_same(config, (*RESULT_NEUTRAL_SETTINGS, *ANALYSIS_SETTINGS, *free))
                settled = OPEN_SETTINGS if started else (HOOKPOINT,)
                text = dump_config(with_choices(config, load_config(folder.config), settled))
            else:
                folder.manifest.unlink(missing_ok=True)
        write_atomic(folder.config, text)
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the run at `path`. Raises ConfigError if there is none."""
        folder = cls(path)
        if folder.config.is_file():
            return folder
        if folder.path.is_dir():
            raise ConfigError(
                f"{path}: not a run folder, it contains no config.yaml; create a run with `crosscoder run CONFIG`"
            )
        if folder.path.exists():
            raise ConfigError(f"{path}: is a file, expected a run folder")
        parent = folder.path.parent
        hint = (
            did_you_mean(folder.path.name, [entry.name for entry in parent.iterdir()])
            if parent.is_dir()
            else ""
        )
        raise ConfigError(f"{path}: no such run folder{hint}")

    def read_config(self) -> RunConfig:
        """Read the settings of this run, with `output` set to the current path of the folder."""
        return load_config(self.config).model_copy(update={"output": self.path})

    def has_results(self) -> bool:
        """Whether the folder holds any result, finished or not: a file other than the settings and the records."""
        records = (self.config, self.manifest, self.wandb)
        return any(
            entry not in records and (not entry.is_dir() or any(entry.iterdir()))
            for entry in self.path.iterdir()
        )

    def training_started(self) -> bool:
        """Whether training of this run started or finished."""
        if self.crosscoder.exists() or self.checkpoints.exists():
            return True
        return "train" in self.read_manifest().get("stages", {})

    def require_same(self, config: RunConfig, may_differ: tuple[str, ...] = RESULT_NEUTRAL_SETTINGS) -> None:
        """Check that this run has the given settings; what they leave open stands for what the run chose.

        Raises ConfigError for the first that differs and is not in `may_differ`."""
        settings = load_config(self.config)
        stored = dict(leaves(settings.model_dump(mode="json")))
        requested = dict(leaves(with_choices(config, settings).model_dump(mode="json")))
        for place in dict.fromkeys((*requested, *stored)):
            if _listed(place, may_differ) or (
                place in stored and place in requested and stored[place] == requested[place]
            ):
                continue
            if place == HOOKPOINT and stored.get(place) is None:
                # A search alone, without a dictionary, leaves it open.
                continue
            found, wanted = (
                show(values[place]) if place in values else "unset" for values in (stored, requested)
            )
            raise ConfigError(
                f"{'.'.join(place)}: the run in {self.path} has {found}, but {wanted} was requested; "
                "give another output, or remove that folder"
            )

    def read_manifest(self) -> dict[str, Any]:
        """Read manifest.json; only the schema version if it does not exist yet.

        Raises:
            FormatError: The file is damaged or has another version.
        """
        try:
            manifest = read_json(self.manifest, "the run cannot be continued")
        except FileNotFoundError:
            return {"schema_version": SCHEMA_VERSION}
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        if version != SCHEMA_VERSION:
            raise FormatError(
                f"{self.manifest}: schema_version is {version!r}, but this release reads {SCHEMA_VERSION}"
            )
        return manifest

    def update_manifest(self, section: str, values: dict[str, Any]) -> None:
        """Merge `values` into one section of manifest.json; existing keys are replaced."""
        manifest = self.read_manifest()
        manifest[section] = {**manifest.get(section, {}), **values}
        write_atomic(self.manifest, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Record one stage in manifest.json: command line, versions, wall seconds, and what the body adds, e.g.
        `stage["tokens"]`. Seconds of interrupted attempts are included; `finished` is true once the stage completed.
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
