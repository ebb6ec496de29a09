"""What a dictionary computes for a batch of tokens: its codes, its reconstruction, and the products that the statistics sum."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from crosscoder.dictionary.sparse_latents import SparseLatents


class Product(NamedTuple):
    """A quantity to sum over tokens: weights[t, j] · ⟨directions[j], targets[t]⟩, with the weights of the observation."""

    name: str
    directions: Float[Tensor, "latent d_model"]
    targets: Float[Tensor, "token d_model"]
    token_weight: Float[Tensor, " token"] | None = None
    """If given, a second sum weights tokens by it; its name ends in `/relative`."""


class Codes(NamedTuple):
    """The codes of a batch."""

    sparse_latents: SparseLatents
    """The code that counts as firing; for `pooled`, the larger of the two models' codes."""

    per_model: tuple[SparseLatents, SparseLatents] | None = None
    """For `pooled`, each model's code at the entries of `sparse_latents`, 0 where it does not fire; otherwise None."""


@dataclass(frozen=True)
class Observation:
    """What a dictionary computes for a batch of tokens."""

    codes: Codes

    actual: Float[Tensor, "token _"]
    """Target of the reconstruction, in raw units: the activations of all models, or their difference."""

    rebuilt: Float[Tensor, "token _"]
    """Reconstruction of `actual`."""

    weights: SparseLatents
    """Weights of the products, at the entries of `codes.sparse_latents`."""

    products: tuple[Product, ...]
