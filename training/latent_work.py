"""What the ranks other than 0 do for a dictionary whose latents they share (`latent_division`).

Rank 0 announces a training, and afterwards what it needs of the trained dictionary, which stays divided:

    latents       train it, from its settings
    measure       evaluate it on held-out tokens
    reconstruct   reconstruct the activations that rank 0 sends
    save          give the weights, of which rank 0 writes the file
"""

from pathlib import Path
from typing import Any

import torch

from crosscoder.dictionary.divided_weights import give_weights
from crosscoder.run.folder import RunFolder
from crosscoder.run.settings_record import read_settings
from crosscoder.run.tracking import WandbRun

from .inputs import set_threads
from .latent_division import TASK, AwaitedTokens, reconstruct, told_facts
from .trainer import Trainer


class LatentHelper:
    """A rank that holds a range of the latents of the dictionary that rank 0 trains."""

    TASKS = (TASK, "measure", "reconstruct", "save")
    """Names of the tasks that it carries out."""

    def __init__(self) -> None:
        self._trainer: Trainer | None = None

    def carry_out(self, task: dict[str, Any]) -> None:
        """Carry out what rank 0 announced, together with it."""
        if task["name"] == TASK:
            self._train(task)
            return
        assert self._trainer is not None, "rank 0 uses a dictionary after its training"
        crosscoder, held_out = self._trainer.state.crosscoder, self._trainer.held_out
        match task["name"]:
            case "measure":
                held_out.measure(crosscoder)
            case "reconstruct":
                reconstruct(crosscoder, torch.empty(task["shape"], device=crosscoder.W_enc.device))
            case "save":
                give_weights(crosscoder)
            case name:
                raise ValueError(f"no task {name!r}")

    def _train(self, task: dict[str, Any]) -> None:
        # Frees the dictionary before, of which rank 0 needs nothing more.
        self._trainer = None
        folder = RunFolder(Path(task["output"]))
        config = read_settings(task["settings"], folder.manifest, folder.path)
        set_threads(config)
        self._trainer = Trainer(config, AwaitedTokens(told_facts(task)), folder, WandbRun(None))
        self._trainer.fit()
