"""The metric of either model, run forward from the hookpoint with given activations."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from crosscoder.language_models.pair import ModelPair

from .logit_metrics import LogitMetric, Logits, next_token_divergence
from .patching import REFERENCE
from .prompt_statistics import Values
from .prompts import BATCH_TOKENS, Batch

_TOKENS = 8 * BATCH_TOKENS
"""Maximum number of padded tokens of runs that share a forward pass."""

_LOGITS = 2**26
"""Maximum number of their logits: 256 MiB in float32."""

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

    def each(self, model: int, starts: Sequence[Start]) -> Iterator[Values]:
        """Yield `values` for every start. As many as memory allows share a forward pass; the next are run only when asked for."""
        at_once = max(1, min(self._copies(model, index) for index in range(len(self._batches))))
        for first in range(0, len(starts), at_once):
            yield from self._together(model, starts[first : first + at_once])

    @torch.no_grad()
    def _together(self, model: int, starts: Sequence[Start]) -> Float64[np.ndarray, "start prompt"]:
        values = np.empty((len(starts), self.n_prompts))
        for index, sides in enumerate(self._batches):
            batch = sides[model]
            copies = repeated(batch, len(starts))
            places = self._metrics[model].places(copies)
            logits = self._pair.logits_from_hookpoint(
                copies.token_ids,
                copies.attention,
                torch.cat([start(index).float() for start in starts]),
                model,
                at=places,
            )
            reference = self._reference_logits(index)
            if reference is not None:
                reference = reference.repeat(len(starts), 1)
            found = self._metrics[model].values(logits, copies, reference)
            values[:, batch.prompts] = found.cpu().numpy().reshape(len(starts), -1)
        return values

    def _copies(self, model: int, index: int) -> int:
        """Return how many copies of a batch fit into one forward pass."""
        batch = self._batches[index][model]
        n_places = int(self._metrics[model].places(batch).sum())
        logits = n_places * len(self._pair.tokenizer_of(model))
        return min(_TOKENS // batch.token_ids.numel(), _LOGITS // max(1, logits))

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


def repeated(batch: Batch, n: int) -> Batch:
    """Return a batch that holds all rows of another `n` times, as other prompts: 0, 1, ... in order."""
    n_prompts = len(batch.prompts)
    rows = {
        name: getattr(batch, name).repeat(n, *[1] * (getattr(batch, name).ndim - 1))
        for name in ("token_ids", "attention", "kept", "n_prompt", "length", "against")
    }
    place = torch.cat([batch.place + copy * n_prompts for copy in range(n)])
    return replace(batch, prompts=np.arange(n * n_prompts), place=place, **rows)
