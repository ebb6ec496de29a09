"""The run folder: its settings, the check of its files, and the record of its stages."""

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Self

from ..config import RunConfig
from ..config.load import dump_config, load_config
from ..config.open_settings import HOOKPOINT, OPEN_SETTINGS, with_choices
from ..errors import ConfigError, FormatError, ResourceError, did_you_mean
from ..runtime import locks
from ..runtime.file_record import FILES, MISSING, FileRecord
from ..runtime.files import make_folder, read_json, write_atomic
from ..runtime.parts import Part
from ..runtime.replacement import is_partial
from ..runtime.run_date import use_date
from .mirror import copy_now
from .paths import RunPaths
from .process_record import about_this_process, command_line, versions
from .settings_record import (
    DICTIONARY_SETTINGS,
    RESULT_NEUTRAL_SETTINGS,
    SETTINGS_OF_STAGE,
    analysis_settings,
    difference,
    plain_settings,
    read_settings,
    with_dtypes,
)

SCHEMA_VERSION = 1
"""Version of manifest.json."""

_FOLDER_OF = {
    "analyze": "analysis/",
    "attribute": "behaviors/",
    "discover": "discovery/",
    "explain": "explanations/",
    "report": "report/",
}
"""The folder that each verb writes its results to."""

_MIXED_IF_CUT_SHORT = ("train", "survey", "analyze", "attribute", "discover")
"""Stages whose files belong together, so that a reader has to wait for the last one."""

_CLOCKS = ("command", "started", "wall_seconds")
"""Entries of the record of a stage that differ each time it runs."""

_WORKING = ".lock"
"""The lock file of the process that works in a run."""


class InUseError(ResourceError):
    """Another process works in a run folder."""


class RunFolder(RunPaths):
    """One run on disk. Verbs that write results use `create`, verbs that only read use `open`."""

    @property
    def files(self) -> FileRecord:
        """The digests of the files of this run (`crosscoder.runtime.file_record`)."""
        return FileRecord(self.path)

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> Self:
        """Open the run folder at `path` with these settings, and create it if missing.

        An existing run may differ in `RESULT_NEUTRAL_SETTINGS`, `analysis_settings` and, until training starts,
        `DICTIONARY_SETTINGS`; config.yaml then takes the new values. A setting that is left open stands for what the run chose,
        and a hookpoint that it has not chosen yet takes any value. A folder without results, e.g. after a model was not found, takes any settings.
        Files may be missing, since the stages make them again.

        Raises:
            ConfigError: Another setting differs, or `path` is not a folder.
            FormatError: A file was altered.
            ResourceError: Another process works in the folder, or the disk is full.
        """
        folder = cls(path)
        make_folder(folder.path, "output")
        with folder.locked():
            before = folder.config.read_text(encoding="utf-8") if folder.config.exists() else None
            has_results = folder.has_results()
            if has_results:
                folder.check_files(missing="")
                config = folder._continued(config)
            config = with_dtypes(config)
            text = dump_config(config)
            if not has_results and before != text:
                folder.manifest.unlink(missing_ok=True)
                folder.files.path.unlink(missing_ok=True)
            folder.files.create()
            if before != text:
                write_atomic(folder.config, text)
            folder._record_settings(config)
            folder.use_date()
        return folder

    def _continued(self, config: RunConfig) -> RunConfig:
        """Return the settings of a request, with what this run chose before; refuse others than it may have."""
        stored, started = self._settings(), self.training_started()
        if stored is None:
            return config
        later = analysis_settings(stored, harvested=self.harvest_began)
        free = (*RESULT_NEUTRAL_SETTINGS, *later, *(() if started else DICTIONARY_SETTINGS))
        self._require(stored, config, free, "was requested")
        return with_choices(config, stored, OPEN_SETTINGS if started else (HOOKPOINT,))

    @classmethod
    def find(cls, path: Path) -> Self:
        """Return the run at `path` without a look at its files. Raises ConfigError if there is none."""
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

    @classmethod
    def open(cls, path: Path, remakes: str | None = None) -> Self:
        """Open the run at `path` to read it, after a check of its files and of config.yaml.

        Args:
            remakes: The verb that opens it, if it writes results (`analyze`, `attribute`, `explain`): its own files may be missing, and
                its own settings may have changed.

        Raises:
            ConfigError: There is no run, or config.yaml was edited since the results were made.
            FormatError: A file of the run is missing, altered or of another run.
        """
        folder = cls.find(path)
        if folder.has_results():
            folder.check_files(missing=None if remakes is None else _FOLDER_OF.get(remakes))
            folder._require_unedited(remakes)
        return folder

    @contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Keep other processes from working in this run inside the block; the lock ends with the process.

        Args:
            shared: Other processes may read the run meanwhile, but not write results.

        Raises:
            InUseError: Another process works in it.
        """
        make_folder(self.path, "output")
        with ExitStack() as stack:
            begins = not shared and not locks.is_held(self.path / _WORKING)
            wait = "works in this run folder; wait until it ends, or give another output"
            stack.enter_context(self._held(_WORKING, wait, shared=shared))
            if begins:
                # What a killed process left half written; none is at work now.
                for path in filter(is_partial, self.path.rglob(".*.partial")):
                    path.unlink(missing_ok=True)
            yield

    @contextmanager
    def locked_part(self, part: Part, *, led: bool = False) -> Iterator[None]:
        """Keep other processes from the same part of the work inside the block, and from the run as a whole; other parts are free.

        Args:
            led: The process that works in the run has assigned the part to this one.

        Raises:
            InUseError: Another process works on this part, or in the run.
        """
        with ExitStack() as stack:
            if not led:
                stack.enter_context(self.locked(shared=True))
            wait = f"works on part {part.number} of {part.of}; wait until it ends"
            stack.enter_context(self._held(f".part-{part.number}-of-{part.of}.lock", wait))
            yield

    @contextmanager
    def _held(self, name: str, wait: str, *, shared: bool = False) -> Iterator[None]:
        """Hold a lock file of the run. Raises InUseError, which says that the holder `wait`s, if another process holds it."""
        with ExitStack() as stack:
            try:
                stack.enter_context(locks.hold(self.path / name, shared=shared, about=about_this_process()))
            except locks.HeldElsewhere as other:
                raise InUseError(f"{self.path}: {other.holder or 'another process'} {wait}") from None
            yield

    def forget_parts(self) -> None:
        """Remove the lock files of parts; call it inside `locked`, so that no process holds one."""
        for file in self.path.glob(".part-*.lock"):
            file.unlink(missing_ok=True)

    def check_files(self, missing: str | None = None) -> None:
        """Check that every file is the one that this run wrote.

        Args:
            missing: Names that begin with this may be missing, because the caller writes them; None: no file may be.

        Raises:
            FormatError: One is not, or the record of them is damaged.
        """
        for name, why in self.files.problems():
            if (
                why is MISSING
                and missing is not None
                and name.startswith(missing)
                and name != "manifest.json"
            ):
                continue
            raise FormatError(f"{self.path / name}: {why}; {self._remedy(name, why)}")

    def _remedy(self, name: str, why: str) -> str:
        if name == "manifest.json" or name.endswith(FILES):
            return "restore it from a copy, or make the run again in another output"
        verb = next((verb for verb, inside in _FOLDER_OF.items() if name.startswith(inside)), "run")
        words = ["crosscoder", verb, str(self.path)]
        if verb == "attribute":
            words.append(str(self.path.joinpath(*Path(name).parts[:2], "behavior.yaml")))
        again = f"run `{shlex.join(words)}` again"
        return f"restore it, or {again}" if why is MISSING else f"restore it, or remove it and {again}"

    def read_config(self) -> RunConfig:
        """Read the settings of this run, with `output` set to the current path of the folder."""
        return load_config(self.config).model_copy(update={"output": self.path})

    def has_results(self) -> bool:
        """Whether the folder holds any result, finished or not: a file other than the settings and the records."""
        own = (self.files.path, *self.path.glob(".*lock"))
        records = (self.config, self.manifest, self.wandb, *own)
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
        self._require(load_config(self.config), config, may_differ, "was requested")

    def require_finished(self) -> None:
        """Check that no stage was interrupted while it wrote: its files would not fit together. Raises FormatError."""
        for name, record in self.read_manifest().get("stages", {}).items():
            verb, _, behavior = name.partition(" ")
            if record.get("finished", True) or verb not in _MIXED_IF_CUT_SHORT:
                continue
            if behavior and not (self.behaviors / behavior).is_dir():
                continue  # A person removed it.
            command = shlex.join(["crosscoder", "run" if verb == "survey" else verb, str(self.path)])
            removable = f", or remove {self.behaviors / behavior}" if behavior else ""
            raise FormatError(
                f"{self.path}: `{name}` is not finished, so its files may not fit together; run `{command}` again{removable}"
            )

    def _require(
        self, stored: RunConfig, config: RunConfig, may_differ: Sequence[str], verb: str, remedy: str = ""
    ) -> None:
        if (found := difference(stored, config, may_differ)) is not None:
            raise ConfigError(
                f"{found.name}: the run in {self.path} has {found.stored}, but {found.asked} {verb}; "
                f"{remedy or 'give another output, or remove that folder'}"
            )

    def _settings(self) -> RunConfig | None:
        """Return the settings that the results were made with: those in manifest.json, or in config.yaml if it has none."""
        recorded = self.read_manifest().get("settings")
        if recorded is not None:
            return read_settings(recorded, self.manifest, self.path)
        return load_config(self.config) if self.config.exists() else None

    def use_date(self) -> None:
        """Let chat templates print the date on which this run began (`crosscoder.runtime.run_date`)."""
        if (recorded := self.read_manifest().get("date")) is not None:
            use_date(date.fromisoformat(recorded))

    def _record_settings(self, config: RunConfig) -> None:
        """Record the settings, and the date of the first day; that of a part of a run is the run's."""
        manifest, outer = self.read_manifest(), FileRecord.enclosing(self.path)
        begun = None if outer is None else type(self)(outer.root).read_manifest().get("date")
        today = datetime.now().date().isoformat()
        recorded = {"date": manifest.get("date") or begun or today, "settings": plain_settings(config)}
        if any(manifest.get(name) != value for name, value in recorded.items()):
            self._write_manifest(manifest | recorded)

    def _require_unedited(self, remakes: str | None) -> None:
        """Check that config.yaml holds the settings that the results were made with."""
        edited, stages = load_config(self.config), self.read_manifest().get("stages", {})
        free = () if self.training_started() else DICTIONARY_SETTINGS
        back = f"set it back in {self.config}"
        neutral, made = (*RESULT_NEUTRAL_SETTINGS, "behaviors"), self._settings() or edited
        free = (*neutral, *analysis_settings(made, harvested=self.harvest_began), *free)
        self._require(made, edited, free, "is in config.yaml", f"{back}, or make another run")
        for stage in SETTINGS_OF_STAGE.keys() & stages.keys() - {remakes}:
            used = read_settings(
                plain_settings(edited) | stages[stage].get("settings", {}), self.manifest, self.path
            )
            again = shlex.join(["crosscoder", "run" if stage == "survey" else stage, str(self.path)])
            self._require(used, edited, neutral, "is in config.yaml", f"run `{again}` again, or {back}")

    def read_manifest(self) -> dict[str, Any]:
        """Read manifest.json; only the schema version if it does not exist yet.

        Raises:
            FormatError: The file is damaged or has another version.
        """
        try:
            manifest = read_json(self.manifest, "the run cannot be continued")
        except (FileNotFoundError, NotADirectoryError):
            return {"schema_version": SCHEMA_VERSION}
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        if version != SCHEMA_VERSION:
            raise FormatError(
                f"{self.manifest}: schema_version is {version!r}, but this release reads {SCHEMA_VERSION}"
            )
        return manifest

    def update_manifest(self, section: str, values: dict[str, Any]) -> None:
        """Merge `values` into one section of manifest.json; existing keys are replaced."""
        with self.files.locked():
            manifest = self.read_manifest()
            before = manifest.get(section, {})
            manifest[section] = {**before, **values}
            if manifest[section] != before:
                self._write_manifest(manifest)

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_atomic(self.manifest, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Record one stage in manifest.json: command line, versions, wall seconds, its settings, and what the body adds, e.g.
        `stage["tokens"]`. Seconds of interrupted attempts are included; `finished` is true once the stage completed.

        An attempt that failed before it wrote a file leaves the record of a finished one as it was; one that wrote the same files again,
        or none because they were finished, leaves its command line and times.

        Raises:
            ResourceError: Another process works in this run.
        """
        with self.locked():
            manifest = self.read_manifest()
            before = manifest.get("stages", {}).get(name, {})
            earlier = 0.0 if before.get("finished", True) else before["wall_seconds"]
            record: dict[str, Any] = {
                "command": command_line(),
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "finished": False,
                "wall_seconds": earlier,
            }
            settings = manifest.get("settings", {})
            if name in SETTINGS_OF_STAGE and settings:
                record["settings"] = {section: settings[section] for section in SETTINGS_OF_STAGE[name]}
            self.update_manifest("versions", versions())
            self.update_manifest("stages", {name: record})
            noted: dict[str, Any] = {}
            begin, held = time.monotonic(), self._files_of(name)
            try:
                yield noted
                record["finished"] = True
            finally:
                record["wall_seconds"] = round(earlier + time.monotonic() - begin, 3)
                untouched = before.get("finished") and held and held == self._files_of(name)
                made = record | noted
                if untouched:
                    # The record says what made the files, which this attempt left as they were.
                    kept = {clock: before[clock] for clock in _CLOCKS}
                    made = made | kept if record["finished"] else before
                self.update_manifest("stages", {name: made})
        copy_now(self.path)

    def _files_of(self, stage: str) -> dict[str, list[str]]:
        """Return what is recorded of the files of a stage."""
        verb, _, behavior = stage.partition(" ")
        if not self.files.path.exists():
            return {}
        inside = (_FOLDER_OF.get(verb, f"{verb}.") + (f"{behavior}/" if behavior else ""),)
        if verb == "train":
            inside = "crosscoder/", "checkpoints/", "controls/", "metrics.jsonl"
        return {name: held for name, held in self.files.read().items() if name.startswith(inside)}
