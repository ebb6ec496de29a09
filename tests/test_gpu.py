"""A GPU computes the same results as a CPU. Skipped without a GPU. With one, all other training tests run on it too, because
`training.device` is `auto`.
"""

import pytest
import torch
from torch import Tensor

from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.sparse_latents import SparseLatents
from tests.dictionaries import KINDS, SHAPES, raw_activations, small_crosscoder
from tests.training.test_forward import step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

every_kind = pytest.mark.parametrize("kind", KINDS)
every_shape = pytest.mark.parametrize("shape", SHAPES)
SIZES = {"tall": (600, 5, 520), "wide": (40, 3000, 700), "long": (3000, 300, 513), "narrow": (7, 9, 3)}
PRECISE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def random_code(n_tokens: int, n_latents: int, share: float) -> Tensor:
    """Return a nonnegative code with one latent that always fires and one that never does."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(n_tokens, n_latents, generator=generator)
    code = torch.where(torch.rand(values.shape, generator=generator) < share, values, 0.0)
    code[:, 0] = values[:, 0]
    code[:, 1] = 0
    return code


def relative_error(found: Tensor, reference: Tensor) -> float:
    found = found.double().cpu()
    return float((found - reference).norm() / reference.norm().clamp(min=1e-30))


@pytest.mark.parametrize("dtype", PRECISE, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_the_kernels_compute_the_dense_products(size: str, dtype: torch.dtype) -> None:
    n_tokens, n_latents, width = SIZES[size]
    code = random_code(n_tokens, n_latents, share=0.05)
    rows, targets = torch.randn(n_latents, width).to(dtype), torch.randn(n_tokens, width).to(dtype)
    sparse_latents = SparseLatents.from_dense(code.cuda())
    on_gpu = rows.cuda(), targets.cuda()
    sums = sparse_latents.weighted_sum(on_gpu[0], torch.float32)
    swapped = sparse_latents.transposed().weighted_sum(on_gpu[1], torch.float32)
    products = sparse_latents.products(*on_gpu)
    code, rows, targets = code.double(), rows.double(), targets.double()
    assert relative_error(sums, code @ rows) < PRECISE[dtype]
    assert relative_error(swapped, code.T @ targets) < PRECISE[dtype]
    assert relative_error(products, (targets @ rows.T)[code > 0]) < PRECISE[dtype]
    assert torch.equal(swapped, sparse_latents.transposed().weighted_sum(on_gpu[1], torch.float32))


@every_kind
@every_shape
def test_codes_and_reconstructions_equal_those_of_the_cpu(kind: str, shape: str) -> None:
    crosscoder = small_crosscoder(kind, shape)
    values = raw_activations(SHAPES[shape])
    expected = crosscoder.encode(values).detach()
    moved = small_crosscoder(kind, shape).cuda()
    found = moved.encode(values.cuda()).detach()
    assert relative_error(found, expected.double()) < 1e-5
    sparse_latents = moved.encode_sparse(values.cuda())
    assert relative_error(sparse_latents.dense(), expected.double()) < 1e-5
    assert (
        relative_error(moved.rebuild(sparse_latents).detach(), crosscoder.rebuild(expected).double().detach())
        < 1e-5
    )


@pytest.mark.parametrize("kind", ["batch_topk", "topk"])
@every_shape
def test_both_paths_of_a_training_step_equal_those_of_the_cpu(kind: str, shape: str) -> None:
    def run_step(crosscoder: Crosscoder, path: str) -> dict[str, Tensor]:
        device = crosscoder.W_enc.device
        normalized = crosscoder.normalize(raw_activations(SHAPES[shape], 256).to(device))
        dead = torch.arange(200, device=device) % 4 == 0
        return step(crosscoder, normalized, dead, 3.0, path, (20, 90))

    expected = run_step(small_crosscoder(kind, shape, n_latents=200), "dense")
    for path in ("dense", "sparse"):
        found = run_step(small_crosscoder(kind, shape, n_latents=200).cuda(), path)
        for name, value in expected.items():
            assert relative_error(found[name], value.double()) < 1e-4, (path, name)
