"""How a training step scales over ranks that divide the latents: measured on processes of this machine, simulated for more ranks.

Scaling is weak: each rank holds `shape.n_latents` latents, so the dictionary grows with the ranks. A simulated step is the measured step of one rank's
share, plus what it sends (`rank_plan.step_traffic`) over a connection of an assumed speed. Nothing is computed while something is sent.
"""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from crosscoder.runtime.device import resolve_device
from crosscoder.runtime.process_group import begin
from crosscoder.runtime.processes import run_in_processes
from crosscoder.runtime.timing import BenchmarkTable, Spread

from ..rank_plan import LINKS, step_traffic
from .settings import BenchConfig, Shape
from .step import Precision, bench_run_config, precisions, warmed_up_step


class MeasuredRank(NamedTuple):
    """One rank in its rounds."""

    seconds: tuple[float, ...]
    sent: int
    """Bytes that it sent in the last round."""


def rank_benchmark(config: BenchConfig) -> Iterator[BenchmarkTable]:
    """Measure on as many processes as the settings say, with one thread each, then simulate."""
    device = resolve_device("device", config.device)
    precision = precisions(config, device)[0]
    own_seconds = None if config.ranks.step_ms is None else config.ranks.step_ms / 1000
    if config.ranks.measured:
        found = {n: measure_ranks(config, n, precision) for n in config.ranks.measured}
        yield _measured_table(config, precision, found)
        first = next(iter(found.values()))
        own_seconds = own_seconds or Spread.of(first.seconds).median
    if own_seconds is not None and config.ranks.simulated:
        yield simulated_table(config, precision, own_seconds)


def measure_ranks(config: BenchConfig, n_ranks: int, precision: Precision) -> MeasuredRank:
    """Time the step on each of `n_ranks` processes, and return the slowest of them in each round."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    jobs = [(config, rank, n_ranks, port, precision) for rank in range(n_ranks)]
    ranks = [found for _, found in run_in_processes(measure_rank, jobs, n_ranks)]
    seconds = tuple(max(round_) for round_ in zip(*(rank.seconds for rank in ranks), strict=True))
    return MeasuredRank(seconds, max(rank.sent for rank in ranks))


def measure_rank(
    config: BenchConfig, rank: int, n_ranks: int, port: int, precision: Precision
) -> MeasuredRank:
    """Time the step of one rank, which runs at the same time as the others. The rounds begin together."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    device, shape = resolve_device("device", config.device), of_ranks(config.shape, n_ranks)
    seconds, sent = [], 0
    with (
        begin(os.environ),
        warmed_up_step(config, shape, precision, device, n_ranks) as (step, batches),
    ):
        for _ in range(config.repeats):
            batches.advance()
            step.trainer.ranks.wait()
            before, started = getattr(step.trainer.ranks, "sent", 0), time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
            sent = getattr(step.trainer.ranks, "sent", 0) - before
    return MeasuredRank(tuple(seconds), sent)


def of_ranks(shape: Shape, n_ranks: int) -> Shape:
    """Return the shape of the dictionary of all ranks."""
    return shape.model_copy(update={"n_latents": shape.n_latents * n_ranks})


def _measured_table(
    config: BenchConfig, precision: Precision, found: dict[int, MeasuredRank]
) -> BenchmarkTable:
    first = Spread.of(next(iter(found.values())).seconds)
    rows, record = [], {}
    for n_ranks, rank in found.items():
        spread, shape = Spread.of(rank.seconds), of_ranks(config.shape, n_ranks)
        rows.append(
            (
                f"{n_ranks}",
                f"{shape.n_latents:,}",
                f"{1000 * spread.median:.4g}",
                f"{1000 * spread.lower:.4g} … {1000 * spread.upper:.4g}",
                f"{first.median / spread.median:.0%}",
                f"{rank.sent / 1e6:.3g}",
            )
        )
        record[n_ranks] = {"seconds": spread.record() | {"rounds": list(rank.seconds)}, "sent": rank.sent}
    return BenchmarkTable(
        f"Weak scaling over processes of one thread, {precision}: {config.shape} for each",
        ("ranks", "latents", "ms", "quartiles", "efficiency", "MB sent by each"),
        tuple(rows),
        {"shape": config.shape.model_dump(), "precision": precision, "ranks": record},
        ("Each round is the slowest rank. Efficiency: the step of the fewest ranks over this one.",),
    )


def simulated_table(config: BenchConfig, precision: Precision, own_seconds: float) -> BenchmarkTable:
    """Simulate the step of more ranks from that of one rank's share."""
    device = torch.device("cpu")
    rows, record = [], []
    for n_ranks in config.ranks.simulated:
        shape = of_ranks(config.shape, n_ranks)
        run = bench_run_config(Path("simulated"), shape, precision, device, config.seed, n_ranks)
        traffic = step_traffic(run, shape.d_models, dead=shape.dead > 0)
        for link in LINKS:
            exchange = traffic.seconds(link) if n_ranks > 1 else 0.0
            step = own_seconds + exchange
            rows.append(
                (
                    f"{n_ranks}, {link.name}",
                    f"{shape.n_latents:,}",
                    f"{sum(traffic.sent.values()) / 1e6:.4g}",
                    f"{1000 * exchange:.3g}",
                    f"{1000 * step:.4g}",
                    f"{own_seconds / step:.0%}",
                    f"{shape.batch_tokens / step:,.0f}",
                )
            )
            record.append(
                {"ranks": n_ranks, "link": link.name, "exchange_seconds": exchange, "seconds": step}
            )
    assumed = "; ".join(
        f"{link.name} {link.bytes_per_second / 1e9:g} GB/s and {1e6 * link.seconds_per_call:g} µs for an exchange"
        for link in LINKS
    )
    return BenchmarkTable(
        f"Simulated weak scaling, {precision}: {config.shape} for each rank, whose share takes {1000 * own_seconds:.4g} ms",
        (
            "ranks, connection",
            "latents",
            "MB sent by each",
            "exchange, ms",
            "step, ms",
            "efficiency",
            "tokens/s",
        ),
        tuple(rows),
        {"shape": config.shape.model_dump(), "own_seconds": own_seconds, "steps": record},
        (
            f"Not measured. Assumed: {assumed}; a ring, in float32; nothing is computed while something is sent; ranks are never out of step; "
            "k firings on a token on every rank, more than there are; batches arrive in time.",
        ),
    )
