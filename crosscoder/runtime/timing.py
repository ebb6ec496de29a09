"""Timing of variants relative to a reference: the core of `crosscoder bench`.

The speed of a shared machine fluctuates, so variants take turns (A B C, A B C, …) in one process, the first round is
discarded, and ratios are taken within a round: a slow moment affects the whole round.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import ConfigError
from .files import write_atomic

# CPU instructions that determine the speed of matrix products.
_UNITS = (
    "avx2",
    "avx512_f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_fp16",
    "sve",
    "bf16",
)

LOG_HEAD = "# Benchmarks"
"""First line of a benchmark log."""


class StageTime(NamedTuple):
    """Estimated duration of a stage of a run."""

    name: str
    seconds: float
    how: str
    """What was measured, and how often the stage does it."""

    at_most: bool = False
    """Whether the stage may end earlier: at a limit, or where it finds nothing."""


def seconds_each(
    step: Callable[[], object], device: torch.device, *, most: int = 30, limit: float = 2.0
) -> float:
    """Mean seconds of a step, without the first, which warms up. Ends after `most` further steps or `limit` seconds; a first step that
    takes longer than that is the measurement."""
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) <= most and (not seconds or time.perf_counter() - begin < limit):
        _wait_for(device)
        before = time.perf_counter()
        step()
        _wait_for(device)
        seconds.append(time.perf_counter() - before)
    return statistics.fmean(seconds[1:] or seconds)


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: tuple[float, ...]) -> "Spread":
        """Summarize one or more values; quartiles are interpolated linearly."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)

    def record(self) -> dict[str, float]:
        """Return the numbers for a JSON file."""
        return {"median": self.median, "lower_quartile": self.lower, "upper_quartile": self.upper}


@dataclass(frozen=True)
class Timing:
    """Seconds that one variant took in each round."""

    name: str
    seconds: tuple[float, ...]
    n_tokens: int
    """Tokens per call."""

    @property
    def spread(self) -> Spread:
        """Median and quartiles of the seconds."""
        return Spread.of(self.seconds)

    def ratio_to(self, reference: "Timing") -> Spread:
        """Return the time relative to the reference, round by round."""
        return Spread.of(
            tuple(own / other for own, other in zip(self.seconds, reference.seconds, strict=True))
        )


@dataclass(frozen=True)
class BenchmarkTable:
    """One table of a benchmark: rows of text for people, a record for programs."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    record: dict[str, Any]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Return a heading, the table and its notes as Markdown."""
        cells = [self.header, *self.rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.header))]

        def line(row: tuple[str, ...]) -> str:
            # The first column holds names; the others hold numbers, which align right.
            first, *rest = (
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            return f"| {' | '.join([first, *rest])} |"

        rule = f"| {' | '.join(['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])])} |"
        text = "\n".join([f"### {self.title}", "", line(self.header), rule, *map(line, self.rows)])
        return "\n\n".join([text, *self.notes]) + "\n"


@dataclass(frozen=True)
class Comparison:
    """Timings of variants that took turns, and the reference that they are compared with."""

    title: str
    timings: tuple[Timing, ...]
    reference: str
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Timing:
        return next(timing for timing in self.timings if timing.name == name)

    def ratio(self, name: str) -> Spread:
        """Return the time of a variant relative to the reference, round by round."""
        return self[name].ratio_to(self[self.reference])

    def table(self) -> BenchmarkTable:
        """Return all timings and ratios as a table."""
        rows, record = [], {}
        for timing in self.timings:
            seconds, ratio = timing.spread, self.ratio(timing.name)
            speed = timing.n_tokens / seconds.median
            rows.append(
                (
                    timing.name,
                    f"{seconds.median * 1e3:.4g}",
                    f"{seconds.lower * 1e3:.4g} … {seconds.upper * 1e3:.4g}",
                    f"{ratio.median:.2f}",
                    f"{ratio.lower:.2f} … {ratio.upper:.2f}",
                    f"{speed:,.0f}",
                )
            )
            record[timing.name] = {
                "seconds": seconds.record() | {"rounds": list(timing.seconds)},
                "ratio": ratio.record(),
                "tokens": timing.n_tokens,
                "tokens_per_second": speed,
            }
        return BenchmarkTable(
            self.title,
            ("variant", "ms", "quartiles", f"× {self.reference}", "quartiles", "tokens/s"),
            tuple(rows),
            {"settings": self.settings, "reference": self.reference, "variants": record},
            self.notes,
        )


def compare(
    title: str,
    variants: Mapping[str, Callable[[], int]],
    *,
    reference: str,
    repeats: int,
    device: torch.device,
    before_round: Callable[[], object] | None = None,
    settings: dict[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Comparison:
    """Time variants in turns for `repeats` rounds, after one discarded round.

    Args:
        variants: Functions by name; each returns the number of tokens that it processed.
        before_round: Called before every round and not timed; prepares the data of the round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    n_tokens: dict[str, int] = {}
    for turn in range(repeats + 1):
        if before_round is not None:
            before_round()
        for name, variant in variants.items():
            _wait_for(device)
            begin = time.perf_counter()
            n_tokens[name] = variant()
            _wait_for(device)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    timings = tuple(Timing(name, tuple(seconds[name]), n_tokens[name]) for name in variants)
    return Comparison(title, timings, reference, settings or {}, notes)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine that timings were measured on."""
    capabilities = torch.cpu.get_capabilities()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": str(capabilities.get("cpu_name") or platform.processor() or platform.machine()),
        "units": [unit for unit in _UNITS if capabilities.get(unit)],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


@dataclass
class Log:
    """All tables of one call of `crosscoder bench`."""

    command: str
    machine: dict[str, Any]
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    tables: list[BenchmarkTable] = field(default_factory=list)

    def json(self) -> str:
        """Return the log as JSON."""
        measured = [
            {"title": table.title, **table.record, "notes": list(table.notes)} for table in self.tables
        ]
        record = {"date": self.date, "command": self.command, "machine": self.machine, "figures": measured}
        return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def markdown(self) -> str:
        """Return a dated section with the machine, the command and the tables."""
        machine = self.machine
        units = ", ".join(machine["units"]) or "no matrix instructions"
        head = (
            f"## {self.date[:10]}, {machine['device']}\n\n"
            f"{machine['cpu']} ({units}), {machine['threads']} threads, torch {machine['torch']}, {self.date}:\n"
            f"`{self.command}`\n"
        )
        return "\n".join([head, *(table.markdown() for table in self.tables)])

    def append_to(self, path: Path) -> None:
        """Append the section to an existing log.

        Raises:
            ConfigError: The log is missing or not a benchmark log.
        """
        before = _read_log(path)
        write_atomic(path, f"{before.rstrip()}\n\n{self.markdown()}")


def require_log(path: Path) -> None:
    """Check, before any long work, that results can be appended to this file.

    Raises:
        ConfigError: The file is missing or not a benchmark log.
    """
    _read_log(path)


def _read_log(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"--log: {str(path)!r} cannot be read; name a log such as docs/benchmarks.md"
        ) from None
    if not text.startswith(LOG_HEAD):
        raise ConfigError(
            f"--log: {str(path)!r} does not begin with {LOG_HEAD!r}, so it is not a benchmark log; "
            "name one such as docs/benchmarks.md"
        )
    return text
