"""The forward pass of one training step, by two equivalent paths: over all latents, or over the firing ones alone.

    dense    encoder, sparsity and decoder as matrix products over `[token, latent]`, with gradients from autograd
    sparse   the encoder block by block, keeping the firing latents alone; decoder and all gradients are sums over the
             firings. For BatchTopK and TopK, which fix how many latents fire.

A sparse step costs little more than one product of tokens and encoder; a dense step costs five.

Where ranks divide the latents (`latent_ranks`), each computes this for its own. Selection and reconstruction are of all latents, and so are
the errors; everything else here is of the latents of this process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from crosscoder.config import BatchTopK, SparsityConfig, TopK
from crosscoder.config.open_settings import chosen
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.sparse_latents import (
    SparseLatents,
    differentiable_products,
    differentiable_sum,
)
from crosscoder.dictionary.sparsity import keep_largest_of_tokens
from crosscoder.dictionary.topk_selection import BatchSelection, PreLatents, TokenSelection

Path = Literal["dense", "sparse"]

# The sparse path is faster below this share of firing latents: `crosscoder bench step`, docs/benchmarks.md.
SPARSE_BELOW = {torch.float64: 0.15, torch.float32: 0.15, torch.bfloat16: 0.15}

# On a GPU the sparse path launches hundreds of kernels, which takes longer than the dense products of a small dictionary: on an
# H200 it took 1.4 times as long at 8,192 latents, 1.1 times at 16,384, and 0.75 times at 32,768 (batch 4,096, 1,152 wide).
_SPARSE_FROM_ON_GPU = 20_480


class GatheredRows(NamedTuple):
    """Rows gathered from a weight matrix, and the gradient that theirs is added to."""

    gradient: Callable[[], Tensor]
    """Returns the gradient of the whole matrix, after the backward pass."""

    latents: Int64[Tensor, " column"]
    leaf: Float[Tensor, "column width"]


@dataclass(frozen=True)
class ForwardPass:
    """What one training step computes before the loss."""

    crosscoder: Crosscoder
    normalized: Float[Tensor, "token width"]
    error: Float[Tensor, "token width"]
    norms: Float[Tensor, " latent"]
    nested_errors: tuple[Float[Tensor, "token width"], ...]
    """Reconstruction error of the first latents alone, for each nested size."""

    def contributions(self) -> Float[Tensor, "*entry"]:
        """f_j · norm_j of every latent activation that may be nonzero."""
        raise NotImplementedError

    def fired(self) -> tuple[Bool[Tensor, " latent"], Float[Tensor, ""]]:
        """Which latents fired in the batch, and the mean number of firing latents per token (L0)."""
        raise NotImplementedError

    def reconstruct_with(self, latents: Int64[Tensor, " column"], k: int) -> Float[Tensor, "token width"]:
        """Reconstruct each token from its k strongest of the given latents, without the bias. Differentiable.

        Over several ranks, each gives those of its own latents.
        """
        rectified, ranks = self._pre_latents_of(latents).relu(), self.crosscoder.ranks
        chosen = keep_largest_of_tokens(rectified, self.norms[latents], k, ranks)
        return ranks.total(chosen @ self._decoder_of(latents)).to(self.error.dtype)

    def complete_gradients(self) -> None:
        """Add what the backward pass left out of the gradients; call it after the backward pass."""

    def _pre_latents_of(self, latents: Int64[Tensor, " column"]) -> Float[Tensor, "token column"]:
        """Pre-latents of the given latents. Differentiable."""
        raise NotImplementedError

    def _decoder_of(self, latents: Int64[Tensor, " column"]) -> Float[Tensor, "column width"]:
        return self.crosscoder.W_dec.index_select(0, latents)


@dataclass(frozen=True)
class DensePass(ForwardPass):
    """A forward pass that holds the activations of all latents."""

    pre_latents: Float[Tensor, "token latent"]
    latents: Float[Tensor, "token latent"]

    def contributions(self) -> Float[Tensor, "token latent"]:
        return self.latents.float() * self.norms

    def fired(self) -> tuple[Bool[Tensor, " latent"], Float[Tensor, ""]]:
        active = self.latents.detach() > 0
        return active.any(dim=0), self.crosscoder.ranks.sum(active.sum()) / len(active)

    def _pre_latents_of(self, latents: Int64[Tensor, " column"]) -> Float[Tensor, "token column"]:
        return self.pre_latents[:, latents]


@dataclass(frozen=True)
class SparsePass(ForwardPass):
    """A forward pass that holds the firing latents alone."""

    sparse_latents: SparseLatents
    inputs: Float[Tensor, "token width"]
    """`normalized`, in the precision of the matrix products."""

    gathered: list[GatheredRows] = field(default_factory=list)

    def contributions(self) -> Float[Tensor, " firing"]:
        return self.sparse_latents.value * self.norms[self.sparse_latents.latent]

    def fired(self) -> tuple[Bool[Tensor, " latent"], Float[Tensor, ""]]:
        sparse_latents = self.sparse_latents
        active = torch.zeros(sparse_latents.shape[1], dtype=torch.bool, device=sparse_latents.latent.device)
        active[sparse_latents.latent] = True
        n_firing = self.crosscoder.ranks.count(len(sparse_latents))
        return active, torch.tensor(n_firing / max(1, sparse_latents.shape[0]))

    def reconstruct_with(self, latents: Int64[Tensor, " column"], k: int) -> Float[Tensor, "token width"]:
        ranks = self.crosscoder.ranks
        if k >= SPARSE_BELOW[self.inputs.dtype] * ranks.count(len(latents)):
            return super().reconstruct_with(latents, k)
        encoder, bias = self._encoder_of(latents)
        pre_latents = PreLatents(encoder.T, bias, self.inputs)
        found = TokenSelection(ranks)(pre_latents, self.norms[latents].detach(), k)
        value = differentiable_products(encoder, bias, found, self.inputs)
        return ranks.total(differentiable_sum(value, self._decoder_of(latents), found, self.inputs.dtype))

    def complete_gradients(self) -> None:
        """Add the gradients of the gathered rows to those of the whole matrices."""
        for gradient, latents, leaf in self.gathered:
            if leaf.grad is not None:
                gradient().index_add_(0, latents, leaf.grad)

    def _pre_latents_of(self, latents: Int64[Tensor, " column"]) -> Float[Tensor, "token column"]:
        encoder, bias = self._encoder_of(latents)
        return self.inputs @ encoder.T.to(self.inputs.dtype) + bias

    def _encoder_of(
        self, latents: Int64[Tensor, " column"]
    ) -> tuple[Float[Tensor, "column width"], Float[Tensor, " column"]]:
        return self._gather_rows(self.crosscoder.W_enc, True, latents), self.crosscoder.b_enc[latents]

    def _decoder_of(self, latents: Int64[Tensor, " column"]) -> Float[Tensor, "column width"]:
        return self._gather_rows(self.crosscoder.W_dec, False, latents)

    def _gather_rows(
        self, weights: nn.Parameter, transposed: bool, latents: Int64[Tensor, " column"]
    ) -> Float[Tensor, "column width"]:
        """Gather rows of `weights`. Through an index, autograd would allocate a gradient as large as the whole matrix."""
        rows = weights.detach().T if transposed else weights.detach()
        leaf = rows.index_select(0, latents).requires_grad_()

        def gradient() -> Tensor:
            assert weights.grad is not None, "complete_gradients() comes after the backward pass"
            return weights.grad.T if transposed else weights.grad

        self.gathered.append(GatheredRows(gradient, latents, leaf))
        return leaf


def dense_forward(
    crosscoder: Crosscoder,
    normalized: Float[Tensor, "token width"],
    k: float | None,
    nested: Sequence[int] = (),
) -> DensePass:
    """Encode with the training rule and reconstruct.

    Args:
        k: The annealed k; None for the configured one.
        nested: Sizes of the nested dictionaries: numbers of first latents that also reconstruct by themselves.
    """
    norms = crosscoder.score_norms()
    pre_latents = crosscoder.pre_latents(normalized)
    latents = crosscoder.sparsity(pre_latents, norms, k)
    error, nested_errors = reconstruction_errors(crosscoder, normalized, latents, nested)
    return DensePass(crosscoder, normalized, error, norms, nested_errors, pre_latents, latents)


def reconstruction_errors(
    crosscoder: Crosscoder,
    normalized: Float[Tensor, "token width"],
    latents: Float[Tensor, "token latent"],
    nested: Sequence[int],
) -> tuple[Float[Tensor, "token width"], tuple[Float[Tensor, "token width"], ...]]:
    """Return the error of all latents, and of the first latents alone for each nested size."""
    ranks = crosscoder.ranks
    error = normalized - crosscoder.rebuild(latents).to(normalized.dtype)
    # How many of the first latents this process holds, for each nested size.
    held = [max(0, size - crosscoder.latents.start) for size in nested]
    nested_errors = tuple(
        normalized
        - (ranks.total(latents[:, :size] @ crosscoder.W_dec[:size]) + crosscoder.b_dec).to(normalized.dtype)
        for size in held
    )
    return error, nested_errors


class Forward:
    """The forward pass of training, on the faster path for its k."""

    def __init__(
        self,
        crosscoder: Crosscoder,
        dtype: torch.dtype,
        path: Literal["auto", "dense", "sparse"] = "auto",
        nested: Sequence[int] = (),
    ) -> None:
        """`nested`: see `dense_forward`."""
        self.crosscoder, self.dtype, self.path, self.nested = crosscoder, dtype, path, nested
        ranks = crosscoder.ranks
        self._select_of_batch, self._select_of_tokens = BatchSelection(ranks), TokenSelection(ranks)

    def __call__(self, normalized: Float[Tensor, "token width"], k: float | None) -> ForwardPass:
        """Encode with the training rule and reconstruct. `k`: see `dense_forward`."""
        config = self.crosscoder.config
        path = (
            choose_path(
                config.sparsity,
                k,
                config.n_latents,
                self.dtype,
                normalized.device,
                self.crosscoder.ranks.size,
            )
            if self.path == "auto"
            else self.path
        )
        if path == "dense":
            return dense_forward(self.crosscoder, normalized, k, self.nested)
        return self.sparse_forward(normalized, k)

    def sparse_forward(self, normalized: Float[Tensor, "token width"], k: float | None) -> SparsePass:
        """Compute what `dense_forward` does, over the firing latents alone."""
        crosscoder = self.crosscoder
        norms, inputs = crosscoder.score_norms(), normalized.to(self.dtype)
        found = self._select(PreLatents(crosscoder.W_enc, crosscoder.b_enc, inputs), norms.detach(), k)
        sparse_latents = found.with_value(
            differentiable_products(crosscoder.W_enc.T, crosscoder.b_enc, found, inputs)
        )
        *nested_errors, error = (
            normalized - reconstructed for reconstructed in self._nested_reconstructions(sparse_latents)
        )
        return SparsePass(crosscoder, normalized, error, norms, tuple(nested_errors), sparse_latents, inputs)

    def _nested_reconstructions(
        self, sparse_latents: SparseLatents
    ) -> Sequence[Float[Tensor, "token width"]]:
        """Reconstructions by each nested dictionary, and last by all latents."""
        W_dec, b_dec, ranks = self.crosscoder.W_dec, self.crosscoder.b_dec, self.crosscoder.ranks
        if not self.nested:
            by_all = differentiable_sum(sparse_latents.value, W_dec, sparse_latents, self.dtype)
            return (ranks.total(by_all) + b_dec,)
        # One row per token and group of latents, so that each firing is read once, however many nested dictionaries hold it.
        bounds = torch.tensor(self.nested, device=sparse_latents.latent.device)
        latent = sparse_latents.latent + self.crosscoder.latents.start
        group = torch.searchsorted(bounds, latent, right=True)
        n_groups, (n_tokens, n_latents) = len(bounds) + 1, sparse_latents.shape
        parts = SparseLatents(
            sparse_latents.token * n_groups + group,
            sparse_latents.latent,
            sparse_latents.value,
            (n_tokens * n_groups, n_latents),
        )
        by_group = ranks.total(differentiable_sum(sparse_latents.value, W_dec, parts, self.dtype)).unflatten(
            0, (n_tokens, n_groups)
        )
        return (by_group.cumsum(dim=1) + b_dec).unbind(dim=1)

    def _select(
        self, pre_latents: PreLatents, norms: Float[Tensor, " latent"], k: float | None
    ) -> SparseLatents:
        sparsity = self.crosscoder.config.sparsity
        assert isinstance(sparsity, BatchTopK | TopK), "other kinds do not fix how many latents fire"
        k = chosen(sparsity.k, "crosscoder.sparsity.k") if k is None else k
        if isinstance(sparsity, BatchTopK):
            return self._select_of_batch(pre_latents, norms, round(k * pre_latents.n_tokens))
        return self._select_of_tokens(pre_latents, norms, round(k))


def choose_path(
    sparsity: SparsityConfig,
    k: float | None,
    n_latents: int,
    dtype: torch.dtype,
    device: torch.device,
    n_ranks: int = 1,
) -> Path:
    """Choose the faster path from the share of latents that fire and, on a GPU, from their number.

    A fixed rule from earlier measurements, and no timing: a resumed run must choose the same path, and all ranks must.

    Args:
        n_latents: Of all ranks.
    """
    if not isinstance(sparsity, BatchTopK | TopK):
        return "dense"
    if device.type == "cuda" and n_latents < n_ranks * _SPARSE_FROM_ON_GPU:
        return "dense"
    share = (chosen(sparsity.k, "crosscoder.sparsity.k") if k is None else k) / n_latents
    return "sparse" if share < SPARSE_BELOW[dtype] else "dense"
