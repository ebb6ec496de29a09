"""Sums over tokens that are kept for each block of documents and each latent, so that documents can be resampled afterwards."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from crosscoder.dictionary.sparse_latents import SparseLatents

from .dictionary_view import Product
from .hashing import block_of


class BlockSums:
    """Named sums, in float64; 8 bytes for each name, block and latent."""

    def __init__(self, n_blocks: int, n_latents: int, seed: int) -> None:
        self.n_blocks, self.n_latents, self.seed = n_blocks, n_latents, seed
        self._sums: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}

    def blocks(self, document: Int[Tensor, " token"]) -> Int64[Tensor, " token"]:
        """The block of each token."""
        return torch.from_numpy(block_of(document.cpu().numpy().astype(np.int64), self.n_blocks, self.seed))

    def add(self, name: str, place: Int64[Tensor, " firing"], value: Float[Tensor, " firing"]) -> None:
        """Add values of firings; `place` is block · n_latents + latent."""
        if name not in self._sums:
            self._sums[name] = torch.zeros(self.n_blocks * self.n_latents, dtype=torch.float64)
        self._sums[name].index_add_(0, place, value.double().cpu())

    def add_products(
        self, weights: SparseLatents, products: Iterable[Product], block: Int64[Tensor, " token"]
    ) -> None:
        """Add weights[t, j] · ⟨directions[j], targets[t]⟩ of every firing, for each product under its name."""
        # By latent, so that a latent's direction is read once for all its tokens.
        weights = weights.transposed()
        value = weights.value.double()
        place = block[weights.latent.cpu()] * self.n_latents + weights.token.cpu()
        for product in products:
            summands = value * weights.products(product.targets, product.directions)
            self.add(product.name, place, summands)
            if product.token_weight is not None:
                relative = product.token_weight.double()[weights.latent]
                self.add(f"{product.name}/relative", place, summands * relative)

    def add_totals(self, name: str, value: Float[Tensor, " token"], block: Int64[Tensor, " token"]) -> None:
        """Add values of tokens, whatever fires on them."""
        if name not in self._totals:
            self._totals[name] = torch.zeros(self.n_blocks, dtype=torch.float64)
        self._totals[name].index_add_(0, block, value.double().cpu())

    def sums(self) -> dict[str, Float64[Tensor, "block latent"]]:
        """Sums over firings."""
        return {name: value.view(self.n_blocks, -1) for name, value in self._sums.items()}

    def totals(self) -> dict[str, Float64[Tensor, " block"]]:
        """Sums over tokens."""
        return dict(self._totals)
