"""How long things take, beside a reference: the core of `crosscoder bench`.

A machine that others use is slow at one moment and fast at the next, so variants take turns (A B C, A B C, …) in one
process, the first round is thrown away, and a ratio is formed within a round: what slows a round down slows all of it.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from .files import write_atomic

# Instructions that decide how fast products of matrices are.
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
"""First line of a log that sections are appended to."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: tuple[float, ...]) -> "Spread":
        """Of at least one value; quartiles are interpolated between the values beside them."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)

    def record(self) -> dict[str, float]:
        """For a JSON file."""
        return {"median": self.median, "lower_quartile": self.lower, "upper_quartile": self.upper}


@dataclass(frozen=True)
class Timing:
    """What one variant took in each round."""

    name: str
    seconds: tuple[float, ...]
    n_tokens: int
    """Tokens of one call."""

    @property
    def spread(self) -> Spread:
        """Of the seconds."""
        return Spread.of(self.seconds)

    def over(self, reference: "Timing") -> Spread:
        """How many times the reference it took in the same round."""
        return Spread.of(
            tuple(own / other for own, other in zip(self.seconds, reference.seconds, strict=True))
        )


@dataclass(frozen=True)
class Figures:
    """One table of a benchmark: for people as rows of text, for programs as a record."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    record: dict[str, Any]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """A heading, the table, and its notes."""
        cells = [self.header, *self.rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.header))]

        def line(row: tuple[str, ...]) -> str:
            # The first column names things; the others are numbers, which are compared by their right ends.
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
    """Variants that took turns, and the one that the others are compared with."""

    title: str
    timings: tuple[Timing, ...]
    reference: str
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Timing:
        return next(timing for timing in self.timings if timing.name == name)

    def ratio(self, name: str) -> Spread:
        """How many times the reference a variant took, round by round."""
        return self[name].over(self[self.reference])

    def figures(self) -> Figures:
        """The table."""
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
        return Figures(
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
    """Let variants take turns and time every call; one round more than `repeats`, of which the first does not count.

    Args:
        variants: By name; each returns the number of tokens that it processed.
        before_round: Called before every round and not timed: it lays out what the round works on.
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
    """What figures depend on, apart from the code."""
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
    """All figures of one call of the command."""

    command: str
    machine: dict[str, Any]
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    figures: list[Figures] = field(default_factory=list)

    def json(self) -> str:
        """For programs."""
        measured = [
            {"title": figures.title, **figures.record, "notes": list(figures.notes)}
            for figures in self.figures
        ]
        record = {"date": self.date, "command": self.command, "machine": self.machine, "figures": measured}
        return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def markdown(self) -> str:
        """A dated section: the machine, the command, the tables."""
        machine = self.machine
        units = ", ".join(machine["units"]) or "none of those that matter"
        head = (
            f"## {self.date[:10]}, {machine['device']}\n\n"
            f"{machine['cpu']} ({units}), {machine['threads']} threads, torch {machine['torch']}, {self.date}:\n"
            f"`{self.command}`\n"
        )
        return "\n".join([head, *(figures.markdown() for figures in self.figures)])

    def append_to(self, path: Path) -> None:
        """Put the section at the end of a log that is there already.

        Raises:
            ConfigError: There is no such log.
        """
        before = _read_log(path)
        write_atomic(path, f"{before.rstrip()}\n\n{self.markdown()}")


def require_log(path: Path) -> None:
    """See before any long work that figures can be appended to this file.

    Raises:
        ConfigError: It is missing, or something else.
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
            f"--log: {str(path)!r} does not begin with {LOG_HEAD!r}, so it is no log of benchmarks; "
            "name one such as docs/benchmarks.md"
        )
    return text
