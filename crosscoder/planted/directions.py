"""Directions of planted features, spread out, with given cosines or on a circle, and maps of a whole space."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def spread_directions(
    count: int, d_model: int, generator: torch.Generator
) -> Float[Tensor, "direction d_model"]:
    """Return unit directions: orthogonal if `count` <= `d_model`, else spread out by gradient steps on Σ cos⁴."""
    start = torch.randn(count, d_model, generator=generator)
    if count <= d_model:
        return torch.linalg.qr(start.T).Q.T[:count].contiguous()
    weights = normalize(start, dim=1).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=1e-2)
    for _ in range(200):
        directions = normalize(weights, dim=1)
        overlap = directions @ directions.T - torch.eye(count)
        optimizer.zero_grad()
        overlap.pow(4).sum().backward()
        optimizer.step()
    return normalize(weights, dim=1).detach()


def with_cosines(
    directions: Float[Tensor, "direction d_model"], lowest: float, highest: float
) -> Float[Tensor, "direction d_model"]:
    """Return unit directions with the same span and pairwise cosines between `lowest` and `highest`.

    The cosine of directions i and j is v_i v_j with v spaced from √lowest to √highest, so pairs range from near to far.
    Requires at most as many directions as dimensions.
    """
    weight = torch.linspace(lowest, highest, len(directions)).sqrt()
    cosines = weight[:, None] * weight + torch.diag(1 - weight.square())
    basis = torch.linalg.qr(directions.T).Q.T
    return torch.linalg.cholesky(cosines) @ basis


def circle(count: int, start: float) -> Float[Tensor, "direction 2"]:
    """Return unit vectors of a plane at equal angles, the first at angle `start` in radians."""
    angles = start + torch.arange(count) * (2 * math.pi / count)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def random_rotation(d_model: int, generator: torch.Generator) -> Float[Tensor, "d_model d_model"]:
    """Draw an orthogonal matrix from the uniform (Haar) distribution."""
    q, r = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator))
    return q * r.diagonal().sign()


def random_stretch(
    d_model: int, stretch: float, generator: torch.Generator
) -> Float[Tensor, "d_model d_model"]:
    """Draw a matrix with random singular vectors and singular values log-spaced from 1/stretch to stretch."""
    sizes = torch.logspace(-1, 1, d_model, base=stretch)
    return random_rotation(d_model, generator) * sizes @ random_rotation(d_model, generator)


@dataclass(frozen=True)
class LowRankMap:
    """A map x ↦ x + x Vᵀ S U of a whole space: what x holds along the rows of V is written again along the rows of U."""

    writes: Float[Tensor, "rank d_model"]
    """U, orthonormal."""

    reads: Float[Tensor, "rank d_model"]
    """V, orthonormal."""

    strength: float
    """S, the same for every row."""

    @classmethod
    def draw(cls, d_model: int, rank: int, strength: float, generator: torch.Generator) -> Self:
        """Draw both sets of rows independently."""
        writes, reads = (random_rotation(d_model, generator)[:rank] for _ in range(2))
        return cls(writes, reads, strength)

    @property
    def matrix(self) -> Float[Tensor, "d_model d_model"]:
        """The matrix to multiply a row vector with."""
        return torch.eye(self.reads.shape[1]) + self.strength * self.reads.T @ self.writes


@dataclass(frozen=True)
class SpaceMap:
    """An affine map applied to the whole space of one model: x ↦ x M + offset."""

    matrix: Float[Tensor, "d_model d_model"]
    offset: Float[Tensor, " d_model"]
