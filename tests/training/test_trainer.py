import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import load_crosscoder, save_crosscoder
from crosscoder.errors import DivergedError
from crosscoder.planted import SMALL, PlantedChain, PlantedPair
from crosscoder.runtime import device
from crosscoder.runtime.device import compute_dtype
from crosscoder.runtime.interrupts import treat_sigterm_as_interrupt
from tests.training.in_memory import (
    DisturbedSource,
    make_trainer,
    planted_source,
    run_config,
    source_of,
)
from training.checkpoints import checkpoints, load_checkpoint
from training.sources import TokenSource
from training.trainer import Trainer

KINDS: dict[str, dict[str, Any]] = {
    "batch_topk": {"kind": "batch_topk", "k": 4},
    "topk": {"kind": "topk", "k": 4},
    "relu": {"kind": "relu", "target_l0": 4},
    "jumprelu": {"kind": "jumprelu", "target_l0": 4},
}
# Latents count as dead after one step, so that AuxK is active in a short run.
EARLY_DEATH = {"auxiliary": {"dead_after_tokens": 63, "k": 8}, "k_anneal": 0.0}


class Failure(Exception):
    pass


def fail(values: Tensor) -> Tensor:
    raise Failure


def press_ctrl_c(values: Tensor) -> Tensor:
    signal.raise_signal(signal.SIGINT)
    return values


def send_sigterm(values: Tensor) -> Tensor:
    signal.raise_signal(signal.SIGTERM)
    return values


def poison(values: Tensor) -> Tensor:
    return torch.full_like(values, float("nan"))


def outcome(trainer: Trainer) -> dict[str, Any]:
    """Everything that a run leaves behind: weights, optimizer, counters, and the lines of its log."""
    state = trainer.state
    tensors = {f"weights/{name}": value for name, value in state.crosscoder.state_dict().items()}
    for name, parameter in state.crosscoder.named_parameters():
        tensors |= {f"{key}/{name}": value for key, value in state.optimizer.state[parameter].items()}
    tensors["fired"] = state.tokens_since_fired
    lines = [json.loads(line) for line in trainer.folder.metrics.read_text().splitlines()]
    numbers = (state.step, state.n_tokens, state.penalty, state.source)
    return {"tensors": tensors, "lines": lines, "numbers": numbers}


def assert_same_outcome(first: Trainer, second: Trainer) -> None:
    a, b = outcome(first), outcome(second)
    assert a["numbers"] == b["numbers"]
    assert a["lines"] == b["lines"]
    assert a["tensors"].keys() == b["tensors"].keys()
    for name, value in a["tensors"].items():
        assert torch.equal(value, b["tensors"][name]), name


def fit(config: Any, source: Any = None) -> Trainer:
    trainer = make_trainer(config, source)
    trainer.fit()
    return trainer


# --- exactness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_of_one_seed_are_bit_equal(tmp_path: Path, kind: str) -> None:
    first, second = (
        fit(run_config(tmp_path / name, sparsity=KINDS[kind], **EARLY_DEATH)) for name in ("a", "b")
    )
    assert_same_outcome(first, second)
    assert any("losses/auxk_loss" in line for line in outcome(first)["lines"]) == ("topk" in kind)


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    """The control of the test above."""
    first, second = (fit(run_config(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    with pytest.raises(AssertionError):
        assert_same_outcome(first, second)


@pytest.mark.parametrize(
    ("kind", "step"),
    [("batch_topk", "dense"), ("batch_topk", "sparse"), ("topk", "sparse"), ("jumprelu", "dense")],
)
@pytest.mark.parametrize("at", [0, 3, 4, 6, 9, 11])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(
    tmp_path: Path, kind: str, step: str, at: int
) -> None:
    """Batches span the end of a pass, and AuxK and the penalty controller are active."""
    settings = {"sparsity": KINDS[kind], "step": step, **EARLY_DEATH}
    whole = fit(run_config(tmp_path / "whole", **settings), planted_source(300))
    config = run_config(tmp_path / "broken", **settings)
    with pytest.raises(Failure):
        fit(config, DisturbedSource(planted_source(300), at, fail))
    assert [path.name for path in checkpoints(tmp_path / "broken" / "checkpoints")] == [
        f"step_{step:08d}" for step in (4, 8) if step <= at
    ]
    torch.rand(7)
    assert_same_outcome(whole, fit(config, planted_source(300)))


def chain_source(n_tokens: int = 300) -> TokenSource:
    """A reference, an intervened model and three snapshots between them."""
    chain = PlantedChain.spread(PlantedPair(), 4)
    return source_of(chain.sample(n_tokens, seed=1), chain.sample(1500, seed=2), chain.d_models)


@pytest.mark.parametrize("at", [3, 6])
def test_a_resumed_run_over_snapshots_is_bit_equal(tmp_path: Path, at: int) -> None:
    whole = fit(run_config(tmp_path / "whole"), chain_source())
    assert whole.difference_weight == 3
    config = run_config(tmp_path / "broken")
    with pytest.raises(Failure):
        fit(config, DisturbedSource(chain_source(), at, fail))
    assert_same_outcome(whole, fit(config, chain_source()))


def test_a_run_interrupted_many_times_is_bit_equal(tmp_path: Path) -> None:
    whole = fit(run_config(tmp_path / "whole", checkpoint_every=1, evaluate_every=1))
    config = run_config(tmp_path / "broken", checkpoint_every=1, evaluate_every=1)
    for _ in range(5):
        with pytest.raises(Failure):
            fit(config, DisturbedSource(planted_source(), 2, fail))
    assert_same_outcome(whole, fit(config))


def test_a_half_written_line_of_metrics_is_replaced(tmp_path: Path) -> None:
    whole = fit(run_config(tmp_path / "whole"))
    config = run_config(tmp_path / "broken")
    with pytest.raises(Failure):
        fit(config, DisturbedSource(planted_source(), 6, fail))
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "tok')
    assert_same_outcome(whole, fit(config))


def test_a_finished_run_does_not_change(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    first = fit(config)
    assert_same_outcome(first, fit(config))


def test_a_run_resumes_in_its_original_precision(tmp_path: Path) -> None:
    """`auto` may resolve differently on the machine that resumes."""
    config = run_config(tmp_path, precision="bfloat16")
    with pytest.raises(Failure):
        fit(config, DisturbedSource(planted_source(), 5, fail))
    trainer = make_trainer(config)
    trainer.forward.dtype, trainer.state.precision = torch.float32, "float32"
    trainer.fit()
    assert trainer.forward.dtype == torch.bfloat16
    assert_same_outcome(trainer, fit(run_config(tmp_path / "whole", precision="bfloat16")))


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    treat_sigterm_as_interrupt()
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("sigterm")
@pytest.mark.parametrize(
    ("at", "stop"), [(0, press_ctrl_c), (5, press_ctrl_c), (7, send_sigterm), (11, press_ctrl_c)]
)
def test_ctrl_c_saves_the_step_and_the_resumed_run_is_bit_equal(
    tmp_path: Path, at: int, stop: Callable[[Tensor], Tensor]
) -> None:
    whole = fit(run_config(tmp_path / "whole"))
    config = run_config(tmp_path / "broken")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(config, DisturbedSource(planted_source(), at, stop))
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoints(tmp_path / "broken" / "checkpoints")[-1].name == f"step_{at + 1:08d}"
    assert_same_outcome(whole, fit(config))


def test_a_second_ctrl_c_stops_immediately(tmp_path: Path) -> None:
    def press_twice(values: Tensor) -> Tensor:
        press_ctrl_c(values)
        return press_ctrl_c(values)

    with pytest.raises(KeyboardInterrupt):
        fit(run_config(tmp_path), DisturbedSource(planted_source(), 5, press_twice))
    assert checkpoints(tmp_path / "checkpoints")[-1].name == "step_00000004"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_works_where_signals_cannot_be_handled(tmp_path: Path) -> None:
    """Python handles signals in the main thread only."""
    found: list[Trainer] = []
    thread = threading.Thread(target=lambda: found.append(fit(run_config(tmp_path / "thread"))))
    thread.start()
    thread.join()
    assert_same_outcome(found[0], fit(run_config(tmp_path / "main")))


# --- divergence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_every", [1, 100])
def test_nan_input_stops_the_run_and_names_a_checkpoint_that_still_loads(
    tmp_path: Path, log_every: int
) -> None:
    config = run_config(tmp_path, log_every=log_every, evaluate_every=100)
    with pytest.raises(
        DivergedError, match=r"training\.lr: .* no longer finite .*step_00000004; train with"
    ) as caught:
        fit(config, DisturbedSource(planted_source(), 5, poison))
    assert "\n" not in str(caught.value)
    last = checkpoints(tmp_path / "checkpoints")[-1]
    assert str(last) in str(caught.value)
    state = make_trainer(config).state
    load_checkpoint(last, state)
    assert state.step == 4
    assert all(parameter.isfinite().all() for parameter in state.crosscoder.parameters())


def test_nan_before_the_first_checkpoint_reports_that_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="no checkpoint was saved before that"):
        fit(run_config(tmp_path), DisturbedSource(planted_source(), 1, poison))
    assert not checkpoints(tmp_path / "checkpoints")


def test_ctrl_c_after_nan_does_not_save_broken_weights(tmp_path: Path) -> None:
    def poison_and_press(values: Tensor) -> Tensor:
        return poison(press_ctrl_c(values))

    config = run_config(tmp_path, log_every=100, evaluate_every=100)
    with pytest.raises(DivergedError):
        fit(config, DisturbedSource(planted_source(), 5, poison_and_press))
    assert checkpoints(tmp_path / "checkpoints")[-1].name == "step_00000004"


def test_weights_that_overflow_in_the_update_before_a_checkpoint_are_not_saved(tmp_path: Path) -> None:
    """The loss of that step is still finite, because it is computed before the update."""

    def overflow(*_: Any) -> None:
        if trainer.state.step == 5:
            trainer.state.crosscoder.W_dec.data[3, 4] = float("inf")

    trainer = make_trainer(run_config(tmp_path, checkpoint_every=1))
    trainer.state.optimizer.register_step_post_hook(overflow)
    with pytest.raises(DivergedError, match=r"weights are no longer finite at step 6 .*step_00000005; train"):
        trainer.fit()
    assert checkpoints(tmp_path / "checkpoints")[-1].name == "step_00000005"


# --- what a run leaves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint_every", [5, 7, 1000])
def test_the_final_weights_are_saved_for_any_interval(tmp_path: Path, checkpoint_every: int) -> None:
    """A peer saves only multiples of the interval and loses the end of training."""
    trainer = fit(run_config(tmp_path, checkpoint_every=checkpoint_every))
    last = checkpoints(tmp_path / "checkpoints")[-1]
    assert last.name == "step_00000012"
    state = make_trainer(run_config(tmp_path, checkpoint_every=checkpoint_every)).state
    load_checkpoint(last, state)
    assert torch.equal(state.crosscoder.W_dec, trainer.state.crosscoder.W_dec)


def test_the_dictionary_is_usable_after_training(tmp_path: Path) -> None:
    crosscoder = make_trainer(run_config(tmp_path / "run")).fit()
    save_crosscoder(crosscoder, tmp_path / "saved")
    values = PlantedPair().sample(50, seed=5)
    assert not crosscoder.training
    assert torch.equal(load_crosscoder(tmp_path / "saved").encode(values), crosscoder.encode(values))


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_have_the_promised_keys(tmp_path: Path, kind: str) -> None:
    trainer = fit(run_config(tmp_path, sparsity=KINDS[kind], **EARLY_DEATH))
    lines = outcome(trainer)["lines"]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["tokens"] for line in lines] == list(range(64, 769, 64))
    always = {
        "step", "tokens", "losses/overall_loss", "losses/mse_loss", "losses/difference_loss", "metrics/l0", "sparsity/dead_features",
        "sparsity/dead_share", "details/current_learning_rate", "details/n_training_samples",
        "details/penalty_coefficient",
    }  # fmt: skip
    evaluated = {
        "metrics/explained_variance/reference", "metrics/explained_variance/intervened", "diff/explained_variance",
        "metrics/held_out_l0", "sparsity/held_out_dead_share",
    }  # fmt: skip
    for line in lines:
        expected = always | (evaluated if line["step"] % 4 == 0 else set())
        assert expected <= line.keys()
        assert line.keys() - expected <= {
            "diff/relative_norm_counts",
            "losses/auxk_loss",
            "losses/sparsity_loss",
            "losses/dead_loss",
        }
        counts = line.pop("diff/relative_norm_counts", [])
        assert sum(counts) == (128 if line["step"] % 4 == 0 else 0)
        assert all(isinstance(value, int | float) for value in line.values())
        parts = [
            value for name, value in line.items() if name.startswith("losses/") and "overall" not in name
        ]
        assert line["losses/overall_loss"] == pytest.approx(sum(parts), rel=1e-5)
    assert any("losses/auxk_loss" in line for line in lines) == ("topk" in kind)


def test_the_intervals_are_independent(tmp_path: Path) -> None:
    trainer = fit(run_config(tmp_path, log_every=5, evaluate_every=3, checkpoint_every=7))
    lines = outcome(trainer)["lines"]
    assert [line["step"] for line in lines] == [3, 5, 6, 7, 9, 10, 12]
    looked = [line["step"] for line in lines if "diff/explained_variance" in line]
    assert looked == [3, 6, 9, 12]


def test_identical_models_have_no_difference_to_explain(tmp_path: Path) -> None:
    values = PlantedPair().sample(600)[:, :48].repeat(1, 2)
    trainer = fit(run_config(tmp_path), source_of(values[:500], values[500:], (48, 48)))
    last = outcome(trainer)["lines"][-1]
    assert last["diff/explained_variance"] is None
    assert last["metrics/explained_variance/reference"] is not None


# --- what it learns ---------------------------------------------------------------------------------------------------


def fve(trainer: Trainer) -> dict[str, float]:
    measured = trainer.held_out.measure(trainer.state.crosscoder)
    return {name: value for name, value in measured.items() if value is not None}


def learn(
    tmp_path: Path, steps: int = 150, source: Any = None, name: str = "run", **settings: Any
) -> Trainer:
    config = run_config(
        tmp_path / name, steps=steps, batch=256, log_every=1000, evaluate_every=1000, checkpoint_every=1000,
        **({"n_latents": 64, "lr": 5e-3} | settings),
    )  # fmt: skip
    return fit(config, planted_source(6000, counts=SMALL) if source is None else source)


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("k", [3, 8])
def test_a_short_run_has_the_right_l0_at_inference(tmp_path: Path, steps: int, k: int) -> None:
    """A peer sets its threshold from step 1000 on: with k = 8, a run of 500 steps has L0 57."""
    trainer = learn(tmp_path, steps, sparsity={"kind": "batch_topk", "k": k}, calibration_tokens=6000)
    fresh = PlantedPair(counts=SMALL).sample(6000, seed=77)
    l0 = float((trainer.state.crosscoder.encode(fresh) > 0).sum()) / 6000
    assert l0 == pytest.approx(k, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_a_planted_pair(tmp_path: Path, kind: str) -> None:
    sparsity = KINDS[kind] | ({"k": 2} if "topk" in kind else {"target_l0": 2})
    values = fve(learn(tmp_path, sparsity=sparsity))
    start = fve(learn(tmp_path, steps=1, name="start", sparsity=sparsity))
    for name in ("metrics/explained_variance/reference", "metrics/explained_variance/intervened"):
        assert values[name] > 0.7, name
        assert start[name] < 0.5, name
    assert values["diff/explained_variance"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("target", [4, 8])
def test_the_penalty_controller_reaches_its_target(tmp_path: Path, target: int) -> None:
    trainer = learn(
        tmp_path,
        steps=700,
        lr=3e-3,
        n_latents=128,
        source=planted_source(20_000),
        sparsity={"kind": "relu", "target_l0": target},
    )
    assert fve(trainer)["metrics/held_out_l0"] == pytest.approx(target, rel=0.1)
    assert trainer.state.penalty > 3, "far from the 0.5 it began with, at which L0 stays above 20"


@pytest.mark.parametrize(
    ("kind", "k_anneal", "direction"), [("jumprelu", 1.0, -1), ("jumprelu", 0.0, 1), ("relu", 1.0, 1)]
)
def test_the_target_of_jumprelu_falls_as_k_does(
    tmp_path: Path, kind: str, k_anneal: float, direction: int
) -> None:
    """About half of 64 latents fire at first: above a target of 16, and below four times that."""
    sparsity = {"kind": kind, "target_l0": 16, "coefficient": 1.0}
    trainer = learn(tmp_path, steps=2, n_latents=64, sparsity=sparsity, k_anneal=k_anneal)
    assert (trainer.state.penalty > 1) - (trainer.state.penalty < 1) == direction


def test_bfloat16_products_learn_nearly_what_float32_learns(tmp_path: Path) -> None:
    exact, rounded = (
        learn(tmp_path, name=precision, precision=precision) for precision in ("float32", "bfloat16")
    )
    assert (exact.forward.dtype, rounded.forward.dtype) == (torch.float32, torch.bfloat16)
    assert not torch.equal(exact.state.crosscoder.W_dec, rounded.state.crosscoder.W_dec)
    assert all(parameter.dtype == torch.float32 for parameter in rounded.state.crosscoder.parameters())
    for name, value in fve(exact).items():
        if "explained_variance" in name:
            assert fve(rounded)[name] == pytest.approx(value, abs=0.02), name
            assert value > 0.5, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batch_topk", "topk"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_sparse_step_learns_what_the_dense_one_learns(tmp_path: Path, kind: str, precision: str) -> None:
    """With the same tokens and seed, firing differs at most where rounding decides."""
    settings = {"sparsity": {"kind": kind, "k": 2}, "precision": precision}
    dense, sparse = (learn(tmp_path, name=step, step=step, **settings) for step in ("dense", "sparse"))
    assert not torch.equal(dense.state.crosscoder.W_dec, sparse.state.crosscoder.W_dec)
    for name, value in fve(dense).items():
        if "explained_variance" in name:
            assert fve(sparse)[name] == pytest.approx(value, abs=0.01 if precision == "float32" else 0.02), (
                name
            )
            assert value > 0.5, name


@pytest.mark.parametrize(
    ("reads", "names"), [("pooled", {"reference", "intervened"}), ("difference", {"difference"})]
)
def test_pooled_and_difference_train_too(tmp_path: Path, reads: str, names: set[str]) -> None:
    trainer = learn(tmp_path, reads=reads, sparsity={"kind": "batch_topk", "k": 2})
    assert trainer.state.crosscoder.config.d_models == (48,)
    values = fve(trainer)
    measured = {
        name.removeprefix("metrics/explained_variance/") for name in values if "metrics/explained" in name
    }
    assert measured == names
    assert all(value > 0.6 for name, value in values.items() if "explained_variance" in name)
    assert values["metrics/held_out_l0"] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("d_models", [(16,), (10, 24), (16, 16, 16)])
def test_any_number_of_models_of_any_width_trains(tmp_path: Path, d_models: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(2500, 8, generator=generator) * (torch.rand(2500, 8, generator=generator) < 0.2)
    values = codes @ torch.randn(8, sum(d_models), generator=generator)
    trainer = learn(
        tmp_path,
        source=source_of(values[:2000], values[2000:], d_models),
        n_latents=24,
        sparsity=KINDS["topk"],
    )
    explained = {name: value for name, value in fve(trainer).items() if "explained_variance" in name}
    assert len([name for name in explained if name.startswith("metrics/")]) == len(d_models)
    assert all(value > 0.8 for value in explained.values()), explained


def test_auxk_revives_latents(tmp_path: Path) -> None:
    """A peer computes the auxiliary loss, logs it, and does not train it."""

    def dead_share(coefficient: float) -> float:
        config = run_config(
            tmp_path / str(coefficient),
            steps=40,
            lr=5e-3,
            sparsity={"kind": "batch_topk", "k": 2},
            k_anneal=0.0,
            difference_weight=0.0,
            auxiliary={"coefficient": coefficient, "dead_after_tokens": 255, "k": 32},
        )
        trainer = make_trainer(config, planted_source(6000))
        # Half of the latents begin so weak that they are never selected.
        with torch.no_grad():
            trainer.state.crosscoder.W_enc[:, :64] *= 0.01
            trainer.state.crosscoder.W_dec[:64] *= 0.01
        trainer.fit()
        return fve(trainer)["sparsity/held_out_dead_share"]

    without = dead_share(0.0)
    assert without > 0.4
    assert dead_share(1.0) < 0.7 * without


def test_every_parameter_moves_in_one_step(tmp_path: Path) -> None:
    for kind, sparsity in KINDS.items():
        trainer = make_trainer(run_config(tmp_path / kind, steps=1, sparsity=sparsity, n_latents=24))
        before: Crosscoder = trainer.state.crosscoder
        start = {name: parameter.detach().clone() for name, parameter in before.named_parameters()}
        trainer.fit()
        for name, parameter in trainer.state.crosscoder.named_parameters():
            assert not torch.equal(parameter, start[name]), (kind, name)


# --- precision --------------------------------------------------------------------------------------------------------


def test_precision_is_as_configured() -> None:
    cpu = torch.device("cpu")
    assert compute_dtype("float32", cpu) == torch.float32
    assert compute_dtype("bfloat16", cpu) == torch.bfloat16
    assert compute_dtype("auto", cpu) == compute_dtype("auto", cpu)


@pytest.mark.parametrize(
    ("capabilities", "intel", "expected"),
    [
        ({"avx2": True}, False, torch.float32),
        ({"amx_bf16": True, "avx512_bf16": True}, True, torch.bfloat16),
        ({"avx512_bf16": True}, False, torch.bfloat16),
        ({"avx512_bf16": True}, True, torch.float32),
    ],
)
def test_auto_precision_follows_from_the_hardware(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], intel: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(device, "_made_by_intel", lambda: intel)
    assert compute_dtype("auto", torch.device("cpu")) == expected
