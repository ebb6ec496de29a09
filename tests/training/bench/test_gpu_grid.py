import pytest
from typer.testing import CliRunner

from crosscoder.command import app, benchmarks
from crosscoder.errors import ConfigError
from crosscoder.runtime.timing import Comparison, Timing
from training.bench import gpu_grid
from training.bench.gpu_grid import PLAIN, Cell, grid_benchmark, grid_table
from training.bench.settings import BENCHMARKS, BenchConfig, Shape, chosen_benchmarks

TINY = {
    "shape": {"batch_tokens": 64, "k": 2, "dead": 0.1},
    "grid": {"n_latents": [64], "d_model": [8], "k": [2, 4]},
    "precisions": ["float32"],
    "warmup": 2,
    "repeats": 2,
    "device": "cpu",
}


def cell(
    auto: str, plain: float = 1.0, sparse: float = 2.0, dense: float = 0.5, compiled: float = 0.25
) -> Cell:
    seconds = {PLAIN: plain, "sparse": sparse, "dense": dense, "compiled": compiled}
    timings = tuple(Timing(name, (each, each), 64) for name, each in seconds.items())
    return Cell(Shape(n_latents=64, d_model=8, k=4), auto, Comparison("", timings, PLAIN))


def test_sizes_are_named_where_auto_loses_to_the_plain_step() -> None:
    table = grid_table([cell("sparse"), cell("dense")], "float32")
    assert table.record["lost"] == [
        "64 of 2 × 8, k 4: auto takes sparse, 2.00 × the plain step; compiled takes 0.25 ×"
    ]
    assert table.rows[0] == ("64 of 2 × 8", "4", "1000", "2.00", "0.50", "0.25", "sparse", "2.00")
    assert "loses at 1 of 2 sizes" in table.notes[1]
    assert grid_table([cell("dense")], "float32").record["lost"] == []


def test_what_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_grid, "machine_memory", lambda: 100_000)
    (table,) = grid_benchmark(BenchConfig.model_validate(TINY))
    assert [row[2] for row in table.rows] == ["needs 0.000193 GB of 0.0001"] * 2
    assert "2 were left out" in table.notes[1]


def test_no_size_is_begun_after_the_time_is_over() -> None:
    settings = TINY | {"grid": TINY["grid"] | {"minutes": 1e-9}}  # pyright: ignore[reportOperatorIssue]
    (table,) = grid_benchmark(BenchConfig.model_validate(settings))
    assert [row[2] for row in table.rows] == ["not begun within grid.minutes 1e-09"] * 2


def test_all_leaves_the_grid_out() -> None:
    assert chosen_benchmarks("gpu-grid") == ("gpu-grid",)
    assert set(BENCHMARKS) - set(chosen_benchmarks("all")) == {"gpu-grid"}


def test_a_k_larger_than_the_smallest_dictionary_is_refused() -> None:
    with pytest.raises(
        (ConfigError, ValueError), match=r"grid\.k goes up to 256, which is larger than 128 latents"
    ):
        BenchConfig.model_validate({"grid": {"n_latents": [128]}})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_the_grid_is_measured_on_a_cpu() -> None:
    (table,) = grid_benchmark(BenchConfig.model_validate(TINY))
    assert [row[:2] for row in table.rows] == [("64 of 2 × 8", "2"), ("64 of 2 × 8", "4")]
    for measured in table.record["cells"]:
        assert measured["auto"] == "sparse"
        assert {path: ratio["median"] > 0 for path, ratio in measured["ratios"].items()} == {
            "sparse": True,
            "dense": True,
            "compiled": True,
        }


def test_the_command_returns_where_auto_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = benchmarks.module("training.bench.benchmarks")
    monkeypatch.setattr(
        stages, "grid_benchmark", lambda config: iter([grid_table([cell("sparse")], "float32")])
    )
    settings = {"output": None, "log": None, "plot": None, "profile": False, "toy": False, "beside": 0}
    lost = benchmarks.run_benchmarks("gpu-grid", ["device=cpu"], **settings)
    assert len(lost) == 1
    assert "auto takes sparse" in lost[0]


@pytest.mark.parametrize(("lost", "code"), [(["a size"], 3), ([], 0)])
def test_the_verb_ends_with_another_exit_code_where_auto_loses(
    monkeypatch: pytest.MonkeyPatch, lost: list[str], code: int
) -> None:
    monkeypatch.setattr(app, "run_benchmarks", lambda *words, **options: lost)
    done = CliRunner().invoke(app.app, ["bench", "gpu-grid"])
    assert done.exit_code == code
    assert ("a size" in done.output) == bool(lost)
