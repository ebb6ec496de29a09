"""The benchmarks of training, as the command calls them; the command itself assembles those of analysis and page."""

from collections.abc import Iterator
from pathlib import Path

import torch

from crosscoder.runtime.device import resolve_device
from crosscoder.runtime.timing import BenchmarkTable

from .dictionary_stability import stability_benchmark
from .gpu_grid import grid_benchmark
from .growth import break_even_figures, measure_growth, plot_growth, slope_figures
from .profile import profile_step
from .rank_scaling import rank_benchmark
from .settings import BenchConfig, Benchmark
from .shards import shards_benchmark
from .step import precisions, step_benchmark


def prepare(config: BenchConfig) -> torch.device:
    """Set the number of threads, and return the device.

    Raises:
        ConfigError: The device is not available.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return resolve_device("device", config.device)


def measure(
    what: Benchmark, config: BenchConfig, *, toy: bool, profile: bool, plot: Path | None
) -> Iterator[BenchmarkTable]:
    """Yield the tables of one benchmark, each as soon as it is measured."""
    match what:
        case "step":
            for comparison in step_benchmark(config):
                yield comparison.table()
            if profile:
                device = resolve_device("device", config.device)
                for precision in precisions(config, device):
                    yield profile_step(config, precision, device)
        case "growth":
            device = resolve_device("device", config.device)
            growths = []
            for precision in precisions(config, device):
                growths.append(measure_growth(config, precision, device))
                yield growths[-1].table()
            if plot is not None:
                plot_growth(growths, plot)
            yield slope_figures(growths, None if plot is None else plot.name)
            for precision in precisions(config, device):
                yield break_even_figures(config, precision, device)
        case "harvest":
            # Imported here because it loads transformers, which the other benchmarks do not need.
            from .pairs import harvest_benchmark

            for comparison in harvest_benchmark(config, toy=toy):
                yield comparison.table()
        case "shards":
            for comparison in shards_benchmark(config):
                yield comparison.table()
        case "stability":
            yield stability_benchmark(config.stability, config.seed)
        case "ranks":
            yield from rank_benchmark(config)
        case "gpu-grid":
            yield from grid_benchmark(config)
        case "analysis" | "page" | "coverage":
            raise AssertionError(f"{what} is not a benchmark of training")
