"""The compiled path of a training step agrees with the dense one, and a run on it resumes bit-equal."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from crosscoder.config import AuxiliaryConfig, BatchTopK, RunConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.errors import ConfigError, ResourceError
from tests.dictionaries import KINDS, SHAPES, raw_activations, small_crosscoder
from tests.training.in_memory import DisturbedSource, make_trainer, planted_source, run_config
from tests.training.test_trainer import EARLY_DEATH, Failure, assert_same_outcome, fail
from tests.training.test_trainer import KINDS as KIND_SETTINGS
from training import trainer as trainer_module
from training.compiled_step import CompiledStep, kth_largest, require_compiler, static_forward
from training.forward import dense_forward
from training.losses import loss_terms, terms_with
from training.memory import training_memory
from training.trainer import Trainer

# torch warns of what it does itself while it traces and compiles.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]

DEAD = {
    "none": torch.zeros(24, dtype=torch.bool),
    "some": torch.arange(24) % 4 == 0,
    "all": torch.ones(24, dtype=torch.bool),
}
AUXILIARY = AuxiliaryConfig(coefficient=1.0, k=3)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are traced into graphs of fixed shapes as ever, and these run without a compiler, which takes a tenth of the time."""
    monkeypatch.setattr(trainer_module, "CompiledStep", partial(CompiledStep, backend="eager"))


@pytest.mark.parametrize("k", [1, 2, 17, 40, 96, 500])
@pytest.mark.parametrize("of_each_token", [False, True])
def test_the_smallest_kept_score_is_that_of_a_sort(k: int, of_each_token: bool) -> None:
    generator = torch.Generator().manual_seed(k)
    scores = torch.randn(12, 40, generator=generator).relu() * 10.0 ** torch.randint(
        -9, 9, (12, 40), generator=generator
    )
    scores[3:5] = scores[0]
    rows = scores if of_each_token else scores.view(1, -1)
    ordered = rows.sort(dim=1, descending=True).values
    expected = ordered[:, k - 1 : k] if k <= rows.shape[1] else torch.zeros(len(rows), 1)
    assert torch.equal(kth_largest(scores, torch.tensor(k), of_each_token=of_each_token), expected)


def dense_step(crosscoder: Crosscoder, values: Tensor, dead: Tensor, nested: tuple[int, ...]) -> Any:
    forward = dense_forward(crosscoder, values, 3.0, nested)
    return forward, dict(loss_terms(forward, dead, AUXILIARY, 0.2, 0.0))


def static_step(crosscoder: Crosscoder, values: Tensor, dead: Tensor, nested: tuple[int, ...]) -> Any:
    """With more padding than indices."""
    indices = dead.nonzero().squeeze(1)
    kept = 3 * len(values) if isinstance(crosscoder.config.sparsity, BatchTopK) else 3
    forward = static_forward(crosscoder, values, torch.tensor([kept, len(indices)]), nested)
    padded = torch.nn.functional.pad(indices, (0, 5)) if len(indices) else None
    return forward, terms_with(forward, padded, AUXILIARY, torch.tensor(0.2), 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("nested", [(), (5, 12)], ids=["whole", "nested"])
def test_fixed_shapes_give_the_values_and_gradients_of_the_dense_path(
    kind: str, shape: str, dead: str, nested: tuple[int, ...]
) -> None:
    crosscoder = small_crosscoder(kind, shape)
    values = crosscoder.normalize(raw_activations(SHAPES[shape]))

    def found(step: Any) -> dict[str, Tensor]:
        crosscoder.zero_grad()
        forward, terms = step(crosscoder, values, DEAD[dead], nested)
        torch.stack(list(terms.values())).sum().backward()
        fired, l0 = forward.fired()
        gradients = {name: weight.grad for name, weight in crosscoder.named_parameters()}
        seen = {
            "fired": fired,
            "l0": l0,
            "error": forward.error.detach(),
            "latents": forward.latents.detach(),
        }
        return {name: value for name, value in (terms | gradients | seen).items() if value is not None}

    expected, others = found(dense_step), found(static_step)
    assert expected.keys() == others.keys()
    assert ("auxk" in expected) == (dead != "none")
    for name, value in expected.items():
        torch.testing.assert_close(
            others[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_equal_training(folder: Path, settings: dict[str, Any], atol: float = 1e-6) -> Trainer:
    """Train on both paths; compare weights, moments, counters and the loss of each step."""
    dense, compiled = (
        make_trainer(run_config(folder / step, step=step, **settings)) for step in ("dense", "compiled")
    )
    assert dense.compiled is None
    assert compiled.compiled is not None
    batches = planted_source().batches(64)
    for _ in range(8):
        values, _ = next(batches)
        (expected, l0), (terms, other_l0) = dense.step(values), compiled.step(values)
        assert expected.keys() == terms.keys()
        for name, value in expected.items():
            torch.testing.assert_close(terms[name], value, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(other_l0, l0)
    assert torch.equal(dense.state.tokens_since_fired, compiled.state.tokens_since_fired)
    pairs = zip(
        dense.state.crosscoder.named_parameters(), compiled.state.crosscoder.parameters(), strict=True
    )
    for (name, one), other in pairs:
        torch.testing.assert_close(other, one, atol=atol, rtol=1e-4, msg=lambda t, name=name: f"{name}: {t}")
        assert other.stride() == one.stride()
        moments, others = dense.state.optimizer.state[one], compiled.state.optimizer.state[other]
        for key in ("exp_avg", "exp_avg_sq", "step"):
            torch.testing.assert_close(others[key], moments[key], atol=atol, rtol=1e-3)
    return compiled


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("kind", [pytest.param("topk", marks=pytest.mark.slow), "jumprelu"])
def test_training_equals_that_of_the_dense_path(tmp_path: Path, kind: str) -> None:
    assert_equal_training(tmp_path, {"sparsity": KIND_SETTINGS[kind], **EARLY_DEATH})


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_training_equals_that_of_the_dense_path(tmp_path: Path, kind: str) -> None:
    assert_equal_training(tmp_path, {"sparsity": KIND_SETTINGS[kind], **EARLY_DEATH})


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["nested", "constrained", "pooled", "bfloat16"])
def test_compiled_training_equals_that_of_the_dense_path_in_its_variants(
    tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "nested": {"nested": [0.25, 0.5]},
        "constrained": {"exclusive": 0.125, "tied": 0.25},
        "pooled": {"reads": "pooled"},
        "bfloat16": {},
    }
    original = run_config

    def changed(output: Path, **settings: Any) -> RunConfig:
        record = original(output, **settings).model_dump(mode="json")
        record["crosscoder"] |= changes[variant]
        if variant == "bfloat16":
            record["training"]["precision"] = "bfloat16"
        return RunConfig.model_validate(record)

    monkeypatch.setitem(globals(), "run_config", changed)
    # In bfloat16 the latents that fire near the threshold may differ.
    if variant == "bfloat16":
        trainer = make_trainer(changed(tmp_path, step="compiled", **EARLY_DEATH))
        first, *_, last = (float(trainer.step(values)[0].total()) for values in batches_of(12))
        assert last < first
        return
    assert_equal_training(tmp_path, EARLY_DEATH)


def batches_of(number: int) -> list[Tensor]:
    batches = planted_source().batches(64)
    return [next(batches)[0] for _ in range(number)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "at"), [("batch_topk", 6), ("topk", 9)])
def test_a_resumed_run_is_bit_equal(tmp_path: Path, kind: str, at: int) -> None:
    folder, settings = tmp_path, {"sparsity": KIND_SETTINGS[kind], "step": "compiled", **EARLY_DEATH}
    whole = make_trainer(run_config(folder / "whole", **settings), planted_source(300))
    whole.fit()
    config = run_config(folder / "broken", **settings)
    with pytest.raises(Failure):
        make_trainer(config, DisturbedSource(planted_source(300), at, fail)).fit()
    resumed = make_trainer(config, planted_source(300))
    resumed.fit()
    assert_same_outcome(whole, resumed)
    assert any("auxk" in name for name in whole.folder.metrics.read_text().split('"'))


@pytest.mark.usefixtures("traced")
def test_no_step_is_compiled_twice(tmp_path: Path) -> None:
    """k falls with every step, the learning rate changes, and so does the number of dead latents."""
    trainer = make_trainer(run_config(tmp_path, steps=12, step="compiled", k_anneal=1.0))
    counters.clear()
    for step, values in enumerate(batches_of(12)):
        # Of 128 latents, 0 to 11 are dead, which takes three sizes of padding: none, 4 and 32.
        trainer.state.tokens_since_fired.zero_()[:step] = 10**6
        trainer.step(values)
        expected = 2 if step == 0 else 3 if step < 5 else 4
        assert counters["stats"]["unique_graphs"] == expected, step
    assert not counters["graph_break"]


@pytest.mark.usefixtures("traced")
def test_each_dictionary_of_a_run_has_compilations_of_its_own(tmp_path: Path) -> None:
    """torch would give up after eight of one function."""
    counters.clear()
    for number in range(10):
        settings = {"sparsity": KIND_SETTINGS["relu"], "n_latents": 16 + 8 * number}
        trainer = make_trainer(run_config(tmp_path / str(number), step="compiled", **settings))
        trainer.step(batches_of(1)[0])
    assert counters["stats"]["unique_graphs"] == 20


def test_a_missing_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ResourceError, match="needs a compiler, and no-such-compiler was not found; install one"
    ):
        make_trainer(run_config(tmp_path, step="compiled"))
    assert make_trainer(run_config(tmp_path / "auto")).compiled is None


def test_other_devices_are_refused_in_one_line() -> None:
    with pytest.raises(ResourceError, match="for a CPU or a CUDA GPU, found 'mps'; use 'auto' or 'dense'"):
        require_compiler(torch.device("mps"))


def test_divided_latents_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        (ConfigError, ValueError), match=r"training\.step is 'compiled', but training\.latent_shards is 2"
    ):
        run_config(tmp_path, step="compiled", latent_shards=2)


def test_a_compiled_step_is_estimated_to_need_what_a_dense_one_does(tmp_path: Path) -> None:
    needed = {
        step: training_memory(
            run_config(tmp_path, step=step, n_latents=8192, batch=1024), (8, 8), 0, 1000, 1000
        )
        for step in ("dense", "compiled", "sparse")
    }
    assert needed["compiled"] == needed["dense"] != needed["sparse"]
