"""The metric of either model, run forward from the hookpoint with given activations."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.language_models.pair import ModelPair

from .logit_metrics import LogitMetric, Logits, next_token_divergence
from .patching import REFERENCE
from .prompt_statistics import Values
from .prompts import Batch

Start = Callable[[int], Float[Tensor, "row token d_model"]]
"""Returns the activations at the hookpoint for one batch."""


class EditEffect(NamedTuple):
    """The effect of an edit of the activations on a model, for every prompt."""

    unchanged: Values
    """The metric of the unchanged model."""

    changed: Values

    divergence: Values
    """KL(unchanged ‖ changed) of the next token in nats, averaged over the tokens of a prompt."""


class PatchedMetrics:
    """A metric on a set of prompts, which the models read in the same tokens or each with its own tokenizer."""

    def __init__(
        self,
        pair: ModelPair,
        metrics: tuple[LogitMetric, LogitMetric],
        batches: Sequence[tuple[Batch, Batch]],
        unchanged: Callable[[int, int], Float[Tensor, "row token d_model"]],
        n_prompts: int,
    ) -> None:
        """
        Args:
            metrics: One per model, over its vocabulary.
            batches: The same prompts for each model.
            unchanged: Returns the activations of an unchanged model on one batch.
        """
        self._pair, self._metrics, self._batches = pair, metrics, batches
        self._unchanged, self.n_prompts = unchanged, n_prompts

    @torch.no_grad()
    def values(self, model: int, start: Start) -> Values:
        """Return one value per prompt."""
        values = np.empty(self.n_prompts)
        for index, sides in enumerate(self._batches):
            logits = self._logits(model, index, start(index))
            found = self._metrics[model].values(logits, sides[model], self._reference_logits(index))
            values[sides[model].prompts] = found.cpu().numpy()
        return values

    @torch.no_grad()
    def compare_with_unchanged(self, model: int, starts: Sequence[Start]) -> list[EditEffect]:
        """Compare a model with edited activations to the unchanged model; for metrics with one row per prompt and logits at all tokens."""
        effects = [EditEffect(*(np.empty(self.n_prompts) for _ in range(3))) for _ in starts]
        metric = self._metrics[model]
        for index, sides in enumerate(self._batches):
            batch = sides[model]
            before = self._logits(model, index, self._unchanged(model, index))
            unchanged = metric.values(before, batch).cpu().numpy()
            for start, effect in zip(starts, effects, strict=True):
                after = self._logits(model, index, start(index))
                effect.unchanged[batch.prompts] = unchanged
                effect.changed[batch.prompts] = metric.values(after, batch).cpu().numpy()
                divergence = next_token_divergence(before, after, batch)
                effect.divergence[batch.prompts] = divergence.cpu().numpy()
        return effects

    def gradient(
        self, model: int, index: int, start: Float[Tensor, "row token d_model"]
    ) -> Float[Tensor, "row token d_model"]:
        """Return ∂ Σ_prompts M_model / ∂ activations of one batch, in float32; 0 on padding."""
        batch = self._batches[index][model]
        leaf = start.detach().float().requires_grad_()
        logits = self._logits(model, index, leaf, gradients=True)
        with torch.enable_grad():
            total = self._metrics[model].values(logits, batch, self._reference_logits(index)).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        return gradient * batch.attention[..., None].to(gradient.device)

    def _logits(
        self, model: int, index: int, start: Float[Tensor, "row token d_model"], *, gradients: bool = False
    ) -> Logits:
        """Return the logits at the places of the metric."""
        batch = self._batches[index][model]
        places = self._metrics[model].places(batch)
        return self._pair.logits_from_hookpoint(
            batch.token_ids, batch.attention, start, model, gradients=gradients, at=places
        )

    def _reference_logits(self, index: int) -> Logits | None:
        """Return the logits of the unchanged reference; None if the metric does not need them."""
        if not self._metrics[REFERENCE].needs_reference:
            return None
        with torch.no_grad():
            return self._logits(REFERENCE, index, self._unchanged(REFERENCE, index))
