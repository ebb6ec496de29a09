import pytest
import torch
from torch import Tensor

from crosscoder.dictionary.sparse_latents import (
    SparseLatents,
    differentiable_products,
    differentiable_sum,
)


def sparse_code(tokens: int, latents: int, share: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    code = torch.rand(tokens, latents, generator=generator, dtype=torch.float64) + 0.1
    return code * (torch.rand(tokens, latents, generator=generator) < share)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.6, 1.0])
def test_sparse_products_equal_dense_ones(share: float) -> None:
    code = sparse_code(50, 40, share)
    directions, targets = torch.randn(40, 7, dtype=torch.float64), torch.randn(50, 7, dtype=torch.float64)
    sparse_latents = SparseLatents.from_dense(code)
    dense = (targets @ directions.T)[code > 0]
    assert torch.allclose(sparse_latents.products(directions, targets), dense)
    assert torch.allclose(sparse_latents.weighted_sum(directions), code @ directions)


def test_tokens_on_which_nothing_fires_keep_their_place() -> None:
    code = torch.zeros(5, 3)
    code[1, 2], code[4, 0] = 2.0, 3.0
    rebuilt = SparseLatents.from_dense(code).weighted_sum(torch.eye(3))
    assert torch.equal(rebuilt, code)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.7])
@pytest.mark.parametrize("shape", [(50, 40), (12, 40)])
def test_transposing_swaps_tokens_and_latents(share: float, shape: tuple[int, int]) -> None:
    code = sparse_code(*shape, share)
    sparse_latents = SparseLatents.from_dense(code)
    swapped = sparse_latents.transposed()
    assert torch.equal(swapped.dense(), code.T)
    assert torch.equal(swapped.transposed().dense(), code)
    rows = torch.randn(shape[0], 3, dtype=torch.float64)
    assert torch.allclose(swapped.weighted_sum(rows), code.T @ rows)
    assert torch.allclose(
        swapped.products(rows, torch.ones(40, 3).double()), (rows.sum(1) * (code.T > 0))[code.T > 0]
    )


def test_entries_in_the_order_of_latents_become_firings() -> None:
    code = sparse_code(30, 20, 0.2)
    latent, token = code.T.nonzero(as_tuple=True)
    sparse_latents = SparseLatents.ordered(token, latent, code[token, latent], (30, 20))
    expected = SparseLatents.from_dense(code)
    for name in ("token", "latent", "value", "by_latent", "first_of_token", "first_of_latent"):
        assert torch.equal(getattr(sparse_latents, name), getattr(expected, name)), name


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_entries_at_any_place_are_those_of_the_code(share: float) -> None:
    code = sparse_code(30, 20, share)
    place = torch.randperm(600)
    token, latent = place // 20, place % 20
    assert torch.equal(SparseLatents.from_dense(code).at(token, latent), code[token, latent])


def test_other_values_keep_the_entries() -> None:
    sparse_latents = SparseLatents.from_dense(sparse_code(30, 20, 0.2))
    order = sparse_latents.by_latent
    doubled = sparse_latents.with_value(2 * sparse_latents.value)
    assert torch.equal(doubled.dense(), 2 * sparse_latents.dense())
    assert doubled.by_latent is order


@pytest.mark.parametrize("share", [0.0, 0.05, 0.7])
@pytest.mark.parametrize("shape", [(50, 40), (12, 40)])
def test_gradients_are_those_of_the_dense_products(share: float, shape: tuple[int, int]) -> None:
    code = sparse_code(*shape, share)
    pattern = SparseLatents.from_dense(code)
    tokens = torch.randn(shape[0], 5, dtype=torch.float64)
    weights = [torch.randn(40, 5), torch.randn(40), torch.randn(40, 5)]
    upstream = torch.randn(shape[0], 5, dtype=torch.float64)

    def gradients(sparse: bool) -> list[Tensor]:
        encoder, bias, decoder = (weight.double().requires_grad_() for weight in weights)
        dense = (tokens @ encoder.T + bias) * (code > 0)
        if sparse:
            sparse_latents = pattern.with_value(dense.detach()[pattern.token, pattern.latent])
            value = differentiable_products(encoder, bias, sparse_latents, tokens)
            rebuilt = differentiable_sum(value, decoder, sparse_latents, torch.float64)
        else:
            rebuilt = dense @ decoder
        ((rebuilt * upstream).sum() + rebuilt.square().sum()).backward()
        return [
            rebuilt.detach(),
            *(weight.grad for weight in (encoder, bias, decoder) if weight.grad is not None),
        ]

    for sparse, dense in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(sparse, dense)
