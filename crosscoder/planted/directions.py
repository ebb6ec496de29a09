"""Directions of planted features: as far apart as they go, or with known cosines, and maps of a whole space."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def spread_directions(
    count: int, d_model: int, generator: torch.Generator
) -> Float[Tensor, "direction d_model"]:
    """Unit directions that keep apart: orthogonal where they fit, else pushed apart by gradient steps on Σ cos⁴."""
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
    """Unit directions of the same span whose cosines with each other lie between `lowest` and `highest`.

    The cosine of directions i and j is v_i v_j with v spaced from √lowest to √highest, so that some pairs are near and
    some are far. There may be no more directions than dimensions.
    """
    weight = torch.linspace(lowest, highest, len(directions)).sqrt()
    cosines = weight[:, None] * weight + torch.diag(1 - weight.square())
    basis = torch.linalg.qr(directions.T).Q.T
    return torch.linalg.cholesky(cosines) @ basis


def random_rotation(d_model: int, generator: torch.Generator) -> Float[Tensor, "d_model d_model"]:
    """An orthogonal matrix, uniformly distributed."""
    q, r = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator))
    return q * r.diagonal().sign()


def random_stretch(
    d_model: int, stretch: float, generator: torch.Generator
) -> Float[Tensor, "d_model d_model"]:
    """A matrix with random singular directions, whose singular values are spaced evenly (log) from 1/stretch to stretch."""
    sizes = torch.logspace(-1, 1, d_model, base=stretch)
    return random_rotation(d_model, generator) * sizes @ random_rotation(d_model, generator)


@dataclass(frozen=True)
class SpaceMap:
    """An affine map that one model's whole space went through: x ↦ x M + offset."""

    matrix: Float[Tensor, "d_model d_model"]
    offset: Float[Tensor, " d_model"]
