"""The difference of the activations without a dictionary: its mean, its mean over early positions of documents, and its principal
components, each with its share and its logit lens.

It is the baseline for a dictionary. The mean over early positions of any text often reveals the subject of a fine-tuning (activation
difference lens: Minder et al. 2025, arXiv 2510.13900).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64
from scipy.stats import false_discovery_control
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch
from crosscoder.dictionary.views import view_rows

from .ordered_sums import OrderedSums, Sums
from .readable_lists import SIDES, DirectionReader, NullLists, token_lists

EARLY = 8
"""Positions of a document that count as early."""

# Components use every fourth token of a group: their outer products cost the most, and more tokens would hardly change them.
_EVERY = 4
_COMPONENTS = 3

COUNTED = (1, 4, 16, 64, 256)
"""Numbers of principal components whose joint share of the variance is reported."""

LISTED = 8
"""Tokens of each list."""


@dataclass(frozen=True)
class DifferenceMoments:
    """First and second moments of intervened - reference, raw units."""

    n_tokens: int
    n_early: int
    mean: Float64[Tensor, " d_model"]
    early_mean: Float64[Tensor, " d_model"]
    """Mean over tokens at the first positions; 0 without any."""

    square: float
    """E‖δ‖²."""

    second: Float64[Tensor, "d_model d_model"]
    """E[δ δᵀ], over every fourth token."""

    def directions(self) -> dict[str, tuple[Float64[Tensor, " d_model"], float]]:
        """Return directions by name, each with its share of E‖δ‖²; empty if the models are identical."""
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
            # The sign of an eigenvector is arbitrary; a positive largest entry makes it reproducible.
            direction = direction * direction[direction.abs().argmax()].sign()
            found[f"component {index + 1}"] = (direction, max(0.0, float(values[-1 - index])) / total)
        return found

    def explained_by_components(self) -> dict[int, float]:
        """Return the share of the variance of δ that its first n principal components explain, for every n of `COUNTED` below d_model.

        They are the best n directions for these tokens: no dictionary with n latents for all tokens explains more.
        """
        values = self._components[0].clamp(min=0).flip(0)
        total = float(values.sum())
        if total == 0:
            return {}
        return {n: float(values[:n].sum()) / total for n in COUNTED if n < len(values)}

    @cached_property
    def _components(self) -> tuple[Float64[Tensor, " component"], Float64[Tensor, "d_model component"]]:
        """Variances and directions of the principal components, in ascending order."""
        values, vectors = torch.linalg.eigh(self.second - torch.outer(self.mean, self.mean))
        return values, vectors


class DifferenceAccumulator:
    """Accumulates the moments of the difference from batches of raw activations of two models with equal width."""

    def __init__(self, d_models: tuple[int, ...]) -> None:
        self.d_models = d_models
        self.ordered = OrderedSums()
        self._begin_group()

    def update(self, batch: ActivationBatch) -> None:
        """Add a batch to the current group."""
        difference = view_rows(batch.values.cpu(), self.d_models, "difference")
        early = batch.position.cpu() < EARLY
        before = self._n
        self._n += len(difference)
        self._n_early += int(early.sum())
        self._sum += difference.sum(dim=0, dtype=torch.float64)
        self._early += difference[early].sum(dim=0, dtype=torch.float64)
        self._square += float(difference.square().sum(dtype=torch.float64))
        subset = difference[(-before) % _EVERY :: _EVERY]
        self._n_second += len(subset)
        self._second += (subset.T @ subset).double()

    def end_group(self, number: int) -> None:
        """End a group of blocks (`block_groups`). The next batch begins another."""
        self.ordered.add(number, self._sums_of_group())
        self._begin_group()

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors, for `join` in another process; the last group must have ended."""
        return self.ordered.tensors()

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Add the groups that another process read."""
        self.ordered.join(tensors)

    def result(self) -> DifferenceMoments:
        """Return the moments of all batches added so far."""
        total = self.ordered.total(self._sums_of_group() if self._n else None)
        n_tokens, n_early, n_second, square = total["numbers"].tolist()
        n, n_early = max(1, int(n_tokens)), int(n_early)
        return DifferenceMoments(
            int(n_tokens),
            n_early,
            total["sum"] / n,
            total["early"] / max(1, n_early),
            square / n,
            total["second"] / max(1, int(n_second)),
        )

    def _begin_group(self) -> None:
        self._n = self._n_early = self._n_second = 0
        self._square = 0.0
        d_model = self.d_models[0]
        self._sum, self._early = (torch.zeros(d_model, dtype=torch.float64) for _ in range(2))
        self._second = torch.zeros(d_model, d_model, dtype=torch.float64)

    def _sums_of_group(self) -> Sums:
        numbers = [self._n, self._n_early, self._n_second, self._square]
        return {
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "sum": self._sum,
            "early": self._early,
            "second": self._second,
        }


def describe_difference(
    moments: DifferenceMoments,
    reader: DirectionReader | None,
    vocabulary: Sequence[str],
    null: NullLists | None,
    rate: float,
) -> list[dict[str, Any]]:
    """Return, for summary.json, each direction's name, share of E‖δ‖², and top and bottom tokens of the logit lens (both matter for components).

    Args:
        null: Lists of random directions of the intervened model, at least `LISTED` tokens long; given whenever there is a reader and a latent fired.
        rate: False-discovery rate of the lists that are called readable, among all of them.
    """
    described = [
        {"name": name, "share": share, "top": [], "bottom": [], "readable": {"top": False, "bottom": False}}
        for name, (_, share) in moments.directions().items()
    ]
    nonzero = [
        (entry, direction)
        for entry, (direction, _) in zip(described, moments.directions().values(), strict=True)
        if bool(direction.any())
    ]
    if reader is None or not nonzero:
        return described
    found = token_lists(reader, torch.stack([direction.float() for _, direction in nonzero]), 1, LISTED)
    readable = _readable([found[side].cosines for side in SIDES], null, rate)
    for row, (entry, _) in enumerate(nonzero):
        for side, reads in zip(SIDES, readable, strict=True):
            tokens = found[side].token_ids[row].tolist()
            entry[side] = [
                vocabulary[token] if token < len(vocabulary) else f"<id {token}>" for token in tokens
            ]
            entry["readable"][side] = bool(reads[row])
    return described


def _readable(
    cosines: list[Float64[np.ndarray, "direction rank"]], null: NullLists | None, rate: float
) -> Bool[np.ndarray, "side direction"]:
    shape = len(SIDES), len(cosines[0])
    if null is None:
        return np.zeros(shape, dtype=bool)
    p_values = [null.p_values(side, found) for side, found in zip(SIDES, cosines, strict=True)]
    return (false_discovery_control(np.concatenate(p_values), method="bh") <= rate).reshape(shape)
