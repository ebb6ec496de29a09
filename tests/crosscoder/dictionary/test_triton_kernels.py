"""The kernels of `crosscoder.dictionary.triton_kernels` without a GPU: Triton's interpreter runs them on the CPU. tests/test_gpu.py runs them on one."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from crosscoder.dictionary.sparse_latents import SparseLatents

# The longest case has a latent with more firings than one program sums, so partial sums are added.
CASES = {
    "tall": (600, 5, 520, 0.9),
    "wide": (7, 300, 700, 0.05),
    "narrow": (40, 30, 3, 0.2),
    "empty": (7, 9, 3, 0.0),
}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Run the kernels on every case in a subprocess, because Triton reads the environment variable at import."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    place: Path = tmp_path_factory.mktemp("kernels") / "results.safetensors"
    script = f"""
import torch
from safetensors.torch import save_file
from crosscoder.dictionary import triton_kernels
from tests.crosscoder.dictionary.test_triton_kernels import CASES, inputs
results = {{}}
for case in CASES:
    firings, rows, targets, block, bounds = inputs(case)
    swapped = firings.transposed()
    f32 = torch.float32
    places, values = triton_kernels.above(block, bounds)
    results |= {{
        case + " sums": triton_kernels.weighted_sum(firings.first_of_token, firings.latent, firings.value, rows, f32),
        case + " swapped": triton_kernels.weighted_sum(swapped.first_of_token, swapped.latent, swapped.value, targets, f32),
        case + " products": triton_kernels.products(firings.token, firings.latent, targets, rows, f32),
        case + " places": places,
        case + " values": values,
    }}
save_file(results, {str(place)!r})
"""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=300)
    return load_file(place)


def inputs(case: str) -> tuple[SparseLatents, Tensor, Tensor, Tensor, Tensor]:
    """Return firings, rows and targets, and a block of pre-latents with one bound per row."""
    n_tokens, n_latents, width, share = CASES[case]
    generator = torch.Generator().manual_seed(0)
    code = torch.rand(n_tokens, n_latents, generator=generator)
    code = torch.where(torch.rand(code.shape, generator=generator) < share, code, 0.0)
    rows = torch.randn(n_latents, width, generator=generator)
    targets = torch.randn(n_tokens, width, generator=generator)
    block = torch.randn(n_latents, n_tokens, generator=generator)
    block[1, 2] = torch.nan
    bounds = torch.rand(n_latents, generator=generator)
    bounds[2] = torch.inf
    return SparseLatents.from_dense(code), rows, targets, block, bounds


@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_the_dense_products(case: str, interpreted: dict[str, Tensor]) -> None:
    sparse_latents, rows, targets, _, _ = inputs(case)
    code = sparse_latents.dense()
    torch.testing.assert_close(interpreted[f"{case} sums"], code @ rows, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(interpreted[f"{case} swapped"], code.T @ targets, atol=1e-4, rtol=1e-4)
    expected = (targets @ rows.T)[sparse_latents.token, sparse_latents.latent]
    torch.testing.assert_close(interpreted[f"{case} products"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_kernel_finds_exactly_what_is_above(case: str, interpreted: dict[str, Tensor]) -> None:
    *_, block, bounds = inputs(case)
    passing = (block > bounds[:, None]) | block.isnan()
    places = passing.flatten().nonzero().squeeze(1)
    assert torch.equal(interpreted[f"{case} places"], places)
    torch.testing.assert_close(
        interpreted[f"{case} values"], block.flatten()[places], equal_nan=True, atol=0, rtol=0
    )
