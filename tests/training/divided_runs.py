"""Trainings by all ranks of a group, as rank 0 leads them: functions that `tests.groups.Group.run` carries out."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crosscoder.config import RunConfig
from crosscoder.dictionary.storage import load_crosscoder, save_crosscoder
from crosscoder.dictionary.views import view_rows
from crosscoder.runtime.interrupts import treat_sigterm_as_interrupt
from crosscoder.runtime.process_group import process_group
from tests.training.in_memory import DisturbedSource, make_trainer, planted_source, run_config
from training import trainer as trainer_module
from training.latent_division import reconstruct
from training.latent_work import LatentHelper
from training.sources import TokenSource

Outcome = dict[str, Any]


def together(lead: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on rank 0, and help it on the others; return its result, or what the helper holds at the end."""
    group, helper = process_group(), LatentHelper()
    if group.rank == 0:
        try:
            return lead(*arguments)
        finally:
            group.broadcast(None)
    try:
        while (task := group.broadcast()) is not None:
            helper.carry_out(task)
    except KeyboardInterrupt:
        # The end that rank 0 announces all the same.
        assert group.broadcast() is None
        return "interrupted"
    return helper


def train_cases(folder: Path, cases: dict[str, dict[str, Any]]) -> dict[str, Outcome]:
    """Train each case; rank 0 returns what each leaves behind, in FOLDER/NAME."""

    def lead() -> dict[str, Outcome]:
        return {
            name: train(divided(folder / name, **settings), planted_source())
            for name, settings in cases.items()
        }

    found = together(lead)
    return found if isinstance(found, dict) else {}


def divided(output: Path, **settings: Any) -> RunConfig:
    """Settings of a small run; rank 0 and the others share the latents if there are several."""
    crosscoder = settings.pop("crosscoder", {})
    config = run_config(output, latent_shards=process_group().size, **settings)
    return config.model_copy(update={"crosscoder": config.crosscoder.model_copy(update=crosscoder)})


def train(config: RunConfig, source: TokenSource) -> Outcome:
    """Train on rank 0, together with the others; return what the run leaves behind."""
    trainer = make_trainer(config, source)
    crosscoder = trainer.fit()
    measured = trainer.held_out.measure(crosscoder)
    rows = view_rows(source.sample(40), source.d_models, config.crosscoder.reads).float()
    reconstructed = reconstruct(crosscoder, rows)
    save_crosscoder(crosscoder, config.output / "crosscoder")
    lines = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    sent = getattr(trainer.ranks, "sent", 0)
    stored = load_crosscoder(config.output / "crosscoder")
    weights = dict(stored.state_dict())
    torch.testing.assert_close(reconstructed, stored.reconstruct(rows)[1], rtol=1e-4, atol=1e-4)
    return {
        "weights": weights,
        "lines": lines,
        "measured": measured,
        "sent": sent,
        "penalty": trainer.state.penalty,
    }


def stopped(folder: Path, at: int, rank: int, settings: dict[str, Any]) -> str | None:
    """Train until one rank receives SIGTERM in the step after `at`; return how it ended."""
    treat_sigterm_as_interrupt()

    def lead() -> str | None:
        config = divided(folder, **settings)
        try:
            train(config, DisturbedSource(planted_source(), at, _tell if rank else _stop_this))
        except KeyboardInterrupt:
            return "interrupted"
        return None

    before = trainer_module.Trainer.step
    if process_group().rank == rank != 0:
        trainer_module.Trainer.step = _stopping_at(at, before)
    try:
        return together(lead)
    finally:
        trainer_module.Trainer.step = before


def _tell(values: Tensor) -> Tensor:
    return values


def _stop_this(values: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGTERM)
    return values


def _stopping_at(at: int, step: Callable[..., Any]) -> Any:
    def stopping(self: Any, values: Tensor) -> Any:
        if self.state.step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, values)

    return stopping


def measured_costs(folder: Path, cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return, for each case, what this rank sends in a step, in how many calls, and the bytes of weights, gradients and moments."""
    found: dict[str, Any] = {}
    before = trainer_module.Trainer.step

    def measured(self: Any, values: Tensor) -> Any:
        sent, calls = self.ranks.sent, self.ranks.calls
        result = before(self, values)
        self.ranks.any(False)  # whether to stop, which the training asks after each step
        weights = list(self.state.crosscoder.parameters())
        moments = [
            self.state.optimizer.state[weight][name]
            for weight in weights
            for name in ("exp_avg", "exp_avg_sq")
        ]
        held = sum(tensor.nbytes for tensor in [*weights, *(weight.grad for weight in weights), *moments])
        found[self.folder.path.name] = {
            "sent": self.ranks.sent - sent,
            "calls": self.ranks.calls - calls,
            "held": held,
        }
        return result

    def lead() -> None:
        for name, settings in cases.items():
            once = {"n_latents": 33, "steps": 3, **settings}
            make_trainer(divided(folder / "costs" / name, **once), planted_source()).fit()

    trainer_module.Trainer.step = measured
    try:
        together(lead)
    finally:
        trainer_module.Trainer.step = before
    return found
