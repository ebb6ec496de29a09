"""The verb `bench`: the benchmarks of all three packages, printed, and written where asked."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..config.load import with_overrides
from ..runtime.files import write_atomic
from .arguments import print_result
from .packages import module


def run_benchmarks(
    what: str,
    overrides: Sequence[str],
    output: Path | None,
    log: Path | None,
    plot: Path | None,
    *,
    profile: bool,
    toy: bool,
    beside: int,
) -> list[str]:
    """Measure, print each table, and write the figures to `output` and `log` where these are given. `beside` processes of one
    thread each are busy meanwhile. Return where `training.step: auto` loses to a plain step, one line a size (`gpu-grid`)."""
    settings = module("training.bench.settings")
    chosen = settings.chosen_benchmarks(what)
    config = with_overrides(settings.BenchConfig(), overrides)
    timing, stages = module("crosscoder.runtime.timing"), module("training.bench.benchmarks")
    if log is not None:
        timing.require_log(log)
    device = stages.prepare(config)
    record = timing.Log(shlex.join(["crosscoder", *sys.argv[1:]]), timing.machine(device))
    with module("training.bench.load").busy_processes(beside):
        for name in chosen:
            if name == "analysis":
                tables = bench_analysis(config, device, toy)
            elif name == "page":
                tables = bench_page(config)
            elif name == "coverage":
                tables = bench_coverage(config)
            else:
                tables = stages.measure(name, config, toy=toy, profile=profile, plot=plot)
            for table in tables:
                print(table.markdown(), flush=True)
                record.tables.append(table)
    if output is not None:
        write_atomic(output, record.json())
        print_result("figures", output)
    if log is not None:
        record.append_to(log)
        print_result("log", log)
    return [line for table in record.tables for line in table.record.get("lost", ())]


_PLANTED_BATCHES = 4


def bench_analysis(config: Any, device: Any, toy: bool) -> Iterator[Any]:
    """Time the analysis pass relative to encoding alone: on planted tokens with a dictionary of the benchmark's shape, and on a
    briefly trained dictionary of each pair."""
    crosscoder, batches = module("training.bench.step").planted_reading(config, device, _PLANTED_BATCHES)
    yield _analysis_table(str(config.shape), crosscoder, batches, config, config.shape.d_models, "paired")
    storage, shards = module("crosscoder.dictionary.storage"), module("crosscoder.activations.shards")
    with module("training.bench.pairs").trained_runs(config, toy=toy) as runs:
        for name, folder, run_config in runs:
            reader = shards.ShardReader(folder.activations, "train")
            batches = list(reader.batches(run_config.training.batch_tokens))
            crosscoder = storage.load_crosscoder(folder.crosscoder, device)
            reads = run_config.crosscoder.reads
            yield _analysis_table(name, crosscoder, batches, config, reader.d_models, reads)


def bench_page(config: Any) -> Iterator[Any]:
    """Time the page of synthetic runs: how long it takes to build, and how fast it responds."""
    yield from module("analysis.bench.page").page_benchmark(config.page_latents, config.repeats)


def bench_coverage(config: Any) -> Iterator[Any]:
    """Measure how often intervals contain the truth, on prompts and documents that are made up."""
    yield from module("analysis.bench.coverage").coverage_benchmark(
        config.coverage_samples, config.coverage_corpora, config.seed
    )


def _analysis_table(
    name: str, crosscoder: Any, batches: Any, config: Any, d_models: tuple[int, ...], reads: str
) -> Any:
    view = module("analysis.latents.dictionary_view").view_of(crosscoder, d_models, reads)
    comparison = module("crosscoder.runtime.timing").compare(
        f"Analysis: {name}",
        module("analysis.bench.analysis_pass").analysis_passes(view, batches),
        reference="encode",
        repeats=config.repeats,
        device=view.device,
        settings=crosscoder.config.model_dump(mode="json"),
    )
    return comparison.table()
