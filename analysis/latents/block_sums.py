"""Sums over tokens per block of documents and latent, so that documents can be resampled later without another pass."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from crosscoder.dictionary.sparse_latents import SparseLatents

from .hashing import block_of
from .observation import Product


class BlockSums:
    """Named sums in float64; 8 bytes per name, block and latent."""

    def __init__(self, n_blocks: int, n_latents: int, seed: int) -> None:
        self.n_blocks, self.n_latents, self.seed = n_blocks, n_latents, seed
        self._sums: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}
        self._read = torch.zeros(n_blocks, dtype=torch.bool)
        """The blocks with tokens."""

    def blocks(self, document: Int[Tensor, " token"]) -> Int64[Tensor, " token"]:
        """Return the block of each token."""
        return torch.from_numpy(block_of(document.cpu().numpy().astype(np.int64), self.n_blocks, self.seed))

    def add(self, name: str, index: Int64[Tensor, " firing"], value: Float[Tensor, " firing"]) -> None:
        """Add values of firings; `index` is block · n_latents + latent."""
        self._sum(name).index_add_(0, index, value.double().cpu())

    def add_products(
        self, weights: SparseLatents, products: Iterable[Product], block: Int64[Tensor, " token"]
    ) -> None:
        """Add weights[t, j] · ⟨directions[j], targets[t]⟩ of every firing to the sum of each product."""
        # Sorted by latent, so that each direction is read once for all its tokens.
        weights = weights.transposed()
        value = weights.value.double()
        index = block[weights.latent.cpu()] * self.n_latents + weights.token.cpu()
        for product in products:
            summands = value * weights.products(product.targets, product.directions)
            self.add(product.name, index, summands)
            if product.token_weight is not None:
                relative = product.token_weight.double()[weights.latent]
                self.add(f"{product.name}/relative", index, summands * relative)

    def add_totals(self, name: str, value: Float[Tensor, " token"], block: Int64[Tensor, " token"]) -> None:
        """Add values of tokens, whichever latents fire."""
        self._total(name).index_add_(0, block, value.double().cpu())
        self._read[block] = True

    def sums(self) -> dict[str, Float64[Tensor, "block latent"]]:
        """Return the sums over firings."""
        return {name: value.view(self.n_blocks, -1) for name, value in self._sums.items()}

    def totals(self) -> dict[str, Float64[Tensor, " block"]]:
        """Return the sums over tokens."""
        return dict(self._totals)

    def tensors(self) -> dict[str, Tensor]:
        """Return the blocks that were read as named tensors, for `join` in another process. They are those with totals."""
        blocks = self._read.nonzero().flatten()
        sums = {f"sums/{name}": value[blocks] for name, value in self.sums().items()}
        totals = {f"totals/{name}": value[blocks] for name, value in self._totals.items()}
        return {"blocks": blocks, **sums, **totals}

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the blocks that another process read, none of which this one did."""
        blocks = tensors["blocks"]
        assert not self._read[blocks].any(), "a block has one reader"
        self._read[blocks] = True
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "sums":
                self._sum(name).view(self.n_blocks, -1)[blocks] = value
            elif kind == "totals":
                self._total(name)[blocks] = value

    def _sum(self, name: str) -> Float64[Tensor, " block_and_latent"]:
        if name not in self._sums:
            self._sums[name] = torch.zeros(self.n_blocks * self.n_latents, dtype=torch.float64)
        return self._sums[name]

    def _total(self, name: str) -> Float64[Tensor, " block"]:
        if name not in self._totals:
            self._totals[name] = torch.zeros(self.n_blocks, dtype=torch.float64)
        return self._totals[name]
