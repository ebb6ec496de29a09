import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.profiler_util import FunctionEvent

from crosscoder.config.load import with_overrides
from crosscoder.errors import ConfigError
from crosscoder.runtime.timing import Comparison, Timing
from training.bench.growth import (
    AXES,
    break_even,
    log_slope,
    measure_growth,
    plot_growth,
    slope_figures,
)
from training.bench.planted_activations import PlantedActivations
from training.bench.profile import PRODUCT as PROFILED_PRODUCT
from training.bench.profile import REST, STEP, profile_step, stage_seconds
from training.bench.rank_scaling import rank_benchmark
from training.bench.settings import BENCHMARKS, BenchConfig, chosen_benchmarks
from training.bench.shards import SHUFFLED, reading_share, shards_benchmark
from training.bench.step import (
    PRODUCT,
    EncoderProduct,
    compare_steps,
    planted_reading,
    precisions,
    warmed_up_step,
)
from training.rank_plan import LINKS

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "shape": {"batch_tokens": 64, "d_model": 8, "n_latents": 64, "k": 4, "dead": 0.1},
    "large": None,
    "precisions": ["float32"],
    "axes": {"n_latents": [32, 64], "k": [2, 4], "batch_tokens": [32, 64], "models": [1, 2]},
    "break_even_latents": [64],
    "warmup": 3,
    "repeats": 2,
    "shard_tokens": 256,
    "device": "cpu",
}


def config(**more: Any) -> BenchConfig:
    return BenchConfig.model_validate(TINY | more)


def test_all_variants_of_a_step_work_on_the_same_batch() -> None:
    settings = config()
    with warmed_up_step(settings, settings.shape, "float32", CPU) as (sparse, batches):
        dense = sparse.on_path("dense")
        assert dense.trainer.state.crosscoder is not sparse.trainer.state.crosscoder
        assert dense.trainer.forward.path == "dense"
        for _ in range(3):
            batches.advance()
            assert sparse() == dense() == 64
        one, other = (step.trainer.state.crosscoder.state_dict() for step in (sparse, dense))
        for name in one:
            torch.testing.assert_close(one[name], other[name], atol=1e-4, rtol=1e-3, equal_nan=True)


def test_the_share_of_dead_latents_is_as_configured() -> None:
    settings = config()
    with warmed_up_step(settings, settings.shape, "float32", CPU) as (step, batches):
        terms, _ = step.trainer.step(batches.current)
        assert "auxk" not in terms
        assert int(step.dead.sum()) == 6
        seen: list[int] = []
        taken = step.trainer.step

        def spy(values: torch.Tensor) -> Any:
            limit = settings_of(step).auxiliary.dead_after_tokens
            seen.append(int((step.trainer.state.tokens_since_fired > limit).sum()))
            return taken(values)

        step.trainer.step = spy  # pyright: ignore[reportAttributeAccessIssue]
        step()
        step()
        assert seen == [6, 6]


def settings_of(step: Any) -> Any:
    return step.trainer.config.training


def test_the_reference_is_the_product_of_batch_and_encoder() -> None:
    settings = config()
    with warmed_up_step(settings, settings.shape, "float32", CPU) as (step, batches):
        crosscoder = step.trainer.state.crosscoder
        product = EncoderProduct(crosscoder, batches, torch.float32)
        product.prepare()
        product()
        expected = crosscoder.pre_latents(crosscoder.normalize(batches.current.float())) - crosscoder.b_enc
        torch.testing.assert_close(product._result, expected.detach(), atol=1e-4, rtol=1e-4)


def test_batches_differ_and_have_heavy_tails() -> None:
    planted = PlantedActivations((16, 24), n_directions=64, seed=1)
    one, other = planted.batch(512), planted.batch(512)
    assert one.shape == (512, 40)
    assert one.dtype == torch.bfloat16
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, PlantedActivations((16, 24), n_directions=64, seed=1).batch(512))
    centered = one.float() - one.float().mean(dim=0)
    variances = torch.linalg.svdvals(centered).square()
    assert variances[:10].sum() > 0.5 * variances.sum()


def test_planted_tokens_are_read_in_documents_with_a_calibrated_dictionary() -> None:
    settings = config(shape={"batch_tokens": 640, "d_model": 8, "n_latents": 64, "k": 4})
    crosscoder, batches = planted_reading(settings, CPU, 2)
    document = torch.cat([batch.document for batch in batches])
    assert document.tolist() == sorted(document.tolist())
    assert document.unique().tolist() == [0, 1, 2, 3, 4]
    assert all(int(batch.position.max()) < 256 for batch in batches)
    fired = crosscoder.encode(batches[0].values.float()) > 0
    assert float(fired.sum(dim=1).float().mean()) == pytest.approx(4, rel=0.5)


def test_growth_has_every_axis_and_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    growth = measure_growth(config(), "float32", CPU)
    sizes = {axis: [size for size, _ in growth.points[axis]] for axis in AXES}
    assert sizes == {"n_latents": [32, 64], "k": [2, 4], "batch_tokens": [32, 64], "models": [1, 2]}
    for axis in AXES:
        for size, point in growth.points[axis]:
            assert point.settings[axis] == size
            assert {timing.name for timing in point.timings} == {PRODUCT, "sparse step"}
    assert len(growth.table().rows) == 8
    assert "![" in slope_figures([growth], "growth.png").markdown()
    plot_growth([growth], tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_slope_of_a_power_law() -> None:
    sizes = [1, 2, 4, 8, 16]
    assert log_slope(sizes, [0.3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_break_even_is_where_the_ratio_crosses_one() -> None:
    shares = [0.01, 0.02, 0.04, 0.08]
    assert break_even(shares, [share / 0.03 for share in shares]) == pytest.approx(0.03)
    assert break_even(shares, [0.1, 0.2, 0.3, 0.4]) is None
    assert break_even(shares, [2.0, 3.0, 4.0, 5.0]) is None
    assert break_even(shares, [0.5, 1.5, 0.9, 1.2]) == pytest.approx(
        0.04 * 2 ** (math.log(0.9) / (math.log(0.9) - math.log(1.2)))
    )


def test_the_profile_accounts_for_the_step() -> None:
    figures = profile_step(config(repeats=5), "float32", CPU)
    seconds = figures.record["seconds"]
    assert all(value > 0 for value in seconds.values())
    assert PROFILED_PRODUCT not in seconds
    assert {
        "normalize",
        "encode and select",
        "decode",
        "loss",
        "AuxK",
        "gradient of codes",
        "gradient of decoder",
        "gradient of encoder",
        "clip",
        "optimizer",
    } <= seconds.keys()


def test_a_stage_excludes_the_time_of_inner_stages() -> None:
    """Over two steps, an inner stage counts once, unnamed events count as the rest, and events outside a step do not count."""
    events: list[FunctionEvent] = []

    def event(name: str, microseconds: int, parent: FunctionEvent | None = None) -> FunctionEvent:
        found = FunctionEvent(id=len(events), name=name, thread=1, start_us=0, end_us=microseconds)
        if parent is not None:
            found.set_cpu_parent(parent)
        events.append(found)
        return found

    for _ in range(2):
        event("aten::mm", 5, event(PROFILED_PRODUCT, 40))
        step = event(STEP, 1000)
        event("weighted sum", 60, event("_WeightedSum", 100, step))
        event("loss", 70, event("AuxK", 200, step))
        event("aten::mul", 300, event("aten::add", 400, step))
    event("loss", 900)
    assert stage_seconds(events, 2, on_device=False) == pytest.approx(
        {PROFILED_PRODUCT: 40e-6, "decode": 100e-6, "AuxK": 200e-6, REST: 700e-6}
    )


def test_shuffled_reading_is_compared_with_sequential_files() -> None:
    (comparison,) = shards_benchmark(config())
    assert {timing.name: timing.n_tokens for timing in comparison.timings} == {
        "files, in order": 256,
        "shards, in order": 256,
        SHUFFLED: 256,
        "one step of training": 64,
    }


def test_share_of_reading_is_that_of_one_batch() -> None:
    timings = (Timing(SHUFFLED, (1.0,), 400), Timing("one step of training", (0.75,), 100))
    assert reading_share(Comparison("t", timings, SHUFFLED)) == pytest.approx(0.25)


@pytest.mark.slow
# Warnings from its imports are not under our control.
@pytest.mark.filterwarnings("ignore")
def test_a_step_of_saelens_is_compared_with_ours() -> None:
    settings = config(precisions=["bfloat16"])
    comparison = compare_steps(settings, settings.shape, "bfloat16", CPU, rivals=True)
    assert [timing.name for timing in comparison.timings] == [
        PRODUCT,
        "sparse step",
        "dense step",
        "SAELens BatchTopK",
        "SAELens, autocast",
    ]
    assert {timing.n_tokens for timing in comparison.timings} == {64}


def test_without_units_for_bfloat16_only_float32_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.bench import step

    settings = config(precisions=None)
    for units, expected in ((True, ("bfloat16", "float32")), (False, ("float32",))):
        monkeypatch.setattr(step, "has_bfloat16_units", lambda device, units=units: units)
        assert precisions(settings, CPU) == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("shape.k=100", "shape: k is 100, which is larger than n_latents 64; give a k of at most n_latents"),
        ("axes.k=[4,128]", "axes.k goes up to 128, which is larger than shape.n_latents 64"),
        ("large=2", "shape.k is 4, which is larger than 2 latents"),
        ("shape.width=3", "shape.width: no such setting"),
        ("break_even_shares=[0.1,0.01]", "break_even_shares must be ascending and distinct"),
    ],
)
def test_wrong_settings_are_reported_in_one_line(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        with_overrides(config(), [word])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_one_name_chooses_the_benchmark() -> None:
    assert chosen_benchmarks("all") == BENCHMARKS[:-1]
    assert set(BENCHMARKS) == {
        "step",
        "growth",
        "harvest",
        "shards",
        "analysis",
        "page",
        "coverage",
        "stability",
        "ranks",
        "gpu-grid",
    }
    assert chosen_benchmarks("shards") == ("shards",)
    with pytest.raises(ConfigError, match=r"^bench: 'stepp' is not one of .*did you mean 'step'"):
        chosen_benchmarks("stepp")


def test_a_simulation_adds_what_is_sent_to_the_share_of_a_rank() -> None:
    settings = config(ranks={"measured": [], "simulated": [1, 8], "step_ms": 10})
    (table,) = rank_benchmark(settings)
    steps = {(step["ranks"], step["link"]): step for step in table.record["steps"]}
    for link in LINKS:
        alone, eight = steps[1, link.name], steps[8, link.name]
        assert alone["seconds"] == 0.01
        # At least the reconstruction: 64 tokens, 16 wide, in float32, twice with AuxK.
        assert eight["exchange_seconds"] > 2 * 2 * 7 / 8 * 64 * 16 * 4 / link.bytes_per_second
        assert eight["seconds"] == pytest.approx(0.01 + eight["exchange_seconds"])
    assert "Not measured" in table.markdown()


@pytest.mark.slow
def test_two_processes_are_measured_together() -> None:
    measured, simulated = rank_benchmark(config(ranks={"measured": [1, 2], "simulated": [4]}))
    assert measured.record["ranks"][1]["sent"] == 0
    assert measured.record["ranks"][2]["sent"] > 64 * 16 * 4
    assert all(len(rank["seconds"]["rounds"]) == 2 for rank in measured.record["ranks"].values())
    assert simulated.record["own_seconds"] == measured.record["ranks"][1]["seconds"]["median"]
