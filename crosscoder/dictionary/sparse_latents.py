"""The nonzero entries of a code `[token, latent]`, and the two sparse products built on them.

    weighted sum   y_t = Σ_j f_tj r_j             decodes tokens; with tokens and latents swapped, the gradient of rows
    products       p_tj = ⟨r_j, y_t⟩ at firings    encodes tokens; the gradient of the values of a weighted sum

Each supplies the gradient of the other, so a training step needs no other product after its encoder. The dense version
multiplies `[token, latent]` with `[latent, width]` though 99 of 100 entries are zero; `crosscoder bench` measures both.
On a CPU torch computes them; on a GPU our Triton kernels do (`triton_kernels`).
"""

import warnings
from functools import cached_property
from types import ModuleType
from typing import Self

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

# Above this share of nonzero entries, the dense product is faster.
_DENSE_FROM = 0.2


class SparseLatents:
    """The nonzero entries of a code in coordinate format, sorted by token, then by latent."""

    def __init__(
        self,
        token: Int64[Tensor, " firing"],
        latent: Int64[Tensor, " firing"],
        value: Float[Tensor, " firing"],
        shape: tuple[int, int],
    ) -> None:
        """Entries must be sorted by `token`, then by `latent`."""
        self.token = token
        """Row index in the code."""
        self.latent = latent
        """Column index in the code."""
        self.value = value
        """Activation of the latent."""
        self.shape = shape
        """Number of tokens and of latents."""

    @classmethod
    def from_dense(cls, latents: Float[Tensor, "token latent"]) -> Self:
        """Convert a dense code."""
        token, latent = latents.nonzero(as_tuple=True)
        return cls(token, latent, latents[token, latent], (latents.shape[0], latents.shape[1]))

    @classmethod
    def ordered(
        cls,
        token: Int64[Tensor, " firing"],
        latent: Int64[Tensor, " firing"],
        value: Float[Tensor, " firing"],
        shape: tuple[int, int],
    ) -> Self:
        """Build from entries that are sorted by latent, then by token."""
        order = token.argsort(stable=True)
        sparse_latents = cls(token[order], latent[order], value[order], shape)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        sparse_latents.by_latent = inverse
        return sparse_latents

    @cached_property
    def by_latent(self) -> Int64[Tensor, " firing"]:
        """Permutation that sorts firings by latent, then by token."""
        return self.latent.argsort(stable=True)

    @cached_property
    def first_of_token(self) -> Int64[Tensor, " bound"]:
        """Index of the first firing of each token, then the number of firings (a CSR row pointer)."""
        return _bounds(self.token, self.shape[0])

    @cached_property
    def first_of_latent(self) -> Int64[Tensor, " bound"]:
        """Index of the first firing of each latent in the order `by_latent`, then the number of firings."""
        counts = torch.bincount(self.latent, minlength=self.shape[1])
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def __len__(self) -> int:
        return len(self.token)

    def with_value(self, value: Float[Tensor, " firing"]) -> Self:
        """Return the same sparsity pattern with other values."""
        other = type(self)(self.token, self.latent, value, self.shape)
        other.__dict__ |= {name: self.__dict__[name] for name in _CACHED if name in self.__dict__}
        return other

    def at(self, token: Int64[Tensor, " place"], latent: Int64[Tensor, " place"]) -> Float[Tensor, " place"]:
        """Return the code at these (token, latent) positions; 0 where the latent does not fire."""
        # A sentinel past the last entry, so that every search result is a valid index.
        end = self.token.new_tensor([self.shape[0] * self.shape[1]])
        entries = torch.cat([self.token * self.shape[1] + self.latent, end])
        values = torch.cat([self.value, self.value.new_zeros(1)])
        query = token * self.shape[1] + latent
        found = torch.searchsorted(entries, query)
        return torch.where(entries[found] == query, values[found], 0)

    def cpu(self) -> Self:
        """Return a copy on the CPU, or itself if it is there already."""
        if self.value.device.type == "cpu":
            return self
        other = type(self)(self.token.cpu(), self.latent.cpu(), self.value.cpu(), self.shape)
        other.__dict__ |= {name: self.__dict__[name].cpu() for name in _CACHED if name in self.__dict__}
        return other

    def transposed(self) -> Self:
        """Return the transpose: tokens and latents swapped."""
        order = self.by_latent
        other = type(self)(
            self.latent[order], self.token[order], self.value[order], (self.shape[1], self.shape[0])
        )
        other.first_of_token = self.first_of_latent
        return other

    def dense(self) -> Float[Tensor, "token latent"]:
        """Return the dense code."""
        return self.value.new_zeros(self.shape).index_put((self.token, self.latent), self.value)

    def products(
        self, directions: Float[Tensor, "latent d_model"], targets: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, " firing"]:
        """Return ⟨directions[latent], targets[token]⟩ for every firing."""
        if len(self) == 0:
            return directions.new_zeros(0)
        kernels = gpu_kernels(directions)
        if kernels is not None:
            return kernels.products(self.token, self.latent, targets, directions, self.value.dtype)
        # Random access should hit the smaller matrix, which stays in cache.
        if self.shape[0] >= self.shape[1]:
            return self._sampled(self.first_of_token, self.latent, self.shape, targets, directions)
        order, swapped = self.by_latent, (self.shape[1], self.shape[0])
        sampled = self._sampled(self.first_of_latent, self.token[order], swapped, directions, targets)
        products = torch.empty_like(sampled)
        products[order] = sampled
        return products

    def weighted_sum(
        self, rows: Float[Tensor, "latent width"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, "token width"]:
        """Multiply the code by a matrix: for every token, the sum of the firing rows weighted by their values.

        Args:
            dtype: Of the result; by default that of `rows`.
        """
        dtype = dtype or rows.dtype
        if len(self) == 0:
            return rows.new_zeros(self.shape[0], rows.shape[1], dtype=dtype)
        if len(self) > _DENSE_FROM * self.shape[0] * self.shape[1]:
            return (self.dense().to(rows.dtype) @ rows).to(dtype)
        kernels = gpu_kernels(rows)
        if kernels is not None:
            return kernels.weighted_sum(self.first_of_token, self.latent, self.value, rows, dtype)
        weights = self.value.to(rows.dtype)
        first = self.first_of_token[:-1]
        return embedding_bag(self.latent, rows, first, mode="sum", per_sample_weights=weights).to(dtype)

    @staticmethod
    def _sampled(
        first: Int64[Tensor, " bound"],
        column: Int[Tensor, " firing"],
        shape: tuple[int, int],
        left: Float[Tensor, "row d_model"],
        right: Float[Tensor, "column d_model"],
    ) -> Float[Tensor, " firing"]:
        with warnings.catch_warnings():
            # torch calls its CSR tensors beta; the tests compare this product with the dense one.
            warnings.filterwarnings("ignore", message="Sparse")
            pattern = torch.sparse_csr_tensor(first, column, left.new_zeros(len(column)), shape)
            return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()


def gpu_kernels(values: Tensor) -> ModuleType | None:
    """Return the Triton kernels if they support the device and dtype of `values`, else None. They sum in float32."""
    if not values.is_cuda or values.dtype == torch.float64:
        return None
    from . import triton_kernels  # Only CUDA builds of torch include Triton.

    return triton_kernels


_CACHED = ("by_latent", "first_of_token", "first_of_latent")


def _bounds(ascending: Int64[Tensor, " firing"], count: int) -> Int64[Tensor, " bound"]:
    """Return the index of the first entry of each of 0 … count - 1 in a sorted list, then the length of the list."""
    return torch.searchsorted(ascending, torch.arange(count + 1, device=ascending.device))


class _WeightedSum(torch.autograd.Function):
    """`SparseLatents.weighted_sum`, differentiable in rows and values."""

    @staticmethod
    def forward(
        ctx, value: Tensor, rows: Tensor, sparse_latents: SparseLatents, gradient_dtype: torch.dtype
    ) -> Tensor:
        ctx.sparse_latents, ctx.gradient_dtype, ctx.dtype = (
            sparse_latents.with_value(value),
            gradient_dtype,
            rows.dtype,
        )
        # On a GPU, casting all rows costs less than it saves in the two reads of the firing rows; on a CPU it costs more.
        read = rows.to(gradient_dtype) if rows.is_cuda else rows
        ctx.save_for_backward(read)
        return ctx.sparse_latents.weighted_sum(read, rows.dtype)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        (read,) = ctx.saved_tensors
        sparse_latents: SparseLatents = ctx.sparse_latents
        to_value = to_rows = None
        if ctx.needs_input_grad[0]:
            to_value = sparse_latents.products(read, gradient.to(read.dtype))
        if ctx.needs_input_grad[1]:
            to_rows = sparse_latents.transposed().weighted_sum(gradient.to(ctx.gradient_dtype), ctx.dtype)
        return to_value, to_rows, None, None


class _Products(torch.autograd.Function):
    """`SparseLatents.products` plus a bias, with values already computed; differentiable in directions and bias."""

    @staticmethod
    def forward(
        ctx, directions: Tensor, bias: Tensor, sparse_latents: SparseLatents, targets: Tensor
    ) -> Tensor:
        ctx.sparse_latents, ctx.dtype = sparse_latents, directions.dtype
        ctx.save_for_backward(targets)
        return sparse_latents.value.clone()

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        (targets,) = ctx.saved_tensors
        sparse_latents: SparseLatents = ctx.sparse_latents.with_value(gradient)
        to_bias = gradient.new_zeros(sparse_latents.shape[1]).index_add(0, sparse_latents.latent, gradient)
        return sparse_latents.transposed().weighted_sum(targets, ctx.dtype), to_bias, None, None


def differentiable_sum(
    value: Float[Tensor, " firing"],
    rows: Float[Tensor, "latent width"],
    sparse_latents: SparseLatents,
    gradient_dtype: torch.dtype,
) -> Float[Tensor, "token width"]:
    """Return `sparse_latents.with_value(value).weighted_sum(rows)`, differentiable in `value` and `rows`.

    Args:
        gradient_dtype: Precision in which the output gradient is read to sum the gradient of `rows`, the largest read of
            a step. On a GPU, `rows` are read in it too.
    """
    return _WeightedSum.apply(value, rows, sparse_latents, gradient_dtype)  # pyright: ignore[reportReturnType]


def differentiable_products(
    directions: Float[Tensor, "latent width"],
    bias: Float[Tensor, " latent"],
    sparse_latents: SparseLatents,
    targets: Float[Tensor, "token width"],
) -> Float[Tensor, " firing"]:
    """Return `sparse_latents.value`, differentiable in `directions` and `bias`.

    The values must equal ⟨directions[latent], targets[token]⟩ + bias[latent]. The gradient of `directions` is summed in
    the precision of `targets`.
    """
    return _Products.apply(directions, bias, sparse_latents, targets)  # pyright: ignore[reportReturnType]
