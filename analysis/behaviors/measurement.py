"""A behavior's metric on some prompts, for either model run on from activations of either, with a part of the change put in or out.

    M_m(h_s ± part)     m: the model whose layers above the hookpoint are run      s: the model whose activations they start from

The four corners M_A(h_A), M_A(h_B), M_B(h_A), M_B(h_B) and every causal check are such runs.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from .metrics import LogitMetric, next_token_divergence
from .reading import Reading
from .runs import REFERENCE, Run, starting_point, unchanged


@runtime_checkable
class Measurement(Protocol):
    """The metric of a behavior on a set of prompts."""

    unit: str
    n_prompts: int

    def values(self, run: Run) -> Float64[np.ndarray, " prompt"]:
        """One number a prompt."""
        ...


class LogitMeasurement:
    """A metric of logits."""

    def __init__(self, reading: Reading, metric: LogitMetric) -> None:
        """The rows of the reading are those that the metric asked for."""
        self.reading, self.metric = reading, metric
        self.unit, self.n_prompts = metric.unit, reading.n_prompts

    @torch.no_grad()
    def values(self, run: Run) -> Float64[np.ndarray, " prompt"]:
        """See `Measurement.values`."""
        values = np.empty(self.n_prompts)
        for index, batch in enumerate(self.reading.batches):
            found = self.metric.values(self.logits(index, run), batch, self._reference_logits(index))
            values[batch.prompts] = found.cpu().numpy()
        return values

    @torch.no_grad()
    def beside_unchanged(
        self, run: Run
    ) -> tuple[Float64[np.ndarray, " prompt"], Float64[np.ndarray, " prompt"]]:
        """The metric of a run, and KL(model as it is ‖ run) of the next token in nats, on average over the tokens of a prompt.

        For metrics of one row a prompt that need the logits of all tokens.
        """
        values, divergences = np.empty(self.n_prompts), np.empty(self.n_prompts)
        for index, batch in enumerate(self.reading.batches):
            plain, changed = self.logits(index, unchanged(run.model)), self.logits(index, run)
            values[batch.prompts] = self.metric.values(changed, batch).cpu().numpy()
            divergences[batch.prompts] = next_token_divergence(plain, changed, batch).cpu().numpy()
        return values, divergences

    def logits(self, index: int, run: Run) -> Float[Tensor, "row last_token vocabulary"]:
        """Logits of one batch, at the tokens that the metric needs."""
        reading, batch = self.reading, self.reading.batches[index]
        start = starting_point(run, reading.activations(index), batch.kept, lambda: reading.change(index))
        n_last = self.metric.n_last(batch)
        return reading.pair.resume(batch.token_ids, batch.attention, start, run.model, n_last=n_last)

    def gradient(
        self, index: int, model: int, activations: Float[Tensor, "row token d_model"]
    ) -> Float[Tensor, "row token d_model"]:
        """∂ Σ_prompts M_model / ∂ activations of one batch, in float32; 0 on padding."""
        batch = self.reading.batches[index]
        leaf = activations.detach().float().requires_grad_()
        n_last = self.metric.n_last(batch)
        logits = self.reading.pair.resume(
            batch.token_ids, batch.attention, leaf, model, gradients=True, n_last=n_last
        )
        with torch.enable_grad():
            total = self.metric.values(logits, batch, self._reference_logits(index)).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        return gradient * batch.attention[..., None].to(gradient.device)

    def _reference_logits(self, index: int) -> Float[Tensor, "row last_token vocabulary"] | None:
        """Of the unchanged reference, where the metric compares with them."""
        return self.logits(index, unchanged(REFERENCE)) if self.metric.needs_reference else None
