import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from crosscoder.errors import ConfigError
from crosscoder.runtime import timing
from crosscoder.runtime.timing import (
    BenchmarkTable,
    Comparison,
    Log,
    Spread,
    Timing,
    compare,
    machine,
    require_log,
)

CPU = torch.device("cpu")


def test_variants_take_turns_and_the_first_round_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    now = 0.0

    def variant(name: str, seconds: float) -> int:
        nonlocal now
        # The first call is slow: cold caches, lazy imports.
        now += seconds if name in calls else 64.0
        calls.append(name)
        return 10

    def before_round() -> None:
        nonlocal now
        now += 1000.0
        calls.append("round")

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now))
    compared = compare(
        "t",
        {"one": lambda: variant("one", 0.5), "two": lambda: variant("two", 1.5)},
        reference="one",
        repeats=3,
        device=CPU,
        before_round=before_round,
    )
    assert calls == ["round", "one", "two"] * 4
    assert [timed.seconds for timed in compared.timings] == [(0.5, 0.5, 0.5), (1.5, 1.5, 1.5)]
    assert compared.ratio("two") == Spread(3.0, 3.0, 3.0)
    assert compared.ratio("one") == Spread(1.0, 1.0, 1.0)


def test_ratios_are_taken_within_a_round() -> None:
    # The machine is ten times slower in the second round; both variants are, so the ratio is unchanged.
    timings = (Timing("one", (1.0, 10.0, 1.0), 5), Timing("two", (2.0, 20.0, 2.0), 5))
    assert Comparison("t", timings, "one").ratio("two") == Spread(2.0, 2.0, 2.0)


def test_quartiles() -> None:
    assert Spread.of((5.0, 1.0, 3.0, 2.0, 4.0)) == Spread(3.0, 2.0, 4.0)
    assert Spread.of((7.0,)) == Spread(7.0, 7.0, 7.0)


def test_table_and_record_agree() -> None:
    timings = (Timing("one", (0.5, 0.5), 100), Timing("two", (1.0, 1.0), 100))
    table = Comparison("sizes", timings, "one", {"k": 3}, ("a note",)).table()
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in table.markdown().splitlines()][
        2:
    ] == [
        ["variant", "ms", "quartiles", "× one", "quartiles", "tokens/s"],
        ["-------", "---:", "----------: ".strip(), "----:", "----------: ".strip(), "-------:"],
        ["one", "500", "500 … 500", "1.00", "1.00 … 1.00", "200"],
        ["two", "1000", "1000 … 1000", "2.00", "2.00 … 2.00", "100"],
        [""],
        ["a note"],
    ]
    assert table.record["settings"] == {"k": 3}
    assert table.record["variants"]["two"]["ratio"]["median"] == 2
    assert table.record["variants"]["two"]["tokens_per_second"] == 100


def log() -> Log:
    record = Log("crosscoder bench step", machine(CPU), "2026-01-02T03:04:05+00:00")
    record.tables.append(BenchmarkTable("title", ("a", "b"), (("x", "1"),), {"x": 1}))
    return record


def test_a_log_grows_by_dated_sections(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    path.write_text("# Benchmarks\n\nHow to read.\n")
    for _ in range(2):
        log().append_to(path)
    text = path.read_text()
    assert text.startswith("# Benchmarks\n\nHow to read.\n\n## 2026-01-02, cpu\n")
    assert text.count("## 2026-01-02, cpu") == 2
    assert text.count("`crosscoder bench step`") == 2
    assert f"torch {torch.__version__}" in text
    assert "| x | 1 |" in text
    assert json.loads(log().json())["figures"] == [{"title": "title", "x": 1, "notes": []}]


def test_a_file_that_is_not_a_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Notes\n")
    for name, found in (("notes.md", "does not begin with '# Benchmarks'"), ("none.md", "cannot be read")):
        with pytest.raises(ConfigError, match=rf"--log: .*{name}.*{found}.*; name .*docs/benchmarks\.md"):
            require_log(tmp_path / name)
    assert (tmp_path / "notes.md").read_text() == "# Notes\n"
