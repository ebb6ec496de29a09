"""What the difference of the activations says before any dictionary: its mean, its mean on the first positions of a
document, and its principal components, each with its share and with the tokens it points at.

A dictionary has to add to this. The mean on early positions of any text often tells what a fine-tuning was about
(activation difference lens: Minder et al. 2025, arXiv 2510.13900).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch
from crosscoder.dictionary.inputs import view_rows

from .logit_lens import DirectionReader

EARLY = 8
"""Positions of a document that count as early."""

# Components are of every fourth token: their product is the costliest part, and more tokens would not move them.
_EVERY = 4
_COMPONENTS = 3

COUNTED = (1, 4, 16, 64, 256)
"""Numbers of principal components whose joint share of the variance is told."""
_TOKENS = 8


@dataclass(frozen=True)
class DifferenceMoments:
    """First and second moments of intervened - reference, raw units."""

    n_tokens: int
    n_early: int
    mean: Float64[Tensor, " d_model"]
    early_mean: Float64[Tensor, " d_model"]
    """Mean over tokens of the first positions; zero where there are none."""

    square: float
    """E‖δ‖²."""

    second: Float64[Tensor, "d_model d_model"]
    """E[δ δᵀ], of every fourth token."""

    def directions(self) -> dict[str, tuple[Float64[Tensor, " d_model"], float]]:
        """Directions by name, each with the share of E‖δ‖² that lies along it; empty where the models are identical."""
        total = float(self.second.trace())
        if total == 0:
            return {}
        found = {"mean": (self.mean, float(self.mean.square().sum()) / self.square)}
        if self.n_early:
            unit = torch.nn.functional.normalize(self.early_mean, dim=0)
            along = float(unit @ self.second @ unit) / total
            found[f"mean of the first {EARLY} positions"] = (self.early_mean, along)
        values, vectors = self._components
        for index in range(min(_COMPONENTS, len(values))):
            direction = vectors[:, -1 - index]
            # An eigenvector has no sign; its largest entry is made positive, so that the same data give the same tokens.
            direction = direction * direction[direction.abs().argmax()].sign()
            found[f"component {index + 1}"] = (direction, max(0.0, float(values[-1 - index])) / total)
        return found

    def explained_by_components(self) -> dict[int, float]:
        """Share of the variance of δ that its first n principal components explain, for the n of `COUNTED` below d_model.

        They are the best n directions for these very tokens: no dictionary that uses n latents for all tokens does better.
        """
        values = self._components[0].clamp(min=0).flip(0)
        total = float(values.sum())
        if total == 0:
            return {}
        return {n: float(values[:n].sum()) / total for n in COUNTED if n < len(values)}

    @cached_property
    def _components(self) -> tuple[Float64[Tensor, " component"], Float64[Tensor, "d_model component"]]:
        """Variances and directions of the principal components, ascending."""
        values, vectors = torch.linalg.eigh(self.second - torch.outer(self.mean, self.mean))
        return values, vectors


class DifferenceAccumulator:
    """Sums of the difference over batches of raw activations of two models of equal width."""

    def __init__(self, d_models: tuple[int, ...]) -> None:
        self.d_models = d_models
        self._n = self._n_early = self._n_second = 0
        self._square = 0.0
        self._sum, self._early = (torch.zeros(d_models[0], dtype=torch.float64) for _ in range(2))
        self._second = torch.zeros(d_models[0], d_models[0], dtype=torch.float64)

    def update(self, batch: ActivationBatch) -> None:
        """Add some tokens."""
        difference = view_rows(batch.values.cpu(), self.d_models, "difference")
        early = batch.position.cpu() < EARLY
        before = self._n
        self._n += len(difference)
        self._n_early += int(early.sum())
        self._sum += difference.sum(dim=0, dtype=torch.float64)
        self._early += difference[early].sum(dim=0, dtype=torch.float64)
        self._square += float(difference.square().sum(dtype=torch.float64))
        some = difference[(-before) % _EVERY :: _EVERY]
        self._n_second += len(some)
        self._second += (some.T @ some).double()

    def result(self) -> DifferenceMoments:
        """Moments of everything added so far."""
        n, n_early = max(1, self._n), max(1, self._n_early)
        return DifferenceMoments(
            self._n,
            self._n_early,
            self._sum / n,
            self._early / n_early,
            self._square / n,
            self._second / max(1, self._n_second),
        )


def describe_difference(
    moments: DifferenceMoments, reader: DirectionReader | None, vocabulary: Sequence[str]
) -> list[dict[str, Any]]:
    """For summary.json: name, share of E‖δ‖², and the tokens at both ends of the logit lens (of a component both ends count)."""
    described = []
    for name, (direction, share) in moments.directions().items():
        entry: dict[str, Any] = {"name": name, "share": share, "top": [], "bottom": []}
        if reader is not None and bool(direction.any()):
            (logits,) = reader.direction_logits(direction.float()[None], 1)
            for end, largest in (("top", True), ("bottom", False)):
                tokens = logits.topk(min(_TOKENS, len(logits)), largest=largest).indices.tolist()
                entry[end] = [
                    vocabulary[token] if token < len(vocabulary) else f"<id {token}>" for token in tokens
                ]
        described.append(entry)
    return described
