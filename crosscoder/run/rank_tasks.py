"""Tasks that rank 0 announces to the other ranks of its command, which wait for them (`command.ranks`).

A task is a name, a run folder, its settings and plain values. Weights and activations are read from disk.
"""

from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..runtime.process_group import process_group
from .folder import RunFolder
from .settings_record import plain_settings, read_settings

Task = dict[str, Any]
"""An announced task: `name`, `output`, `settings`, and what else was told."""


def ranks_work_apart(config: RunConfig) -> bool:
    """Whether there are several ranks, each with whole dictionaries of its own; otherwise they divide the latents of each."""
    return process_group().size > 1 and config.training.latent_shards == 1


def announce(name: str, folder: RunFolder, config: RunConfig, **told: Any) -> None:
    """Let the other ranks begin with a task. Called on rank 0.

    Args:
        told: What JSON can hold.
    """
    process_group().broadcast(
        {"name": name, "output": str(folder.path), "settings": plain_settings(config), **told}
    )


def announce_end() -> None:
    """Send the other ranks home."""
    process_group().broadcast(None)


def next_task() -> Task | None:
    """Wait for a task of rank 0; None: there is none any more. Called on every other rank."""
    return process_group().broadcast()


def run_of(task: Task) -> tuple[RunFolder, RunConfig]:
    """Return the run folder of a task, and its settings."""
    folder = RunFolder(Path(task["output"]))
    return folder, read_settings(task["settings"], folder.manifest, folder.path)
