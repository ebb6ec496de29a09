from pathlib import Path

import pytest
import torch
from torch import Tensor

from crosscoder.activations.batch import split_models
from crosscoder.config import AuxiliaryConfig, CrosscoderConfig, JumpReLU, ReLU
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.errors import ConfigError
from tests.dictionaries import KINDS, SHAPES, raw_activations, small_crosscoder
from tests.training.in_memory import run_config
from training.forward import DensePass, dense_forward
from training.losses import (
    auxiliary_error,
    difference_error,
    loss_terms,
    resolve_difference_weight,
    squared_error,
)

every_kind = pytest.mark.parametrize("kind", KINDS)
every_shape = pytest.mark.parametrize("shape", SHAPES)
AUXILIARY = AuxiliaryConfig(k=3)
NONE_DEAD = torch.zeros(24, dtype=torch.bool)
SOME_DEAD = torch.arange(24) % 4 == 0


def forward_of(crosscoder: Crosscoder, k: float | None = None) -> DensePass:
    return dense_forward(crosscoder, crosscoder.normalize(raw_activations(crosscoder.config.d_models)), k)


# --- the terms --------------------------------------------------------------------------------------------------------


@every_shape
def test_predicting_the_mean_costs_one_for_each_model(shape: str) -> None:
    crosscoder, d_models = small_crosscoder("relu", shape), SHAPES[shape]
    normalized = crosscoder.normalize(raw_activations(d_models, 512, seed=7))
    assert float(squared_error(normalized, d_models)) == pytest.approx(len(d_models), rel=1e-4)
    for index, d_model in enumerate(d_models):
        alone = torch.zeros_like(normalized)
        split_models(alone, d_models)[index].copy_(split_models(normalized, d_models)[index])
        assert float(squared_error(alone, d_models)) == pytest.approx(1, rel=1e-4), d_model


def test_squared_error_equals_its_formula() -> None:
    error = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 1.0]])
    assert float(squared_error(error, (1, 2))) == pytest.approx((1 + 0) / 2 + (13 / 2 + 2 / 2) / 2)
    assert float(squared_error(error, (2, 1))) == pytest.approx((5 / 2 + 1 / 2) / 2 + (9 + 1) / 2)


@every_kind
@every_shape
def test_total_is_the_sum_of_the_named_terms(kind: str, shape: str) -> None:
    """Peers compute the auxiliary term, log it, and return the loss without it."""
    crosscoder = small_crosscoder(kind, shape)
    terms = loss_terms(forward_of(crosscoder), SOME_DEAD, AUXILIARY, penalty=0.7)
    expected = {"batch_topk": set(), "topk": set(), "relu": {"sparsity"}, "jumprelu": {"sparsity", "dead"}}[
        kind
    ]
    assert set(terms) == {"mse", "auxk"} | expected
    assert float(terms.total().detach()) == pytest.approx(
        sum(float(term.detach()) for term in terms.values()), rel=1e-6
    )
    assert all(float(term.detach()) > 0 for term in terms.values())


@every_kind
def test_gradient_of_the_total_is_the_sum_of_the_gradients_of_its_terms(kind: str) -> None:
    """No term is logged without being trained."""
    crosscoder = small_crosscoder(kind, "two_unequal")
    parameters = dict(crosscoder.named_parameters())

    def gradients(name: str | None) -> dict[str, Tensor]:
        crosscoder.zero_grad()
        terms = loss_terms(forward_of(crosscoder), SOME_DEAD, AUXILIARY, penalty=0.7)
        (terms.total() if name is None else terms[name]).backward()
        return {
            key: torch.zeros_like(p) if p.grad is None else p.grad.clone() for key, p in parameters.items()
        }

    names = loss_terms(forward_of(crosscoder), SOME_DEAD, AUXILIARY, penalty=0.7).keys()
    parts = {name: gradients(name) for name in names}
    for key, gradient in gradients(None).items():
        torch.testing.assert_close(gradient, sum(part[key] for part in parts.values()), rtol=1e-4, atol=1e-6)
    for name, part in parts.items():
        assert any(gradient.abs().max() > 0 for gradient in part.values()), name


@every_kind
@every_shape
def test_every_parameter_gets_a_gradient_and_moves(kind: str, shape: str) -> None:
    crosscoder = small_crosscoder(kind, shape)
    before = {name: parameter.detach().clone() for name, parameter in crosscoder.named_parameters()}
    optimizer = torch.optim.Adam(crosscoder.parameters(), lr=1e-3)
    loss_terms(forward_of(crosscoder), SOME_DEAD, AUXILIARY, penalty=0.7).total().backward()
    optimizer.step()
    for name, parameter in crosscoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        moved = parameter.detach() != before[name]
        # A latent that did not fire, is not dead and lies outside every window gets no gradient.
        assert moved.float().mean() > 0.5, name


@every_kind
def test_annealed_k_is_used(kind: str) -> None:
    crosscoder = small_crosscoder(kind, "two")
    l0 = float((forward_of(crosscoder, 7.0).latents > 0).sum()) / 64
    if kind in ("batch_topk", "topk"):
        assert l0 == pytest.approx(7, rel=0.05)
    else:
        assert l0 == float((forward_of(crosscoder).latents > 0).sum()) / 64


def test_batch_topk_latents_in_training_equal_those_at_inference_on_the_same_tokens() -> None:
    crosscoder = small_crosscoder("batch_topk", "two")
    values = raw_activations((6, 6))
    crosscoder.calibrate(values)
    trained = dense_forward(crosscoder, crosscoder.normalize(values), None).latents
    torch.testing.assert_close(crosscoder.encode(values), trained)


# --- AuxK -------------------------------------------------------------------------------------------------------------


@every_kind
@every_shape
def test_auxiliary_gradient_reaches_only_rows_of_dead_latents(kind: str, shape: str) -> None:
    crosscoder = small_crosscoder(kind, shape)
    auxiliary_error(forward_of(crosscoder), SOME_DEAD.nonzero().squeeze(1), k=3).backward()
    for gradient in (crosscoder.W_dec.grad, crosscoder.W_enc.grad.T, crosscoder.b_enc.grad[:, None]):  # pyright: ignore[reportOptionalMemberAccess, reportOptionalSubscript]
        assert gradient is not None
        reached = gradient.abs().amax(dim=1) > 0
        assert not reached[~SOME_DEAD].any()
        assert reached[SOME_DEAD].any()
    assert crosscoder.b_dec.grad is None, (
        "the error is what is left over; the bias has its say in the main term"
    )


@every_kind
def test_alive_latents_learn_the_same_with_and_without_the_auxiliary_term(kind: str) -> None:
    crosscoder, gradients = small_crosscoder(kind, "two"), []
    for coefficient in (0.0, 1.0):
        crosscoder.zero_grad()
        auxiliary = AuxiliaryConfig(coefficient=coefficient, k=3)
        loss_terms(forward_of(crosscoder), SOME_DEAD, auxiliary, 0.7).total().backward()
        assert crosscoder.W_dec.grad is not None
        gradients.append(crosscoder.W_dec.grad.clone())
    torch.testing.assert_close(gradients[0][~SOME_DEAD], gradients[1][~SOME_DEAD])
    assert (gradients[0] - gradients[1])[SOME_DEAD].abs().max() > 1e-3


def test_auxiliary_error_equals_its_formula() -> None:
    """‖e - ê‖² with ê from the k dead latents of largest contribution, by brute force for each token."""
    crosscoder = small_crosscoder("batch_topk", "two_unequal")
    forward = forward_of(crosscoder)
    norms, decoder = crosscoder.decoder_norms().sum(dim=1).detach(), crosscoder.W_dec.detach()
    rows = []
    for pre_latents, error in zip(forward.pre_latents.detach(), forward.error.detach(), strict=True):
        candidates = [j for j in range(24) if SOME_DEAD[j] and float(pre_latents[j]) > 0]
        best = sorted(candidates, key=lambda j: -float(pre_latents[j] * norms[j]))[:2]
        rows.append(error - sum((pre_latents[j] * decoder[j] for j in best), torch.zeros(13)))
    expected = squared_error(torch.stack(rows), (5, 8))
    torch.testing.assert_close(
        auxiliary_error(forward, SOME_DEAD.nonzero().squeeze(1), k=2).detach(), expected
    )
    assert not torch.isclose(auxiliary_error(forward, SOME_DEAD.nonzero().squeeze(1), k=1).detach(), expected)


def test_auxiliary_term_is_absent_without_dead_latents_or_if_switched_off() -> None:
    crosscoder = small_crosscoder("batch_topk", "two")
    forward = forward_of(crosscoder)
    assert "auxk" not in loss_terms(forward, NONE_DEAD, AUXILIARY, 0.0)
    assert "auxk" not in loss_terms(forward, SOME_DEAD, AuxiliaryConfig(coefficient=0), 0.0)
    assert "auxk" in loss_terms(forward, SOME_DEAD, AUXILIARY, 0.0)


def test_a_dead_latent_learns_the_direction_that_others_do_not_explain() -> None:
    """The alive latent explains one direction; the dead one learns the other and starts to fire."""
    config = CrosscoderConfig(
        d_models=(4,),
        model_names=("a",),
        n_latents=2,
        sparsity=KINDS["batch_topk"].model_copy(update={"k": 1}),
    )
    generator = torch.Generator().manual_seed(0)
    values = torch.zeros(400, 4)
    values[:, 0] = torch.rand(400, generator=generator) * (torch.rand(400, generator=generator) < 0.5)
    values[:, 1] = torch.rand(400, generator=generator) * (torch.rand(400, generator=generator) < 0.5)
    values[:, 2:] = 0.01 * torch.randn(400, 2, generator=generator)

    def cosine_after(coefficient: float) -> float:
        crosscoder = Crosscoder(config, seed=1)
        with torch.no_grad():
            for weight in (crosscoder.W_dec, crosscoder.W_enc.T):
                weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0.1, 0.1, 0.7, 0.7]]))
        optimizer = torch.optim.Adam(crosscoder.parameters(), lr=0.02)
        dead = torch.tensor([False, True])
        for _ in range(200):
            optimizer.zero_grad()
            forward = dense_forward(crosscoder, values, 0.4)
            loss_terms(forward, dead, AuxiliaryConfig(coefficient=coefficient, k=1), 0.0).total().backward()
            optimizer.step()
        return float(torch.nn.functional.normalize(crosscoder.W_dec.detach(), dim=1)[1, 1])

    assert cosine_after(1.0) > 0.9
    assert cosine_after(0.0) < 0.5


# --- penalties --------------------------------------------------------------------------------------------------------


def codes_and_rows(sparsity: ReLU | JumpReLU, rows: Tensor, codes: Tensor, d_model: int) -> float:
    """The penalty for given decoder rows and latent activations."""
    config = CrosscoderConfig(
        d_models=(d_model, d_model), model_names=("a", "b"), n_latents=len(rows), sparsity=sparsity
    )
    crosscoder = Crosscoder(config)
    with torch.no_grad():
        crosscoder.W_dec.copy_(rows)
    error = torch.zeros(len(codes), 2 * d_model)
    forward = DensePass(crosscoder, error, error, crosscoder.score_norms(), (), codes, codes)
    terms = loss_terms(forward, torch.zeros(len(rows), dtype=torch.bool), AUXILIARY, penalty=0.7)
    return float(terms["sparsity"].detach())


def shared_and_exclusive() -> tuple[Tensor, Tensor]:
    """One latent for both models, and the equivalent pair of exclusive latents."""
    direction = torch.nn.functional.normalize(
        torch.randn(8, generator=torch.Generator().manual_seed(0)), dim=0
    )
    nothing = torch.zeros(8)
    shared = torch.cat([2 * direction, 3 * direction])[None]
    exclusive = torch.stack([torch.cat([2 * direction, nothing]), torch.cat([nothing, 3 * direction])])
    return shared, exclusive


def test_l1_of_a_shared_latent_costs_as_much_as_two_exclusive_ones() -> None:
    """L1 of the norms of each model, not of their joint norm, so that exclusive latents are not more expensive."""
    shared, exclusive = shared_and_exclusive()
    code = torch.rand(50, 1, generator=torch.Generator().manual_seed(1))
    sparsity = ReLU(target_l0=1)
    cost = codes_and_rows(sparsity, shared, code, 8)
    assert cost == pytest.approx(codes_and_rows(sparsity, exclusive, code.expand(50, 2), 8), rel=1e-6)
    assert cost == pytest.approx(0.7 * 5 * float(code.mean()) / 8, rel=1e-6)
    assert cost != pytest.approx(0.7 * 13**0.5 * float(code.mean()) / 8, rel=0.1)


def test_tanh_penalty_of_a_shared_latent_costs_less_than_two_exclusive_ones() -> None:
    """The control: a saturating penalty counts latents, as BatchTopK does."""
    shared, exclusive = shared_and_exclusive()
    code = torch.ones(50, 1)
    sparsity = JumpReLU(target_l0=1)
    cost = codes_and_rows(sparsity, shared, code, 8)
    assert cost == pytest.approx(0.7 / 8, rel=1e-4)
    assert codes_and_rows(sparsity, exclusive, code.expand(50, 2), 8) == pytest.approx(2 * 0.7 / 8, rel=1e-4)


@pytest.mark.parametrize(("strength", "expected_zero"), [(1.0, False), (0.5, False), (0.1, True)])
def test_l1_shrinks_a_decoder_to_the_derived_norm(strength: float, expected_zero: bool) -> None:
    """For fixed latent activations, the minimizer of E‖(s - w)f‖² + λ·E[f]·w is w = max(0, s - λE[f]/(2E[f²])): small ones vanish."""
    penalty = 0.5
    code = torch.rand(400, 1, generator=torch.Generator().manual_seed(2))
    direction = torch.nn.functional.normalize(torch.ones(8), dim=0)
    values = torch.cat([code * direction, strength * code * direction], dim=1)
    config = CrosscoderConfig(
        d_models=(8, 8), model_names=("a", "b"), n_latents=1, sparsity=ReLU(target_l0=1)
    )
    crosscoder = Crosscoder(config)
    with torch.no_grad():
        crosscoder.W_dec.copy_(torch.cat([direction, direction])[None])
    optimizer = torch.optim.Adam([crosscoder.W_dec], lr=1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    for _ in range(800):
        optimizer.zero_grad()
        error = values - code @ crosscoder.W_dec
        forward = DensePass(crosscoder, values, error, crosscoder.score_norms(), (), code, code)
        loss_terms(forward, torch.tensor([False]), AUXILIARY, penalty).total().backward()
        optimizer.step()
        schedule.step()
    shrinkage = penalty * float(code.mean()) / (2 * float(code.square().mean()))
    norms = crosscoder.decoder_norms().detach()[0]
    assert float(norms[0]) == pytest.approx(1 - shrinkage, rel=0.01)
    assert float(norms[1]) == pytest.approx(max(0.0, strength - shrinkage), rel=0.01, abs=2e-3)
    assert (strength < shrinkage) == expected_zero
    assert shrinkage > 0.1


def test_rescaling_rows_and_latents_does_not_change_the_penalty() -> None:
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(3))
    codes = torch.rand(50, 5, generator=torch.Generator().manual_seed(4))
    factor = torch.tensor([0.01, 0.3, 1.0, 5.0, 80.0])
    for sparsity in (ReLU(target_l0=1), JumpReLU(target_l0=1)):
        before = codes_and_rows(sparsity, rows, codes, 8)
        assert codes_and_rows(sparsity, rows * factor[:, None], codes / factor, 8) == pytest.approx(
            before, rel=1e-4
        )
        assert codes_and_rows(sparsity, rows * factor[:, None], codes, 8) != pytest.approx(before, rel=1e-2)


def test_the_dead_term_raises_jumprelu_latents() -> None:
    """Σ_j ReLU(exp t_j - pre-latent_j)·Σ_m‖d_j^m‖: only latents below their threshold are raised."""
    crosscoder = small_crosscoder("jumprelu", "two")
    with torch.no_grad():
        crosscoder.b_enc[:12] -= 100
        crosscoder.b_enc[12:] += 100
    forward = forward_of(crosscoder)
    loss_terms(forward, NONE_DEAD, AUXILIARY, penalty=0.0)["dead"].backward()
    assert crosscoder.b_enc.grad is not None
    expected = -3e-6 * forward.norms.detach()
    torch.testing.assert_close(crosscoder.b_enc.grad[:12], expected[:12])
    assert torch.equal(crosscoder.b_enc.grad[12:], torch.zeros(12))


@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_sparsity_terms_keep_float32_under_autocast(kind: str) -> None:
    crosscoder = small_crosscoder(kind, "two")
    exact_forward = forward_of(crosscoder)
    exact = loss_terms(exact_forward, NONE_DEAD, AUXILIARY, penalty=0.7)
    with torch.autocast("cpu", torch.bfloat16):
        forward = forward_of(crosscoder)
        terms = loss_terms(forward, NONE_DEAD, AUXILIARY, penalty=0.7)
    assert all(term.dtype == torch.float32 for term in terms.values())
    assert not torch.equal(forward.pre_latents, exact_forward.pre_latents), "products did run in bfloat16"
    for name, term in terms.items():
        assert float(term.detach()) == pytest.approx(float(exact[name].detach()), rel=0.03)


# --- nested latents, and the error of the difference ------------------------------------------------------------------


@every_shape
def test_the_nested_term_sums_the_errors_of_the_prefixes(shape: str) -> None:
    crosscoder = small_crosscoder("batch_topk", shape)
    normalized = crosscoder.normalize(raw_activations(SHAPES[shape]))
    forward = dense_forward(crosscoder, normalized, None, nested=(6, 18))
    expected = torch.tensor(0.0)
    for size in (6, 18):
        latents = forward.latents.clone()
        latents[:, size:] = 0
        expected += squared_error(normalized - crosscoder.rebuild(latents), SHAPES[shape]).detach()
    terms = loss_terms(forward, NONE_DEAD, AUXILIARY, 0.0)
    torch.testing.assert_close(terms["nested"].detach(), expected)
    assert "nested" not in loss_terms(forward_of(crosscoder), NONE_DEAD, AUXILIARY, 0.0)


def test_the_error_of_the_difference_equals_its_formula() -> None:
    crosscoder = small_crosscoder("batch_topk", "two")
    forward = forward_of(crosscoder)
    terms = loss_terms(forward, NONE_DEAD, AUXILIARY, 0.0, difference_weight=3.0)
    reference, intervened = forward.error.detach().split([6, 6], dim=1)
    expected = 3 * ((intervened - reference) ** 2).sum(1).mean() / 6
    torch.testing.assert_close(terms["difference"].detach(), expected)
    assert "difference" not in loss_terms(forward, NONE_DEAD, AUXILIARY, 0.0)


def test_errors_that_both_models_share_cost_the_difference_nothing() -> None:
    error = torch.randn(20, 6)
    assert float(difference_error(torch.cat([error, error], dim=1), (6, 6))) == 0
    assert float(difference_error(torch.cat([error, -error], dim=1), (6, 6))) > 0


@pytest.mark.parametrize("n_models", [2, 3, 5])
def test_the_difference_weights_all_unshared_errors_equally(n_models: int) -> None:
    """2 Σ_m ‖e^m - ē‖² / d: for two models this is the error of their difference, and the order of models does not matter."""
    error = torch.randn(20, n_models * 6, dtype=torch.float64)
    parts = torch.stack(error.split(6, dim=1))
    apart = parts - parts.mean(dim=0)
    expected = 2 * apart.square().sum(dim=(0, 2)).mean() / 6
    assert float(difference_error(error, (6,) * n_models)) == pytest.approx(float(expected))
    turned = torch.cat(list(parts.flip(0)), dim=1)
    assert float(difference_error(turned, (6,) * n_models)) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("reads", "d_models", "asked", "expected"),
    [
        ("paired", (6, 6), None, 3.0),
        ("paired", (6, 6), 0.5, 0.5),
        ("paired", (6, 6), 0.0, 0.0),
        ("paired", (6, 8), None, 0.0),
        ("paired", (6, 6, 6), None, 3.0),
        ("paired", (6, 6, 8), None, 0.0),
        ("paired", (6, 8), 0.0, 0.0),
        ("pooled", (6, 6), None, 0.0),
        ("difference", (6, 6), None, 0.0),
    ],
)
def test_the_difference_has_a_weight_by_default_if_it_exists(
    tmp_path: Path, reads: str, d_models: tuple[int, ...], asked: float | None, expected: float
) -> None:
    config = run_config(tmp_path, reads=reads, difference_weight=asked)
    assert resolve_difference_weight(config, d_models) == expected


def test_a_weight_without_a_difference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found widths \(6, 8\); set it to 0"):
        resolve_difference_weight(run_config(tmp_path, difference_weight=1.0), (6, 8))
