"""Logs metrics to RUN/metrics.jsonl, and to a Weights & Biases run if the settings enable it.

metrics.jsonl is the record. wandb is a mirror: its first failure is logged once and never stops a run.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..config import RunConfig, WandbConfig
from ..runtime.digests import digest_of_parts
from ..runtime.file_record import FileRecord
from ..runtime.files import append_line, write_atomic
from ..runtime.json_text import parse_json
from .folder import RunFolder

logger = logging.getLogger(__name__)

ARTIFACT_SCHEME = "wandb:"
"""Begins the name of an artifact where a dictionary is named."""


class MetricsLog:
    """RUN/metrics.jsonl: one JSON object per line, with `step` and `tokens`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = digest_of_parts()

    def digest(self) -> str:
        """Return the digest of all lines since the first step; a checkpoint holds it."""
        return self._digest.hexdigest()

    def truncate(self, step: int) -> None:
        """Begin the log, or drop the lines after `step`, which a run resumed from a checkpoint writes again."""
        kept = self._until(step)
        content = "".join(line + "\n" for line in kept)
        if self.path.exists():
            write_atomic(self.path, content)
        self._digest = digest_of_parts(content.encode())
        if (record := FileRecord.of(self.path)) is not None:
            record.begin(self.path)

    def finish(self) -> None:
        """End the log, and note its digest in the record of the run."""
        if (record := FileRecord.of(self.path)) is not None:
            record.finish(self.path)

    def _until(self, step: int) -> list[str]:
        """Return the lines of the file up to a step."""
        if not self.path.exists():
            return []
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if parse_json(line)["step"] <= step:
                    kept.append(line)
            except ValueError:
                # A killed process can leave an incomplete last line, from a step after the checkpoint.
                logger.warning("%s: dropped an incomplete line", self.path)
        return kept

    def write(self, step: int, tokens: int, values: Mapping[str, float | list[int] | None]) -> None:
        """Append one line. Raises ResourceError if the disk is full."""
        line = json.dumps({"step": step, "tokens": tokens, **values})
        append_line(self.path, line)
        self._digest.update(line.encode() + b"\n")


class WandbRun:
    """One wandb run. No call raises: the first failure is logged once, and later calls do nothing."""

    def __init__(self, run: Any) -> None:
        self._run = run

    @property
    def id(self) -> str | None:
        """wandb's id of the run."""
        return None if self._run is None else str(self._run.id)

    def log(self, values: Mapping[str, Any], tokens: int) -> None:
        """Log metrics at a number of tokens; numpy histograms `(counts, edges)` become wandb histograms."""
        self._try(
            lambda run: run.log(
                {"tokens": tokens, **{name: _for_wandb(value) for name, value in values.items()}}
            )
        )

    def histograms(self, values: Mapping[str, tuple[Any, Any]]) -> None:
        """Log final histograms, given as numpy `(counts, edges)`."""
        self._try(lambda run: run.log({name: _for_wandb(value) for name, value in values.items()}))

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Log a small table; `Markup` cells are shown as HTML."""

        def log(run: Any) -> None:
            import wandb

            cells = [[_cell_for_wandb(cell) for cell in row] for row in rows]
            run.log({name: wandb.Table(columns=columns, data=cells)})  # pyright: ignore[reportArgumentType]

        self._try(log)

    def html(self, name: str, page: str) -> None:
        """Log an HTML page as a panel."""
        self._try(lambda run: run.log({name: _cell_for_wandb(Markup(page))}))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the summary metrics of the run."""
        self._try(lambda run: run.summary.update(dict(values)))

    def settings(self, config: RunConfig) -> None:
        """Replace the recorded settings, once those that were left open are chosen."""
        self._try(lambda run: run.config.update(config.model_dump(mode="json"), allow_val_change=True))

    def artifact(self, name: str, kind: str, folder: Path, metadata: Mapping[str, Any]) -> str | None:
        """Log a folder as an artifact; return the name that it can be loaded by, None if wandb is offline or fails."""
        address = None

        def log(run: Any) -> None:
            import wandb

            nonlocal address
            artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
            artifact.add_dir(str(folder))
            run.log_artifact(artifact)
            # An offline run belongs to nobody yet.
            if not run.offline and run.entity:
                address = f"{ARTIFACT_SCHEME}{run.entity}/{run.project}/{name}:latest"

        self._try(log)
        return address

    def finish(self) -> None:
        """Close the run."""
        self._try(lambda run: run.finish())
        self._run = None

    def _try(self, action: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # noqa: BLE001  a failing mirror must not stop the run; metrics.jsonl continues
            logger.warning(
                "wandb: logging failed (%s: %s); continuing with metrics.jsonl only",
                type(error).__name__,
                error,
            )
            self._run = None


def _for_wandb(value: Any) -> Any:
    if isinstance(value, tuple):
        import wandb

        counts, edges = value
        return wandb.Histogram(np_histogram=(counts, edges))
    return value


def _cell_for_wandb(value: Any) -> Any:
    if isinstance(value, Markup):
        import wandb

        # Without wandb's additions to the page, which would load from its server.
        return wandb.Html(str(value), inject=False)
    return value


_open: dict[Path, WandbRun] = {}


@contextmanager
def wandb_run(folder: RunFolder, config: RunConfig) -> Iterator[WandbRun]:
    """Open the wandb run of a run folder; nested stages share it, and the outermost closes it.

    The manifest stores its id. A later command on the same folder resumes that run when online; offline, where wandb
    cannot resume, it starts a new run in the old one's group.
    """
    key = folder.path.resolve()
    if key in _open:
        yield _open[key]
        return
    _open[key] = WandbRun(_start(folder, config))
    try:
        yield _open[key]
    finally:
        _open.pop(key).finish()


def wandb_mode(config: WandbConfig) -> str:
    """Return the effective mode: WANDB_DISABLED and WANDB_MODE (with its old values) override the config."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        return "disabled"
    mode = os.environ.get("WANDB_MODE") or config.mode
    return {"dryrun": "offline", "run": "online"}.get(mode, mode)


def _start(folder: RunFolder, config: RunConfig) -> Any:
    mode = wandb_mode(config.wandb)
    if mode == "disabled":
        return None
    try:
        import wandb

        earlier = folder.read_manifest().get("wandb", {}).get("id")
        offline_again = earlier is not None and mode == "offline"
        folder.wandb.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            mode="offline" if mode == "offline" else "online",
            project=config.wandb.project,
            entity=config.wandb.entity,
            name=config.wandb.name,
            group=config.wandb.group or (earlier if offline_again else None),
            tags=list(config.wandb.tags),
            notes=f"continues run {earlier}" if offline_again else None,
            id=None if offline_again else earlier,
            resume=None if offline_again or earlier is None else "allow",
            config=config.model_dump(mode="json"),
            dir=str(folder.wandb.parent),
            settings=wandb.Settings(silent=True),
        )
        run.define_metric("tokens")
        run.define_metric("*", step_metric="tokens")
        folder.update_manifest("wandb", {"id": str(run.id), "mode": mode})
        return run
    except Exception as error:  # noqa: BLE001  see WandbRun._try
        logger.warning(
            "wandb: could not start (%s: %s); continuing with metrics.jsonl only", type(error).__name__, error
        )
        return None
