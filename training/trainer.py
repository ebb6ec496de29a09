"""The training loop: one `Trainer` for every kind of dictionary and every view of a pair."""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from crosscoder.config import BatchTopK, JumpReLU, ReLU, RunConfig, TopK
from crosscoder.config.open_settings import chosen
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.divided_weights import take_whole
from crosscoder.dictionary.views import View, crosscoder_config, view_rows
from crosscoder.errors import DivergedError, FormatError
from crosscoder.run.folder import RunFolder
from crosscoder.run.mirror import copy_now
from crosscoder.run.tracking import MetricsLog, WandbRun
from crosscoder.runtime.device import compute_dtype, resolve_device
from crosscoder.runtime.interrupts import StopRequested, stop_between_steps

from .block_order import SourceState
from .checkpoints import TrainState, checkpoint_at, checkpoints, load_checkpoint, save_checkpoint, step_of
from .clipping import clip_gradients
from .compiled_step import CompiledStep, Update
from .divergence import ended_worse, exploded, worst_error
from .evaluation import HeldOutMeter, decoder_histograms
from .forward import Forward
from .latent_division import announce, latent_ranks
from .losses import LossTerms, loss_terms, resolve_difference_weight
from .schedules import annealed_k, learning_rate, n_steps, updated_penalty
from .sources import TrainingTokens
from .warm_start import starting_point

logger = logging.getLogger(__name__)

QUICK_CALIBRATION = 4096
"""Held-out tokens that calibrate the inference threshold before each evaluation during training."""


class WaitingTime:
    """Wall time of the training loop, and how much of it was spent waiting for data."""

    def __init__(self) -> None:
        self.waited = 0.0
        """Seconds spent waiting."""
        self._begin: float | None = None

    @contextmanager
    def for_data(self) -> Iterator[None]:
        """Count the time inside the block as waiting. The first call starts the clock of the loop."""
        begin = time.perf_counter()
        if self._begin is None:
            self._begin = begin
        yield
        self.waited += time.perf_counter() - begin

    def seconds(self) -> float:
        """Wall time since the first wait."""
        return 0.0 if self._begin is None else time.perf_counter() - self._begin

    def share(self) -> float:
        """Share of the wall time that was spent waiting."""
        seconds = self.seconds()
        return self.waited / seconds if seconds else 0.0


class Trainer:
    """Trains the dictionary of a run, and resumes from the newest checkpoint in its folder."""

    def __init__(
        self,
        config: RunConfig,
        source: TrainingTokens,
        folder: RunFolder,
        wandb: WandbRun,
        start: Crosscoder | None = None,
    ) -> None:
        """`start`: a dictionary of the same shape to begin from, normalization included. Without it, training begins from
        `training.start_from`, or from a fresh dictionary."""
        self.ranks = latent_ranks(config)
        announce(self.ranks, folder, config, source)
        self.config, self.source, self.folder, self.wandb = config, source, folder, wandb
        self.training = config.training
        self.reads: View = config.crosscoder.reads
        self.device = resolve_device("training.device", self.training.device)
        self.difference_weight = resolve_difference_weight(config, source.d_models)
        self._dead_after = chosen(
            self.training.auxiliary.dead_after_tokens, "training.auxiliary.dead_after_tokens"
        )
        self.metrics = MetricsLog(folder.metrics)
        self._start = start
        self.state = self._fresh_state()
        self.prepare_step()
        self.waiting = WaitingTime()
        self.held_out = HeldOutMeter(source, self.reads, self.training.calibration_tokens, self.ranks)

    def _fresh_state(self) -> TrainState:
        shape = crosscoder_config(self.config.crosscoder, self.source.d_models)
        crosscoder = Crosscoder(
            shape,
            decoder_norm=self.config.crosscoder.decoder_norm,
            seed=self.config.seed,
            ranks=self.ranks,
        )
        optimizer = torch.optim.Adam(
            crosscoder.to(self.device).parameters(), lr=learning_rate(0, self.training), eps=1e-10, fused=True
        )
        precision = compute_dtype(self.training.precision, self.device)
        return TrainState(
            crosscoder=crosscoder,
            optimizer=optimizer,
            tokens_since_fired=torch.zeros(len(crosscoder.latents), dtype=torch.int64, device=self.device),
            penalty=getattr(shape.sparsity, "coefficient", 0.0),
            precision="bfloat16" if precision == torch.bfloat16 else "float32",
            wandb_id=self.wandb.id,
        )

    def prepare_step(self) -> None:
        """Make the step for `state`, after that was made or loaded. Raises ResourceError: see `CompiledStep`."""
        dtype = compute_dtype(self.state.precision, self.device)
        n_latents, path = self.state.crosscoder.config.n_latents, self.training.step
        nested = tuple(round(share * n_latents) for share in self.config.crosscoder.nested)
        self.forward = Forward(self.state.crosscoder, dtype, "dense" if path == "compiled" else path, nested)
        self.compiled = (
            CompiledStep(self.state, self.training, dtype, nested, self.difference_weight)
            if path == "compiled"
            else None
        )

    # --- the run ------------------------------------------------------------------------------------------------------

    def fit(self) -> Crosscoder:
        """Train to the end, resuming from the newest checkpoint if there is one, and return the calibrated dictionary.

        Raises:
            DivergedError: See `divergence`. Earlier checkpoints are kept.
            ConfigError, FormatError: See `starting_point`.
        """
        with self.ranks.together():
            return self._fit()

    def _fit(self) -> Crosscoder:
        found = self._newest_checkpoint()
        if found is not None:
            load_checkpoint(found, self.state)
            self.prepare_step()
            logger.info("train: resuming from step %d (%s)", self.state.step, found)
        else:
            # No step draws from it today; a checkpoint holds its state, and has to be the same in every process.
            torch.manual_seed(self.config.seed)
            self._initialize()
            self.state.first_error = worst_error(self._evaluated())
        self._note_division()
        self._begin_metrics(resumed=found is not None)
        steps, done = n_steps(self.training), self.state.n_tokens
        batch_tokens = chosen(self.training.batch_tokens, "training.batch_tokens")
        batches = self.source.batches(batch_tokens, cast("SourceState | None", self.state.source))
        with stop_between_steps() as stopping, tqdm(total=steps * batch_tokens, initial=done,
                                                     unit="tok", unit_scale=True, desc="train", mininterval=1) as bar:  # fmt: skip
            terms = None
            while self.state.step < steps:
                try:
                    with self.waiting.for_data():
                        values, source_state = next(batches)
                except StopRequested:
                    self._stop(terms)
                terms, l0 = self.step(self.ranks.from_rank(0, values.to(self.device)))
                self.state.source = dict(source_state)
                bar.update(len(values))
                self._after_step(terms, l0, bar, last=self.state.step == steps)
                if self.ranks.any(stopping()):
                    self._stop(terms)
        crosscoder = self.state.crosscoder
        self.held_out.calibrate(crosscoder)
        if self.ranks.leads:
            self.metrics.finish()
        return crosscoder.eval()

    def _stop(self, terms: LossTerms | None) -> NoReturn:
        """End the training between two steps. `terms`: those of the last step of this process; None if it made none."""
        if terms is not None:
            self._require_finite(terms)
            self._save_checkpoint()
        raise KeyboardInterrupt

    def _newest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that rank 0 sees; None if there is none."""
        found = checkpoints(self.folder.checkpoints) if self.ranks.leads else []
        step = self.ranks.count(step_of(found[-1]) if found else 0)
        return checkpoint_at(self.folder.checkpoints, step) if step else None

    def _initialize(self) -> None:
        """Initialize the weights and the normalization for the first step."""
        crosscoder, start_from = self.state.crosscoder, self.training.start_from
        if self.ranks.any(self._start is not None):
            self._begin_from(self._start)
        elif start_from is not None:
            start = None
            if self.ranks.leads:
                start, record = starting_point(start_from, crosscoder.config)
                self.folder.update_manifest("started_from", record)
            self._begin_from(start)
        else:
            if self.ranks.leads:
                crosscoder.set_normalization(self._calibration_sample())
            for fitted in (crosscoder.mean, crosscoder.scale):
                fitted.copy_(self.ranks.from_rank(0, fitted))

    def _begin_from(self, start: Crosscoder | None) -> None:
        """Take the weights of a whole dictionary, which rank 0 holds; None on the other ranks."""
        if start is not None and self.ranks.alone:
            self.state.crosscoder.load_state_dict(start.state_dict())
        else:
            take_whole(self.state.crosscoder, None if start is None else start.state_dict())

    def _note_division(self) -> None:
        """Record from which step on the latents are divided over how many ranks: another number changes the rounding of what follows."""
        state, n_ranks = self.state, self.ranks.size
        before = state.divisions[-1][1] if state.divisions else 1
        if before != n_ranks:
            earlier = state.divisions or ([(0, 1)] if state.step else [])
            state.divisions = [*earlier, (state.step, n_ranks)]
            if state.step:
                logger.info(
                    "train: latents were divided over %d ranks, and are over %d from step %d on; results agree up to rounding",
                    before, n_ranks, state.step,
                )  # fmt: skip
        if self.ranks.leads and (state.divisions or "latent_shards" in self.folder.read_manifest()):
            divisions = [{"from_step": step, "ranks": ranks} for step, ranks in state.divisions]
            self.folder.update_manifest("latent_shards", {"divisions": divisions})

    def step(self, values: Float[Tensor, "token width"]) -> tuple[LossTerms, Float[Tensor, ""]]:
        """Make one update; return its loss terms and L0. Reads nothing back from the device unless the sparsity kind needs it."""
        state = self.state
        rate = learning_rate(state.step, self.training)
        rows = view_rows(values, self.source.d_models, self.reads).float()
        normalized, dead = state.crosscoder.normalize(rows), state.tokens_since_fired > self._dead_after
        terms, fired, l0 = (self.compiled or self._uncompiled)(normalized, self._k(), dead, rate)
        state.tokens_since_fired += len(normalized)
        state.tokens_since_fired[fired] = 0
        self._update_penalty(l0)
        state.step += 1
        state.n_tokens += len(values)
        return LossTerms({name: value.detach() for name, value in terms.items()}), l0

    def _uncompiled(
        self,
        normalized: Float[Tensor, "token width"],
        k: float | None,
        dead: Bool[Tensor, " latent"],
        rate: float,
    ) -> Update:
        """Make one update of the weights; see `CompiledStep`."""
        state, crosscoder, dtype = self.state, self.state.crosscoder, self.forward.dtype
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            forward = self.forward(normalized, k)
            terms = loss_terms(forward, dead, self.training.auxiliary, state.penalty, self.difference_weight)
        state.optimizer.zero_grad(set_to_none=True)
        terms.total().backward()
        forward.complete_gradients()
        crosscoder.constrain_gradients()
        clip_gradients(crosscoder, self.training.gradient_clip)
        state.optimizer.step()
        return Update(terms, *forward.fired())

    def _k(self) -> float | None:
        sparsity = self.config.crosscoder.sparsity
        if isinstance(sparsity, BatchTopK | TopK):
            return self._annealed(chosen(sparsity.k, "crosscoder.sparsity.k"))
        return None

    def _annealed(self, k: int | float) -> float:
        return annealed_k(self.state.step, k, self.state.crosscoder.config.n_latents, self.training)

    def _update_penalty(self, l0: Float[Tensor, ""]) -> None:
        sparsity = self.config.crosscoder.sparsity
        if not isinstance(sparsity, ReLU | JumpReLU):
            return
        target: float = chosen(sparsity.target_l0, "crosscoder.sparsity.target_l0")
        if isinstance(sparsity, JumpReLU):
            # Without annealing, L0 overshoots far below its target, and latents that stop firing then rarely recover: rare
            # features are not found. With an L1 penalty, annealing hurts: latents that share a feature while many fire keep
            # sharing it.
            target = self._annealed(target)
        self.state.penalty = updated_penalty(self.state.penalty, float(l0), target)

    def _after_step(self, terms: LossTerms, l0: Float[Tensor, ""], bar: tqdm, last: bool) -> None:
        step, training = self.state.step, self.training
        checkpoint_due = last or step % training.checkpoint_every == 0
        evaluation_due = last or step % training.evaluate_every == 0
        if checkpoint_due or evaluation_due or step % training.log_every == 0:
            self._require_finite(terms)
            values, counts = self._train_metrics(terms, float(l0)), {}
            bar.set_postfix(loss=f"{values['losses/overall_loss']:.3f}", l0=f"{float(l0):.0f}", refresh=False)
            if evaluation_due:
                evaluated = self._evaluated()
                if last:
                    self._require_better_end(evaluated)
                values |= evaluated
                histograms = decoder_histograms(self.state.crosscoder)
                self.wandb.log(histograms, self.state.n_tokens)
                # Counts of 64 equal bins over [0, 1]: with fixed edges, counts of different steps can be compared.
                if "diff/relative_norm" in histograms:
                    counts["diff/relative_norm_counts"] = histograms["diff/relative_norm"][0].tolist()
            if self.ranks.leads:
                self.metrics.write(step, self.state.n_tokens, values | counts)
            # Timings differ between two runs of the same training, and metrics.jsonl must not: they go to wandb alone.
            timings = {
                "performance/seconds": self.waiting.seconds(),
                "performance/data_wait_share": self.waiting.share(),
            }
            self.wandb.log(values | timings, self.state.n_tokens)
        if checkpoint_due:
            self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        self.state.metrics = self.metrics.digest()
        save_checkpoint(self.folder.checkpoints, self.state)
        copy_now(self.folder.path)

    def _begin_metrics(self, resumed: bool) -> None:
        """Drop the metrics after the checkpoint. Raises FormatError if those before it are not the ones that the run wrote."""
        if not self.ranks.leads:
            return
        self.metrics.truncate(self.state.step)
        if resumed and self.state.metrics not in (None, self.metrics.digest()):
            raise FormatError(
                f"{self.folder.metrics}: its lines up to step {self.state.step} are not those of the checkpoint; restore it, or remove "
                f"it and {self.folder.checkpoints} to train again"
            )

    def _evaluated(self) -> dict[str, float | None]:
        """Return the metrics on held-out tokens, with a threshold that is calibrated on few of them."""
        self.held_out.calibrate(self.state.crosscoder, QUICK_CALIBRATION)
        return self.held_out.measure(self.state.crosscoder)

    def _train_metrics(self, terms: LossTerms, l0: float) -> dict[str, float | None]:
        dead = self.ranks.gathered(self.state.tokens_since_fired) > self._dead_after
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
        """Raise DivergedError if the loss is not finite or explodes. The loss was computed before the last update, so the updated
        weights are checked too."""
        state = self.state
        error = float(terms["mse"]) / len(state.crosscoder.config.d_models)
        finite = math.isfinite(float(terms.total())) and all(
            bool(weight.isfinite().all()) for weight in state.crosscoder.parameters()
        )
        if self.ranks.any(not finite):
            self._diverged(f"loss or weights are no longer finite at step {state.step}")
        if exploded(error, state.first_error or 0.0):
            self._diverged(
                f"the loss exploded: at step {state.step} the error is {error:.3g} times that of predicting the mean"
            )

    def _require_better_end(self, evaluated: Mapping[str, float | None]) -> None:
        """Raise DivergedError if the dictionary explains less than the mean does, and less than at the start."""
        error = worst_error(evaluated)
        if ended_worse(error, self.state.first_error or 0.0):
            self._diverged(
                f"training ended worse than it began: the least held-out variance explained is {1 - error:.3g}, below that of "
                "predicting the mean (0)"
            )

    def _diverged(self, what: str) -> NoReturn:
        found = checkpoints(self.folder.checkpoints)
        last = f"the last good checkpoint is {found[-1]}" if found else "no checkpoint was saved before that"
        raise DivergedError(
            f"training.lr: {what} (lr {self.training.lr}); {last}; train with a lower training.lr in a new run folder"
        )

    def _calibration_sample(self) -> Float[Tensor, "token width"]:
        sample = self.source.sample(self.training.calibration_tokens).to(self.device)
        return view_rows(sample, self.source.d_models, self.reads).float()
