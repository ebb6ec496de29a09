"""Moments of the activations and of what remains of the difference, per fold of documents, from which linear maps are fitted and judged.

One fold's moments serve both purposes: a map is fitted on the sum of the other folds, and what it explains on this fold follows from this
fold's moments alone. No pass per map, and no activations in memory.
"""

from typing import NamedTuple, Self

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from .constant_offset import FOLDS


class LinearMoments(NamedTuple):
    """Sums over tokens, per fold or of several; `kind` is the class of tokens.

    x is the predictor, the mean of both models' activations; δ is their difference; y is what is to be explained. The cross moments of
    y with the reference and with the intervened model are xy - δy / 2 and xy + δy / 2.
    """

    tokens: Float64[Tensor, "*fold kind"]
    x: Float64[Tensor, "*fold kind d_model"]
    delta: Float64[Tensor, "*fold kind d_model"]
    y: Float64[Tensor, "*fold kind d_model"]
    xx: Float64[Tensor, "*fold d_model d_model"]
    xy: Float64[Tensor, "*fold d_model d_model"]
    delta_y: Float64[Tensor, "*fold d_model d_model"]

    def without(self, fold: int) -> Self:
        """Return the sum over all other folds."""
        return type(self)(*(value.sum(dim=0) - value[fold] for value in self))

    def of(self, fold: int) -> Self:
        """Return one fold."""
        return type(self)(*(value[fold] for value in self))

    def whole(self) -> Self:
        """Return the sum over folds."""
        return type(self)(*(value.sum(dim=0) for value in self))

    def means(self) -> "ClassMeans":
        """Return the means in each class; 0 for a class without tokens."""
        count = self.tokens.clamp_min(1)[..., None]
        return ClassMeans(self.x / count, self.delta / count, self.y / count)

    def centered(self, means: "ClassMeans") -> "CenteredMoments":
        """Return the sums of products of deviations from the given means of each token's class."""

        def crossed(
            product: Tensor, one: Tensor, one_mean: Tensor, other: Tensor, other_mean: Tensor
        ) -> Tensor:
            both = (self.tokens[:, None] * one_mean).T @ other_mean
            return product - one_mean.T @ other - one.T @ other_mean + both

        return CenteredMoments(
            crossed(self.xx, self.x, means.x, self.x, means.x),
            crossed(self.xy, self.x, means.x, self.y, means.y),
            crossed(self.delta_y, self.delta, means.delta, self.y, means.y),
        )


class ClassMeans(NamedTuple):
    """Means in each class of tokens."""

    x: Float64[Tensor, "kind d_model"]
    delta: Float64[Tensor, "kind d_model"]
    y: Float64[Tensor, "kind d_model"]


class CenteredMoments(NamedTuple):
    """Sums of products of deviations."""

    xx: Float64[Tensor, "d_model d_model"]
    xy: Float64[Tensor, "d_model d_model"]
    delta_y: Float64[Tensor, "d_model d_model"]


class LinearMomentSums:
    """Accumulates `LinearMoments`. Memory: 96 bytes times d_model² (d_model 4096: 1.6 GB), whatever the number of tokens."""

    def __init__(self, n_kinds: int, d_model: int) -> None:
        shapes = ((n_kinds,), *3 * ((n_kinds, d_model),), *3 * ((d_model, d_model),))
        self._sums = LinearMoments(*(torch.zeros(FOLDS, *shape, dtype=torch.float64) for shape in shapes))

    def update(
        self,
        x: Float64[Tensor, "token d_model"],
        delta: Float64[Tensor, "token d_model"],
        y: Float64[Tensor, "token d_model"],
        fold: Int64[Tensor, " token"],
        kind: Int64[Tensor, " token"],
    ) -> None:
        """Add a batch. x should be centered about its overall mean, so that a large mean does not swamp the sums."""
        sums = self._sums
        for index in fold.unique().tolist():
            rows = fold == index
            part_x, part_delta, part_y, part_kind = x[rows], delta[rows], y[rows], kind[rows]
            sums.tokens[index] += torch.bincount(part_kind, minlength=sums.tokens.shape[1])
            sums.x[index].index_add_(0, part_kind, part_x)
            sums.delta[index].index_add_(0, part_kind, part_delta)
            sums.y[index].index_add_(0, part_kind, part_y)
            # Products of a batch in float32, at half the cost; sums of batches in float64.
            part_x, part_delta, part_y = part_x.float(), part_delta.float(), part_y.float()
            sums.xx[index] += part_x.T @ part_x
            sums.xy[index] += part_x.T @ part_y
            sums.delta_y[index] += part_delta.T @ part_y

    def result(self) -> LinearMoments:
        """Return the sums so far."""
        return self._sums
