import pytest
import torch

from analysis.firings import Firings


def sparse_code(tokens: int, latents: int, share: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    code = torch.rand(tokens, latents, generator=generator, dtype=torch.float64) + 0.1
    return code * (torch.rand(tokens, latents, generator=generator) < share)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.6, 1.0])
def test_sparse_products_equal_dense_ones(share: float) -> None:
    code = sparse_code(50, 40, share)
    directions, targets = torch.randn(40, 7, dtype=torch.float64), torch.randn(50, 7, dtype=torch.float64)
    firings = Firings.of(code)
    dense = (targets @ directions.T)[code > 0]
    assert torch.allclose(firings.products(directions, targets), dense)
    assert torch.allclose(firings.weighted_sum(directions), code @ directions)


def test_tokens_on_which_nothing_fires_keep_their_place() -> None:
    code = torch.zeros(5, 3)
    code[1, 2], code[4, 0] = 2.0, 3.0
    rebuilt = Firings.of(code).weighted_sum(torch.eye(3))
    assert torch.equal(rebuilt, code)
