"""The metric of either model, run on from whatever is given to stand at its hookpoint."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.language_models.pair import ModelPair

from .metrics import LogitMetric, Logits, next_token_divergence
from .patching import REFERENCE
from .prompt_statistics import Values
from .prompts import Batch

Start = Callable[[int], Float[Tensor, "row token d_model"]]
"""What stands at the hookpoint of a model in one batch."""


class EditEffect(NamedTuple):
    """A model beside itself with something changed, prompt by prompt."""

    plain: Values
    """The metric of the model as it is."""

    changed: Values

    divergence: Values
    """KL(as it is ‖ changed) of the next token in nats, on average over the tokens of a prompt."""


class PatchedMetrics:
    """A metric on some prompts, as both models have them: in the same tokens, or each in its own."""

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
            metrics: Of reference and intervened model, over the vocabulary of each.
            batches: Of the same prompts, for both.
            unchanged: Activations of a model as it is, in one batch.
        """
        self._pair, self._metrics, self._batches = pair, metrics, batches
        self._unchanged, self.n_prompts = unchanged, n_prompts

    @torch.no_grad()
    def values(self, model: int, start: Start) -> Values:
        """One number a prompt."""
        values = np.empty(self.n_prompts)
        for index, sides in enumerate(self._batches):
            logits = self._logits(model, index, start(index))
            found = self._metrics[model].values(logits, sides[model], self._compared(index))
            values[sides[model].prompts] = found.cpu().numpy()
        return values

    @torch.no_grad()
    def compare_with_unchanged(self, model: int, starts: Sequence[Start]) -> list[EditEffect]:
        """A model with other starts beside the model as it is; for metrics of one row a prompt that read all tokens."""
        found = [EditEffect(*(np.empty(self.n_prompts) for _ in range(3))) for _ in starts]
        metric = self._metrics[model]
        for index, sides in enumerate(self._batches):
            batch = sides[model]
            before = self._logits(model, index, self._unchanged(model, index))
            plain = metric.values(before, batch).cpu().numpy()
            for start, beside in zip(starts, found, strict=True):
                after = self._logits(model, index, start(index))
                beside.plain[batch.prompts] = plain
                beside.changed[batch.prompts] = metric.values(after, batch).cpu().numpy()
                divergence = next_token_divergence(before, after, batch)
                beside.divergence[batch.prompts] = divergence.cpu().numpy()
        return found

    def gradient(
        self, model: int, index: int, start: Float[Tensor, "row token d_model"]
    ) -> Float[Tensor, "row token d_model"]:
        """∂ Σ_prompts M_model / ∂ activations of one batch, in float32; 0 on padding."""
        batch = self._batches[index][model]
        leaf = start.detach().float().requires_grad_()
        logits = self._logits(model, index, leaf, gradients=True)
        with torch.enable_grad():
            total = self._metrics[model].values(logits, batch, self._compared(index)).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        return gradient * batch.attention[..., None].to(gradient.device)

    def _logits(
        self, model: int, index: int, start: Float[Tensor, "row token d_model"], *, gradients: bool = False
    ) -> Logits:
        """At the places of the metric."""
        batch = self._batches[index][model]
        places = self._metrics[model].places(batch)
        return self._pair.logits_from_hookpoint(
            batch.token_ids, batch.attention, start, model, gradients=gradients, at=places
        )

    def _compared(self, index: int) -> Logits | None:
        """Logits of the unchanged reference, where the metric compares with them."""
        if not self._metrics[REFERENCE].needs_reference:
            return None
        with torch.no_grad():
            return self._logits(REFERENCE, index, self._unchanged(REFERENCE, index))
