"""Both paths of a training step agree in values and gradients; the dense path is the reference."""

import pytest
import torch
from torch import Tensor

from crosscoder.config import AuxiliaryConfig, BatchTopK, CrosscoderConfig, JumpReLU, ReLU, TopK
from crosscoder.config.model_names import model_names
from crosscoder.dictionary.crosscoder import Crosscoder
from tests.dictionaries import SHAPES, raw_activations, small_crosscoder
from training.forward import (
    SPARSE_BELOW,
    DensePass,
    Forward,
    SparsePass,
    choose_path,
    dense_forward,
)
from training.losses import loss_terms

SOME_DEAD = torch.arange(24) % 4 == 0
ALL_DEAD = torch.ones(24, dtype=torch.bool)
NONE_DEAD = torch.zeros(24, dtype=torch.bool)


def step(
    crosscoder: Crosscoder,
    normalized: Tensor,
    dead: Tensor,
    k: float | None,
    path: str,
    nested: tuple[int, ...] = (),
) -> dict[str, Tensor]:
    """Loss terms, latents, which latents fired, and all gradients."""
    crosscoder.zero_grad()
    forward = Forward(crosscoder, normalized.dtype, path, nested)(normalized, k)  # pyright: ignore[reportArgumentType]
    terms = loss_terms(forward, dead, AuxiliaryConfig(coefficient=1.0, k=3), penalty=0.0)
    assert ("nested" in terms) == bool(nested)
    terms.total().backward()
    forward.complete_gradients()
    assert isinstance(forward, SparsePass if path == "sparse" else DensePass)
    code = forward.sparse_latents.dense() if isinstance(forward, SparsePass) else forward.latents  # pyright: ignore[reportAttributeAccessIssue]
    fired, l0 = forward.fired()
    found = {"code": code.detach(), "fired": fired, "l0": l0.double(), "error": forward.error.detach()}
    found |= {f"term {name}": value.detach() for name, value in terms.items()}
    contributions = forward.contributions().detach()
    found["contributions"] = contributions.sum()
    for name, parameter in crosscoder.named_parameters():
        found[f"gradient of {name}"] = (
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        )
    return found


def assert_paths_agree(
    crosscoder: Crosscoder,
    normalized: Tensor,
    dead: Tensor,
    k: float | None,
    nested: tuple[int, ...] = (),
) -> None:
    dense, sparse = (step(crosscoder, normalized, dead, k, path, nested) for path in ("dense", "sparse"))
    assert dense.keys() == sparse.keys()
    for name, value in dense.items():
        torch.testing.assert_close(sparse[name], value, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", ["batch_topk", "topk"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dead", [NONE_DEAD, SOME_DEAD, ALL_DEAD], ids=["none", "some", "all"])
@pytest.mark.parametrize("k", [None, 1.0, 7.0, 24.0])
def test_values_and_gradients_agree(kind: str, shape: str, dead: Tensor, k: float | None) -> None:
    """k = 24 is the number of latents, so more are selected than are positive."""
    crosscoder = small_crosscoder(kind, shape).double()
    normalized = crosscoder.normalize(raw_activations(SHAPES[shape]).double())
    assert_paths_agree(crosscoder, normalized, dead, k)


@pytest.mark.parametrize("kind", ["batch_topk", "topk"])
@pytest.mark.parametrize("shape", ["one", "three_unequal"])
@pytest.mark.parametrize("nested", [(5,), (5, 12), (1, 2, 23)])
def test_nested_reconstructions_agree(kind: str, shape: str, nested: tuple[int, ...]) -> None:
    crosscoder = small_crosscoder(kind, shape).double()
    normalized = crosscoder.normalize(raw_activations(SHAPES[shape]).double())
    assert_paths_agree(crosscoder, normalized, SOME_DEAD, 6.0, nested)


@pytest.mark.parametrize("n_dead", [10, 190])
def test_reconstructions_by_dead_latents_agree(n_dead: int) -> None:
    """Few dead latents take the dense path and many the sparse one."""
    crosscoder = small_crosscoder("batch_topk", "two_unequal", n_latents=200).double()
    normalized = crosscoder.normalize(raw_activations(SHAPES["two_unequal"]).double())
    dead = torch.randperm(200, generator=torch.Generator().manual_seed(0)) < n_dead
    assert_paths_agree(crosscoder, normalized, dead, 3.0)


@pytest.mark.parametrize("kind", ["batch_topk", "topk"])
def test_paths_agree_on_tokens_where_no_latent_fires(kind: str) -> None:
    crosscoder = small_crosscoder(kind, "two").double()
    with torch.no_grad():
        crosscoder.b_enc.fill_(-1.0)
    normalized = crosscoder.normalize(raw_activations((6, 6)).double())
    normalized[::3] = 0
    assert_paths_agree(crosscoder, normalized, SOME_DEAD, 3.0)
    with torch.no_grad():
        crosscoder.b_enc.fill_(-1e6)
    assert_paths_agree(crosscoder, normalized, SOME_DEAD, 3.0)


@pytest.mark.parametrize("kind", ["batch_topk", "topk"])
def test_in_bfloat16_sparse_gradients_are_as_accurate_as_dense_ones(kind: str) -> None:
    """The paths differ from each other: a latent near the threshold may fire on one of them alone."""
    sparsity = BatchTopK(k=8) if kind == "batch_topk" else TopK(k=8)
    config = CrosscoderConfig(d_models=(64, 64), model_names=model_names(2), n_latents=256, sparsity=sparsity)
    crosscoder = Crosscoder(config)
    normalized = torch.randn(512, 128, generator=torch.Generator().manual_seed(0))

    def gradients(path: str, dtype: torch.dtype) -> Tensor:
        crosscoder.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            forward = Forward(crosscoder, dtype, path)(normalized, None)  # pyright: ignore[reportArgumentType]
            dead = torch.arange(256) % 16 == 0
            loss_terms(forward, dead, AuxiliaryConfig(k=256), 0.0).total().backward()
        forward.complete_gradients()
        found = [parameter.grad for parameter in crosscoder.parameters() if parameter.grad is not None]
        assert all(gradient.dtype == torch.float32 for gradient in found)
        return torch.cat([gradient.flatten() for gradient in found])

    exact = gradients("dense", torch.float32)
    errors = {path: float((gradients(path, torch.bfloat16) - exact).norm()) for path in ("dense", "sparse")}
    assert 0 < errors["sparse"] <= 1.1 * errors["dense"]
    assert errors["sparse"] < 0.1 * float(exact.norm())


def test_gradients_have_the_memory_layout_of_their_weights() -> None:
    """If they do not, every step copies them."""
    crosscoder = small_crosscoder("batch_topk", "two")
    forward = Forward(crosscoder, torch.float32, "sparse")(
        crosscoder.normalize(raw_activations((6, 6))), None
    )
    loss_terms(forward, NONE_DEAD, AuxiliaryConfig(), 0.0).total().backward()
    for parameter in (crosscoder.W_enc, crosscoder.W_dec):
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()
    assert crosscoder.W_enc.T.is_contiguous()


def test_the_path_follows_from_the_share_of_firing_latents() -> None:
    cpu = torch.device("cpu")
    for dtype, share in SPARSE_BELOW.items():
        for sparsity in (BatchTopK(k=1), TopK(k=1)):
            assert choose_path(sparsity, share * 1000 - 1, 1000, dtype, cpu) == "sparse"
            assert choose_path(sparsity, share * 1000 + 1, 1000, dtype, cpu) == "dense"
            assert choose_path(sparsity, None, 1000, dtype, cpu) == "sparse"
    for sparsity in (ReLU(target_l0=1), JumpReLU(target_l0=1)):
        assert choose_path(sparsity, None, 10_000, torch.float32, cpu) == "dense"


def test_a_small_dictionary_takes_the_dense_path_on_a_gpu() -> None:
    for device, n_latents, path in [
        ("cuda", 8192, "dense"),
        ("cuda", 65536, "sparse"),
        ("cpu", 8192, "sparse"),
    ]:
        assert choose_path(BatchTopK(k=64), None, n_latents, torch.bfloat16, torch.device(device)) == path


def test_auto_takes_the_path_of_the_rule() -> None:
    crosscoder = small_crosscoder("batch_topk", "two")
    normalized = crosscoder.normalize(raw_activations((6, 6)))
    forward = Forward(crosscoder, torch.float32)
    assert isinstance(forward(normalized, 1.0), SparsePass)
    assert isinstance(forward(normalized, 20.0), DensePass)
    torch.testing.assert_close(
        forward(normalized, 1.0).error, dense_forward(crosscoder, normalized, 1.0).error
    )
