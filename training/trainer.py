"""The training loop: one `Trainer` for every kind of dictionary and every way of reading a pair."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from crosscoder.config import BatchTopK, JumpReLU, ReLU, RunConfig, TopK
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.inputs import Reads, crosscoder_config, present
from crosscoder.dictionary.storage import read_record
from crosscoder.errors import DivergedError
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import MetricsLog, WandbRun
from crosscoder.runtime.device import compute_dtype, resolve_device
from crosscoder.runtime.interrupts import stop_between_steps

from .checkpoints import TrainState, checkpoints, load_checkpoint, save_checkpoint
from .evaluation import HeldOutMeter, decoder_histograms
from .forward import Forward
from .losses import LossTerms, difference_weight_of, loss_terms
from .schedules import annealed_k, learning_rate, n_steps, steered_penalty
from .sources import SourceState, TokenSource
from .warm_start import starting_point

logger = logging.getLogger(__name__)

QUICK_CALIBRATION = 4096
"""Tokens that the threshold of an unfinished dictionary is set on before each look at held-out tokens."""


class WaitingTime:
    """Wall time of a loop, and the part of it in which the loop waited for data."""

    def __init__(self) -> None:
        self.waited = 0.0
        """Seconds spent waiting."""
        self._begin: float | None = None

    @contextmanager
    def for_data(self) -> Iterator[None]:
        """Time spent inside counts as waiting; the loop's time begins with the first call."""
        begin = time.perf_counter()
        if self._begin is None:
            self._begin = begin
        yield
        self.waited += time.perf_counter() - begin

    def seconds(self) -> float:
        """Wall time since the first wait."""
        return 0.0 if self._begin is None else time.perf_counter() - self._begin

    def share(self) -> float:
        """The part of the wall time that was waited."""
        seconds = self.seconds()
        return self.waited / seconds if seconds else 0.0


class Trainer:
    """Trains the dictionary of a run, and goes on from the newest checkpoint of its folder by itself."""

    def __init__(
        self,
        config: RunConfig,
        source: TokenSource,
        folder: RunFolder,
        wandb: WandbRun,
        start: Crosscoder | None = None,
    ) -> None:
        """`start`: a dictionary of the same shape that training begins from, normalization included; else that of
        `training.start_from`, or a fresh one."""
        self.config, self.source, self.folder, self.wandb = config, source, folder, wandb
        self.training = config.training
        self.reads: Reads = config.crosscoder.reads
        self.device = resolve_device("training.device", self.training.device)
        self.difference_weight = difference_weight_of(config, source.d_models)
        self.metrics = MetricsLog(folder.metrics)
        self._start = start
        self.state = self._fresh_state()
        self.forward = self._forward()
        self.waiting = WaitingTime()
        self.held_out = HeldOutMeter(source, self.reads, self.training.calibration_tokens)

    def _fresh_state(self) -> TrainState:
        shape = crosscoder_config(self.config.crosscoder, self.source.d_models)
        crosscoder = Crosscoder(
            shape, decoder_norm=self.config.crosscoder.decoder_norm, seed=self.config.seed
        )
        optimizer = torch.optim.Adam(
            crosscoder.to(self.device).parameters(), lr=self.training.lr, eps=1e-10, fused=True
        )
        precision = compute_dtype(self.training.precision, self.device)
        return TrainState(
            crosscoder=crosscoder,
            optimizer=optimizer,
            tokens_since_fired=torch.zeros(shape.n_latents, dtype=torch.int64, device=self.device),
            penalty=getattr(shape.sparsity, "coefficient", 0.0),
            precision="bfloat16" if precision == torch.bfloat16 else "float32",
            wandb_id=self.wandb.id,
        )

    def _forward(self) -> Forward:
        dtype = compute_dtype(self.state.precision, self.device)
        settings = self.config.crosscoder
        nested = [round(share * settings.n_latents) for share in settings.nested]
        return Forward(self.state.crosscoder, dtype, self.training.step, nested)

    # --- the run ------------------------------------------------------------------------------------------------------

    def fit(self) -> Crosscoder:
        """Train to the end, or from where an earlier run stopped, and return the calibrated dictionary.

        Raises `DivergedError` where the loss is no longer finite; the checkpoints before that stay. Raises what `starting_point`
        raises.
        """
        found = checkpoints(self.folder.checkpoints)
        if found:
            load_checkpoint(found[-1], self.state)
            self.forward = self._forward()
            logger.info("train: going on from step %d (%s)", self.state.step, found[-1])
        else:
            self._begin()
        self.metrics.truncate(self.state.step)
        steps, done = n_steps(self.training), self.state.n_tokens
        batches = self.source.batches(
            self.training.batch_tokens, cast("SourceState | None", self.state.source)
        )
        with stop_between_steps() as stopping, tqdm(total=steps * self.training.batch_tokens, initial=done,
                                                     unit="tok", unit_scale=True, desc="train", mininterval=1) as bar:  # fmt: skip
            while self.state.step < steps:
                with self.waiting.for_data():
                    values, source_state = next(batches)
                terms, l0 = self.step(values.to(self.device))
                self.state.source = dict(source_state)
                bar.update(len(values))
                self._after_step(terms, l0, bar, last=self.state.step == steps)
                if stopping():
                    self._require_finite(terms)
                    save_checkpoint(self.folder.checkpoints, self.state)
                    raise KeyboardInterrupt
        crosscoder = self.state.crosscoder
        self.held_out.calibrate(crosscoder)
        return crosscoder.eval()

    def _begin(self) -> None:
        """Put the weights that the first step finds into the dictionary, normalization included."""
        crosscoder, place = self.state.crosscoder, self.training.start_from
        if self._start is not None:
            crosscoder.load_state_dict(self._start.state_dict())
        elif place is not None:
            crosscoder.load_state_dict(starting_point(place, crosscoder.config).state_dict())
            record = {"folder": str(place), "digest": read_record(place.expanduser())["digest"]}
            self.folder.update_manifest("started_from", record)
        else:
            crosscoder.set_normalization(self._sample())

    def step(self, values: Float[Tensor, "token width"]) -> tuple[LossTerms, Float[Tensor, ""]]:
        """One update; returns the terms of its loss and its L0. Nothing is read back from the device unless a kind needs it."""
        state, crosscoder = self.state, self.state.crosscoder
        rate = learning_rate(state.step, self.training)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        normalized = crosscoder.normalize(present(values, self.source.d_models, self.reads).float())
        dtype = self.forward.dtype
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            forward = self.forward(normalized, self._k())
            dead = state.tokens_since_fired > self.training.auxiliary.dead_after_tokens
            terms = loss_terms(
                forward,
                dead,
                self.training.auxiliary,
                state.penalty,
                self.difference_weight,
            )
        state.optimizer.zero_grad(set_to_none=True)
        terms.total().backward()
        forward.settle()
        crosscoder.constrain_gradients()
        torch.nn.utils.clip_grad_norm_(crosscoder.parameters(), self.training.gradient_clip)
        state.optimizer.step()

        fired, l0 = forward.fired()
        state.tokens_since_fired += len(normalized)
        state.tokens_since_fired[fired] = 0
        self._steer(l0)
        state.step += 1
        state.n_tokens += len(values)
        return LossTerms({name: value.detach() for name, value in terms.items()}), l0

    def _k(self) -> float | None:
        sparsity = self.config.crosscoder.sparsity
        if isinstance(sparsity, BatchTopK | TopK):
            return self._annealed(sparsity.k)
        return None

    def _annealed(self, k: int | float) -> float:
        return annealed_k(self.state.step, k, self.config.crosscoder.n_latents, self.training)

    def _steer(self, l0: Float[Tensor, ""]) -> None:
        sparsity = self.config.crosscoder.sparsity
        if not isinstance(sparsity, ReLU | JumpReLU):
            return
        target = sparsity.target_l0
        if isinstance(sparsity, JumpReLU):
            # Sent to its target at once, L0 falls far below it, and latents that stop firing then seldom come back: rare features
            # stay unfound. With L1 it is the other way about: latents that shared a feature while many fired go on sharing it.
            target = self._annealed(target)
        self.state.penalty = steered_penalty(self.state.penalty, float(l0), target)

    def _after_step(self, terms: LossTerms, l0: Float[Tensor, ""], bar: tqdm, last: bool) -> None:
        step, training = self.state.step, self.training
        checkpoint_due = last or step % training.checkpoint_every == 0
        evaluation_due = last or step % training.evaluate_every == 0
        if checkpoint_due or evaluation_due or step % training.log_every == 0:
            self._require_finite(terms)
            values, counts = self._train_metrics(terms, float(l0)), {}
            bar.set_postfix(loss=f"{values['losses/overall_loss']:.3f}", l0=f"{float(l0):.0f}", refresh=False)
            if evaluation_due:
                self.held_out.calibrate(self.state.crosscoder, QUICK_CALIBRATION)
                evaluated = self.held_out.measure(self.state.crosscoder)
                values |= evaluated
                histograms = decoder_histograms(self.state.crosscoder)
                self.wandb.log(histograms, self.state.n_tokens)
                # Fixed edges: counts of 64 equal bins over [0, 1], so that curves over time need nothing else.
                if "diff/relative_norm" in histograms:
                    counts["diff/relative_norm_counts"] = histograms["diff/relative_norm"][0].tolist()
            self.metrics.write(step, self.state.n_tokens, values | counts)
            # Clocks differ between two runs of the same training, and metrics.jsonl must not.
            clocks = {
                "performance/seconds": self.waiting.seconds(),
                "performance/data_wait_share": self.waiting.share(),
            }
            self.wandb.log(values | clocks, self.state.n_tokens)
        if checkpoint_due:
            save_checkpoint(self.folder.checkpoints, self.state)

    def _train_metrics(self, terms: LossTerms, l0: float) -> dict[str, float | None]:
        dead = self.state.tokens_since_fired > self.training.auxiliary.dead_after_tokens
        return {
            "losses/overall_loss": float(terms.total()),
            **{f"losses/{name}_loss": float(value) for name, value in terms.items()},
            "metrics/l0": l0,
            "sparsity/dead_features": float(dead.sum()),
            "sparsity/dead_share": float(dead.float().mean()),
            "details/current_learning_rate": learning_rate(self.state.step - 1, self.training),
            "details/n_training_samples": float(self.state.n_tokens),
            "details/penalty_coefficient": self.state.penalty,
        }

    def _require_finite(self, terms: LossTerms) -> None:
        # The loss is of the weights before the last update, so the weights after it are looked at as well.
        weights = self.state.crosscoder.parameters()
        if math.isfinite(float(terms.total())) and all(bool(weight.isfinite().all()) for weight in weights):
            return
        found = checkpoints(self.folder.checkpoints)
        last = f"the last good checkpoint is {found[-1]}" if found else "no checkpoint was reached"
        raise DivergedError(
            f"training.lr: loss or weights are no longer finite at step {self.state.step} (lr {self.training.lr:g}); {last}; "
            "train with a lower training.lr in a new run folder"
        )

    def _sample(self) -> Float[Tensor, "token width"]:
        sample = self.source.sample(self.training.calibration_tokens).to(self.device)
        return present(sample, self.source.d_models, self.reads).float()
