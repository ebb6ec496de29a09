import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoder.config import BatchTopK, CrosscoderConfig, JumpReLU, TopK
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.sparsity import (
    BatchTopKSparsity,
    JumpReLUSparsity,
    TopKSparsity,
    build_sparsity,
    mask_largest,
    threshold_for,
)
from crosscoder.errors import FormatError
from tests.dictionaries import KINDS


def random_pre_latents(n_tokens: int = 32, n_latents: int = 48, seed: int = 0) -> torch.Tensor:
    return torch.randn(n_tokens, n_latents, generator=torch.Generator().manual_seed(seed))


# --- which entries are kept -------------------------------------------------------------------------------------------


def assert_is_top(scores: torch.Tensor, mask: torch.Tensor, keep: int) -> None:
    """Check by brute force that `keep` entries are kept, and that no dropped entry exceeds a kept one."""
    assert int(mask.sum()) == min(keep, scores.numel())
    expected = scores.flatten().sort(descending=True).values[: int(mask.sum())]
    assert torch.equal(scores[mask].sort(descending=True).values, expected)


@settings(max_examples=150, deadline=None)
@given(
    n_tokens=st.integers(1, 9),
    n_latents=st.integers(1, 60),
    share=st.floats(0, 1.3),
    n_values=st.sampled_from([1, 2, 5, 10_000]),
    slope=st.sampled_from([0, 3, 20]),
    seed=st.integers(0, 1000),
)
def test_largest_is_brute_force_topk(
    n_tokens: int, n_latents: int, share: float, n_values: int, slope: int, seed: int
) -> None:
    """Ties (few distinct values), few latents, tokens that take more than their share, and a `keep` above the number of entries."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, n_values, (n_tokens, n_latents), generator=generator).float()
    scores += slope * torch.arange(n_tokens)[:, None]
    keep = round(share * scores.numel())
    assert_is_top(scores, mask_largest(scores, keep), keep)


def test_largest_is_exact_where_one_token_takes_everything() -> None:
    scores = random_pre_latents(64, 300).abs()
    scores[5] += 100
    keep = 2 * 64
    mask = mask_largest(scores, keep)
    assert_is_top(scores, mask, keep)
    # More than the 4·2 + 16 candidates per token, so the candidates alone would give a wrong result.
    assert int(mask[5].sum()) == 128 > 4 * 2 + 16


def test_brute_force_comparison_notices_a_wrong_selection() -> None:
    scores = random_pre_latents(4, 10)
    mask = mask_largest(scores, 7)
    wrong = mask.clone()
    wrong.view(-1)[scores.argmax()] = False
    wrong.view(-1)[scores.argmin()] = True
    with pytest.raises(AssertionError):
        assert_is_top(scores, wrong, 7)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_batch_topk_keeps_exactly_n_times_k(k: int) -> None:
    latents = BatchTopKSparsity(BatchTopK(k=k))(random_pre_latents(), torch.ones(48))
    assert int((latents > 0).sum()) == 32 * k
    per_token = (latents > 0).sum(dim=1)
    assert per_token.min() < k < per_token.max(), "tokens compete, so they do not all keep k"


def test_batch_topk_keeps_fewer_only_where_relu_leaves_fewer() -> None:
    pre_latents = random_pre_latents() - 2
    n_positive = int((pre_latents > 0).sum())
    latents = BatchTopKSparsity(BatchTopK(k=10))(pre_latents, torch.ones(48))
    assert n_positive < 320
    assert torch.equal(latents, pre_latents.relu())


def test_batch_topk_takes_the_k_of_the_step() -> None:
    sparsity = BatchTopKSparsity(BatchTopK(k=2))
    assert int((sparsity(random_pre_latents(), torch.ones(48), 5.5) > 0).sum()) == round(32 * 5.5)


def test_batch_topk_chooses_by_contribution_and_not_by_size() -> None:
    pre_latents = random_pre_latents().abs()
    norms = torch.linspace(0.01, 3, 48)
    latents = BatchTopKSparsity(BatchTopK(k=5))(pre_latents, norms)
    assert_is_top(pre_latents * norms, latents > 0, 160)
    assert torch.equal(latents[latents > 0], pre_latents[latents > 0]), "what is kept is kept unscaled"
    with pytest.raises(AssertionError):
        assert_is_top(pre_latents, latents > 0, 160)


def test_topk_keeps_k_of_every_token_by_contribution() -> None:
    pre_latents = random_pre_latents().abs()
    norms = torch.linspace(0.01, 3, 48)
    latents = TopKSparsity(TopK(k=5))(pre_latents, norms)
    for scores, kept in zip(pre_latents * norms, latents > 0, strict=True):
        assert_is_top(scores[None], kept[None], 5)


def test_topk_never_keeps_negatives() -> None:
    pre_latents = -random_pre_latents().abs()
    pre_latents[:, :2] *= -1
    latents = TopKSparsity(TopK(k=5))(pre_latents, torch.ones(48))
    assert latents.min() == 0
    assert torch.equal((latents > 0).sum(dim=1), torch.full((32,), 2))


def test_topk_allows_an_annealed_k_above_the_number_of_latents() -> None:
    pre_latents = random_pre_latents()
    assert torch.equal(TopKSparsity(TopK(k=5))(pre_latents, torch.ones(48), 100.0), pre_latents.relu())


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_what_is_kept_and_nothing_else(kind: str) -> None:
    sparsity = build_sparsity(KINDS[kind], 48)
    pre_latents = random_pre_latents().requires_grad_()
    norms = torch.rand(48, generator=torch.Generator().manual_seed(1)).requires_grad_()
    latents = sparsity(pre_latents, norms)
    latents.sum().backward()
    assert pre_latents.grad is not None
    assert torch.equal(pre_latents.grad, (latents > 0).float())
    assert 0 < int((latents > 0).sum()) < latents.numel()
    assert norms.grad is None, "the competition is not differentiated"


# --- inference --------------------------------------------------------------------------------------------------------


def test_batch_topk_refuses_to_encode_before_calibration() -> None:
    sparsity = BatchTopKSparsity(BatchTopK(k=2))
    with pytest.raises(FormatError, match=r"sparsity\.threshold: never calibrated"):
        sparsity.infer(random_pre_latents(), torch.ones(48))
    sparsity.threshold.fill_(0.5)
    assert sparsity.infer(random_pre_latents(), torch.ones(48)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_code_of_a_token_does_not_depend_on_its_neighbors_at_inference(kind: str) -> None:
    sparsity = build_sparsity(KINDS[kind], 48)
    if isinstance(sparsity, BatchTopKSparsity):
        sparsity.threshold.fill_(1.0)
    pre_latents, norms = random_pre_latents(), torch.linspace(0.5, 2, 48)
    together = sparsity.infer(pre_latents, norms)
    alone = torch.cat([sparsity.infer(row[None], norms) for row in pre_latents])
    loud = sparsity.infer(torch.cat([pre_latents, 100 * pre_latents.abs()]), norms)[:32]
    assert torch.equal(together, alone)
    assert torch.equal(together, loud)


def test_code_of_a_token_depends_on_its_neighbors_while_batch_topk_trains() -> None:
    """The control of the test above: under the training rule, the same comparison fails."""
    sparsity = BatchTopKSparsity(BatchTopK(k=3))
    pre_latents, norms = random_pre_latents(), torch.ones(48)
    loud = sparsity(torch.cat([pre_latents, 100 * pre_latents.abs()]), norms)[:32]
    assert not torch.equal(sparsity(pre_latents, norms), loud)


@settings(max_examples=60, deadline=None)
@given(n_scores=st.integers(1, 200), keep=st.integers(1, 250), seed=st.integers(0, 1000))
def test_threshold_leaves_exactly_as_many_above(n_scores: int, keep: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randperm(n_scores, generator=generator) * 0.01 + 1.0
    assert int((scores > threshold_for(scores, keep)).sum()) == min(keep, n_scores)


def test_threshold_is_zero_where_relu_leaves_fewer() -> None:
    assert threshold_for(torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0]), 2) == 0.0


def test_threshold_stands_clear_of_the_scores_on_both_sides() -> None:
    assert threshold_for(torch.tensor([1.0, 2.0, 4.0, 8.0]), 2) == 3.0


# --- JumpReLU ---------------------------------------------------------------------------------------------------------


def test_jumprelu_passes_what_is_above_its_threshold_unchanged() -> None:
    sparsity = JumpReLUSparsity(JumpReLU(target_l0=1, initial_threshold=0.5), 4)
    pre_latents = torch.tensor([[-1.0, 0.2, 0.4999, 0.5001], [3.0, 0.0, 0.51, -0.6]])
    expected = torch.tensor([[0.0, 0.0, 0.0, 0.5001], [3.0, 0.0, 0.51, 0.0]])
    assert torch.equal(sparsity(pre_latents, torch.ones(4)), expected)


@pytest.mark.parametrize("bandwidth", [0.1, 0.5, 2.0])
def test_jumprelu_gradient_is_the_published_formula(bandwidth: float) -> None:
    """With t the stored log-threshold: dJ/dt = -(exp t/bandwidth)·rect((x - exp t)/bandwidth)."""
    config = JumpReLU(target_l0=1, initial_threshold=0.4, bandwidth=bandwidth)
    sparsity = JumpReLUSparsity(config, 48)
    pre_latents = random_pre_latents(200).requires_grad_()
    weight = random_pre_latents(200, seed=1)
    (weight * sparsity(pre_latents, torch.ones(48))).sum().backward()
    expected, n_inside = torch.zeros(48), 0
    for token in range(200):
        for latent in range(48):
            distance = abs(float(pre_latents[token, latent].detach()) - 0.4)
            if distance < bandwidth / 2:
                n_inside += 1
                expected[latent] -= 0.4 / bandwidth * float(weight[token, latent])
    assert 0 < n_inside < 200 * 48, "the window takes some entries and leaves some"
    assert sparsity.log_threshold.grad is not None
    torch.testing.assert_close(sparsity.log_threshold.grad, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pre_latents.grad, weight * (pre_latents > 0.4))


def test_jumprelu_gradient_points_where_the_expectation_falls() -> None:
    """For uniform x, d/dt E[J] = -(exp t)²·density; the published estimator is this divided by exp t, which is positive."""
    threshold, density = 0.4, 1 / 4
    values = torch.linspace(-2, 2, 400_001, dtype=torch.float64)[:, None]

    def expectation(log_threshold: float) -> float:
        return float((values * (values > math.exp(log_threshold))).mean())

    step = 1e-2
    t = math.log(threshold)
    slope = (expectation(t + step) - expectation(t - step)) / (2 * step)
    assert slope == pytest.approx(-(threshold**2) * density, rel=5e-3)

    sparsity = JumpReLUSparsity(JumpReLU(target_l0=1, initial_threshold=threshold, bandwidth=0.5), 1).double()
    sparsity(values, torch.ones(1)).mean().backward()
    assert sparsity.log_threshold.grad is not None
    assert float(sparsity.log_threshold.grad) * threshold == pytest.approx(slope, rel=1e-2)


def test_jumprelu_threshold_learns_to_separate_noise_from_signal() -> None:
    """Weak noise costs penalty and error, so the threshold rises above the noise and stays below the signal."""
    config = JumpReLU(target_l0=1, initial_threshold=0.1, bandwidth=0.5)
    sparsity = JumpReLUSparsity(config, 1)
    generator = torch.Generator().manual_seed(0)
    signal = (torch.rand(2000, 1, generator=generator) < 0.2).float()
    pre_latents = 2 * signal + 0.15 * torch.randn(2000, 1, generator=generator)
    optimizer = torch.optim.Adam(sparsity.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        (sparsity(pre_latents, torch.ones(1)) - 2 * signal).square().mean().backward()
        optimizer.step()
    fires = sparsity(pre_latents, torch.ones(1)) > 0
    assert (fires == signal.bool()).float().mean() > 0.99
    assert ((pre_latents > 0.1) == signal.bool()).float().mean() < 0.9, "the start did not separate them"


def test_kinds_store_what_inference_needs() -> None:
    """State that must be stored with the weights."""
    stored = {kind: set(build_sparsity(config, 5).state_dict()) for kind, config in KINDS.items()}
    assert stored == {
        "batch_topk": {"threshold"},
        "topk": set(),
        "relu": set(),
        "jumprelu": {"log_threshold"},
    }


def test_k_above_the_number_of_latents_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sparsity\.k is 9, larger than n_latents 8"):
        CrosscoderConfig(d_models=(4,), model_names=("a",), n_latents=8, sparsity=BatchTopK(k=9))
    assert Crosscoder(
        CrosscoderConfig(d_models=(4,), model_names=("a",), n_latents=8, sparsity=BatchTopK(k=8))
    )
