from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosscoder.config import TrainingConfig
from training.schedules import annealed_k, learning_rate, n_steps, updated_penalty

shares = st.floats(0, 1)
some_steps = st.integers(1, 400)


def training(steps: int, **settings: Any) -> TrainingConfig:
    return TrainingConfig(n_tokens=steps * 10, batch_tokens=10, **settings)


@pytest.mark.parametrize(("n_tokens", "steps"), [(1, 1), (10, 1), (11, 2), (20, 2), (999, 100)])
def test_every_configured_token_is_trained_on(n_tokens: int, steps: int) -> None:
    assert n_steps(TrainingConfig(n_tokens=n_tokens, batch_tokens=10)) == steps


@given(steps=some_steps, warmup=shares, decay=shares)
def test_learning_rate_rises_stays_and_falls_within_its_bounds(
    steps: int, warmup: float, decay: float
) -> None:
    config = training(steps, lr=0.5, warmup=warmup, decay=decay)
    rates = [learning_rate(step, config) for step in range(steps)]
    assert all(0 < rate <= 0.5 for rate in rates)
    top = rates.index(max(rates))
    assert all(a <= b for a, b in zip(rates[:top], rates[1 : top + 1], strict=True))
    after = rates[top:]
    assert all(a >= b for a, b in zip(after[:-1], after[1:], strict=True))


def test_learning_rate_of_a_run() -> None:
    config = training(100, lr=1.0, warmup=0.1, decay=0.2)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == [1.0] * 72
    assert rates[80:] == pytest.approx([(20 - index) / 20 for index in range(20)])
    assert rates[99] == pytest.approx(0.05), "the last step still learns"


def test_learning_rate_without_warmup_and_decay_is_flat() -> None:
    config = training(7, lr=0.3, warmup=0, decay=0)
    assert [learning_rate(step, config) for step in range(7)] == [0.3] * 7


@given(
    steps=some_steps, k=st.integers(1, 50), more=st.integers(0, 200), share=shares, multiple=st.floats(1, 10)
)
def test_k_falls_to_its_target_within_its_bounds(
    steps: int, k: int, more: int, share: float, multiple: float
) -> None:
    config, n_latents = training(steps, k_anneal=share, k_start_multiple=multiple), k + more
    ks = [annealed_k(step, k, n_latents, config) for step in range(steps)]
    assert all(k <= value <= min(multiple * k, n_latents) + 1e-9 for value in ks)
    assert all(a >= b for a, b in zip(ks[:-1], ks[1:], strict=True))
    over = share * steps
    assert all(value == k for step, value in enumerate(ks) if step >= over)
    assert ks[0] == (min(multiple * k, n_latents) if over > 0 else k)


def test_k_of_a_run() -> None:
    config = training(100, k_anneal=0.1, k_start_multiple=4)
    assert [annealed_k(step, 10, 1000, config) for step in (0, 5, 10, 99)] == [40, 25, 10, 10]
    assert annealed_k(0, 10, 25, config) == 25, "no more than there are latents"


@pytest.mark.parametrize(("l0", "direction"), [(20.0, 1), (200.0, 1), (10.0, 0), (5.0, -1), (0.0, -1)])
def test_the_penalty_moves_l0_toward_its_target(l0: float, direction: int) -> None:
    change = updated_penalty(2.0, l0, target=10.0) / 2.0
    assert (change > 1) - (change < 1) == direction
    assert 0.99 <= change <= 1.0101, "one step never moves it by more than about a hundredth"
