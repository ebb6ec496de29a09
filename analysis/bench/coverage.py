"""Coverage of intervals and level of the test of a shift, on data whose truth is known.

An interval of 95 % should contain the truth in 95 % of repetitions. The functions that are measured are those of `attribute` and `analyze`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float64

from crosscoder.config.behavior import ShiftRule
from crosscoder.config.model_names import MODEL_NAMES
from crosscoder.runtime.timing import BenchmarkTable

from ..behaviors.prompt_statistics import Bounds, Estimate, Resamples
from ..behaviors.shift import measure_shift
from ..latents.bootstrap import BlockMoments, Statistic, block_intervals
from ..latents.hashing import block_of
from ..latents.latent_scaling import nu_error, nu_reconstruction

SIZES = (8, 12, 20, 40, 100)
CONFIDENCE = 0.95

LEVEL_SIZES = (8, 20, 40)

_HARDLY_ANY = 0.01
"""Share of estimable intervals below which their coverage is not shown."""

_SHARE = 0.4
"""True share of a shift."""

_SPIKES = 0.1
"""Share of the prompts that a rare spike moves, and of the documents that a rare feature lives in."""

_BLOCKS = 64
_LATENTS = 32
_ANSWERS: Bounds = (0.0, 1.0)

Generator = np.random.Generator
Draw = Callable[[Generator, int], Float64[np.ndarray, " prompt"]]
DrawPair = Callable[[Generator, int], tuple[Float64[np.ndarray, " prompt"], Float64[np.ndarray, " prompt"]]]


@dataclass(frozen=True)
class Coverage:
    """How often an interval was estimable, and how often it then contained the truth."""

    repetitions: int
    given: int
    covered: int

    def text(self) -> str:
        """Return the coverage, with the share of estimable intervals where that is not all; `not enough` for hardly any."""
        if self.given < _HARDLY_ANY * self.repetitions:
            return "not enough"
        share = "" if self.given == self.repetitions else f" ({self.given / self.repetitions:.0%} given)"
        return f"{self.covered / self.given:.3f}{share}"

    def record(self) -> dict[str, float | int | None]:
        """Return the numbers for JSON."""
        rate = self.covered / self.given if self.given else None
        return {"repetitions": self.repetitions, "given": self.given, "coverage": rate}


@dataclass(frozen=True)
class Case:
    """A statistic of made-up prompts, and its true value."""

    name: str
    estimate: Callable[[Resamples, Generator, int], Estimate]
    truth: float
    bounds: Bounds | None = None

    def measure(self, n_prompts: int, repetitions: int, seed: int) -> Coverage:
        """Measure the coverage on samples of `n_prompts`."""
        generator = np.random.default_rng([seed, n_prompts])
        resamples = Resamples(n_prompts, CONFIDENCE, seed, self.bounds)
        found = [self.estimate(resamples, generator, n_prompts) for _ in range(repetitions)]
        given = [one for one in found if np.isfinite(one.low)]
        return Coverage(repetitions, len(given), sum(one.low <= self.truth <= one.high for one in given))


# --- prompts ----------------------------------------------------------------------------------------------------------


def _lognormal(generator: Generator, n: int) -> Float64[np.ndarray, " prompt"]:
    return generator.lognormal(-0.5, 1.0, n)


def _spikes(generator: Generator, n: int) -> Float64[np.ndarray, " prompt"]:
    return (generator.random(n) < _SPIKES) / _SPIKES + 0.1 * generator.normal(size=n)


_DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda generator, n: 1 + generator.normal(size=n),
    "uniform": lambda generator, n: 2 * generator.random(n),
    "lognormal": _lognormal,
    "heavy tails (t with 3 degrees)": lambda generator, n: 1 + generator.standard_t(3, size=n),
    "rare spikes (a tenth of the prompts)": _spikes,
}
"""Metrics with a mean of 1."""


def _answers(share: float) -> Draw:
    return lambda generator, n: (generator.random(n) < share).astype(np.float64)


def _normal_part(generator: Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    whole = 1 + generator.normal(size=n)
    return _SHARE * whole + 0.5 * generator.normal(size=n), whole


def _lognormal_part(generator: Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    whole = _lognormal(generator, n)
    return _SHARE * whole * generator.lognormal(-0.125, 0.5, n), whole


def _part_of_answers(generator: Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    whole = (generator.random(n) < 0.8).astype(np.float64)
    return whole * (generator.random(n) < _SHARE), whole


def _mean_case(name: str, draw: Draw, truth: float, bounds: Bounds | None = None) -> Case:
    return Case(name, lambda resamples, generator, n: resamples.mean(draw(generator, n)), truth, bounds)


def _ratio_case(name: str, draw: DrawPair, bounds: Bounds | None = None) -> Case:
    return Case(name, lambda resamples, generator, n: resamples.ratio(*draw(generator, n)), _SHARE, bounds)


def _difference_of_answers(resamples: Resamples, generator: Generator, n: int) -> Estimate:
    return resamples.difference(_answers(0.7)(generator, n) - _answers(0.2)(generator, n))


PROMPT_CASES = (
    *(_mean_case(f"mean or shift, {name}", draw, 1.0) for name, draw in _DISTRIBUTIONS.items()),
    _mean_case("share of answers, half", _answers(0.5), 0.5, _ANSWERS),
    _mean_case("share of answers, a tenth", _answers(0.1), 0.1, _ANSWERS),
    Case("shift of answers, 20 to 70 %", _difference_of_answers, 0.5, _ANSWERS),
    _ratio_case("share of a shift, normal", _normal_part),
    _ratio_case("share of a shift, lognormal", _lognormal_part),
    _ratio_case("share of a shift of answers", _part_of_answers, _ANSWERS),
)


def prompt_coverage(repetitions: int, seed: int, sizes: Sequence[int] = SIZES) -> BenchmarkTable:
    """Measure the coverage of every statistic of prompts."""
    found = {case.name: [case.measure(size, repetitions, seed) for size in sizes] for case in PROMPT_CASES}
    notes = (
        f"{repetitions:,} samples each. Shares of answers have discrete values and intervals that hold for any distribution within the "
        "bounds, so that they contain the truth more often than 95 %.",
        "With 12 prompts, rare spikes are not among them in 28 % of samples, and no interval can know. A shift in a metric without bounds "
        "is therefore not established with fewer than 29 prompts (`shift.unseen`).",
    )
    return _coverage_table("Coverage over prompts", "prompts", sizes, found, notes)


# --- the test of a shift ----------------------------------------------------------------------------------------------


def _zero_mean(draw: Draw) -> Draw:
    return lambda generator, n: draw(generator, n) - 1


def _equal_answers(generator: Generator, n: int) -> Float64[np.ndarray, " prompt"]:
    return _answers(0.3)(generator, n) - _answers(0.3)(generator, n)


ZERO_SHIFTS: dict[str, tuple[Draw, Bounds | None]] = {
    **{name: (_zero_mean(draw), None) for name, draw in _DISTRIBUTIONS.items()},
    "answers, 30 % in both models": (_equal_answers, _ANSWERS),
}
"""Differences between the models with a true mean of 0, and the bounds of their metric."""


def shift_level(repetitions: int, seed: int, sizes: Sequence[int] = LEVEL_SIZES) -> BenchmarkTable:
    """Measure how often a shift with a true mean of 0 is established, and how often its p-value alone would establish it."""
    rule = ShiftRule(confidence=CONFIDENCE)
    rows, record = [], {}
    for name, (draw, bounds) in ZERO_SHIFTS.items():
        established, rejected = [], []
        for size in sizes:
            generator = np.random.default_rng([seed, size])
            shifts = [
                measure_shift(np.zeros(size), draw(generator, size), None, rule, seed, bounds)
                for _ in range(repetitions)
            ]
            established.append(float(np.mean([shift.established for shift in shifts])))
            rejected.append(float(np.mean([shift.p_value <= 1 - CONFIDENCE for shift in shifts])))
        rows.append(
            (name, *(f"{one:.1%} ({other:.1%})" for one, other in zip(established, rejected, strict=True)))
        )
        record[name] = {"established": established, "rejected": rejected}
    return BenchmarkTable(
        "Shifts with a true mean of 0 that are established",
        ("difference", *(f"{size} prompts" for size in sizes)),
        tuple(rows),
        {"sizes": list(sizes), "repetitions": repetitions, "levels": record},
        (
            f"{repetitions:,} samples each; in brackets, p-values of at most 5 %, whatever the number of prompts.",
        ),
    )


# --- documents --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """Made-up held-out documents with features, and what is true of them in the long run."""

    name: str
    lives_in: float
    """Share of the documents that a feature lives in."""

    spread: float
    """Standard deviation, over documents, of the logarithm of the rate of firing where it lives."""

    rate = 0.02
    nu_error, nu_reconstruction, share = 0.3, 0.5, 0.01

    @property
    def truth(self) -> dict[str, float]:
        """True value of every statistic."""
        return {
            "density": self.lives_in * self.rate,
            "shift_share": self.lives_in * self.rate * self.share,
            "nu_error": self.nu_error,
            "nu_reconstruction": self.nu_reconstruction,
        }

    def moments(self, n_documents: int, seed: int) -> BlockMoments:
        """Return the sums per block of one draw of documents."""
        generator = np.random.default_rng([seed, n_documents])
        tokens = np.round(generator.lognormal(5, 0.5, n_documents))[:, None]
        shape = n_documents, _LATENTS
        rates = self.rate * generator.lognormal(-(self.spread**2) / 2, self.spread, shape)
        fired = generator.poisson(tokens * rates) * (generator.random(shape) < self.lives_in)
        # Squared activations: exponential for each firing, with a scale for each document.
        square = _noise(generator, 0.3, shape) * generator.gamma(np.maximum(fired, 1e-9)) * (fired > 0)
        one, other = MODEL_NAMES[1], MODEL_NAMES[0]

        def times(target: float) -> Float64[np.ndarray, "document latent"]:
            """Return products that are `target` times the squares on average, with noise of documents and firings."""
            noise = generator.normal(size=shape) * np.sqrt(0.15**2 + 0.3**2 / np.maximum(fired, 1))
            return square * (target + noise)

        sums = {
            "fired": fired.astype(np.float64),
            "square": square,
            "shift": self.share * square * _noise(generator, 0.3, shape),
            # The latent's own part of the error comes from its overlap with itself.
            f"error/{one}/{one}": times(-0.1),
            f"error/{one}/{other}": times(0.9 * self.nu_error),
            f"reconstruction/{one}/{one}": times(0.9),
            f"reconstruction/{one}/{other}": times(0.9 * self.nu_reconstruction),
        }
        totals = {
            "tokens": tokens[:, 0],
            "shift/square": tokens[:, 0] * _noise(generator, 0.3, n_documents),
        }
        block = block_of(np.arange(n_documents), _BLOCKS, seed)
        ones, zeros = torch.ones(_LATENTS).double(), torch.zeros(_LATENTS).double()
        constants = {f"overlap/{one}/{one}": ones, f"overlap/{one}/{other}": zeros}
        constants |= {f"extent/{one}/{model}": ones for model in MODEL_NAMES}
        return BlockMoments(
            {name: _summed(value, block) for name, value in sums.items()},
            {name: _summed(value, block) for name, value in totals.items()},
            constants,
        )


def _noise(generator: Generator, spread: float, shape: int | tuple[int, ...]) -> np.ndarray:
    return generator.lognormal(-(spread**2) / 2, spread, shape)


def _summed(values: np.ndarray, block: np.ndarray) -> torch.Tensor:
    sums = np.zeros((_BLOCKS, *values.shape[1:]))
    np.add.at(sums, block, values)
    return torch.from_numpy(sums)


CORPORA = (
    Corpus("in all documents", 1.0, 0.5),
    Corpus("in all, heavy-tailed", 1.0, 1.0),
    Corpus("in a tenth of the documents", _SPIKES, 0.5),
    Corpus("in a tenth, heavy-tailed", _SPIKES, 1.0),
)

STATISTICS: dict[str, Statistic] = {
    "density": lambda moments: moments["fired"] / moments["tokens"],
    "shift_share": lambda moments: moments["shift"] / moments["shift/square"],
    "nu_error": partial(nu_error, side=MODEL_NAMES[1]),
    "nu_reconstruction": partial(nu_reconstruction, side=MODEL_NAMES[1]),
}


def document_coverage(repetitions: int, seed: int, sizes: Sequence[int] = SIZES) -> BenchmarkTable:
    """Measure the coverage of every statistic of held-out documents, on `repetitions` corpora of 32 latents."""
    found: dict[str, list[Coverage]] = {f"{name}, {one.name}": [] for name in STATISTICS for one in CORPORA}
    for corpus in CORPORA:
        for size in sizes:
            covered: dict[str, list[Bool[np.ndarray, " latent"]]] = {name: [] for name in STATISTICS}
            given: dict[str, list[Bool[np.ndarray, " latent"]]] = {name: [] for name in STATISTICS}
            for repetition in range(repetitions):
                moments = corpus.moments(size, seed + repetition)
                for name, (low, high) in block_intervals(moments, STATISTICS, CONFIDENCE).items():
                    truth = corpus.truth[name]
                    given[name].append(~low.isnan().numpy())
                    covered[name].append(((low <= truth) & (truth <= high)).numpy())
            for name in STATISTICS:
                found[f"{name}, {corpus.name}"].append(
                    Coverage(repetitions * _LATENTS, int(np.sum(given[name])), int(np.sum(covered[name])))
                )
    notes = (
        f"{repetitions:,} corpora of {_LATENTS} latents each, in {_BLOCKS} blocks. *Given* are the latents that fire in at least five blocks. "
        "Intervals of density and share are too long where most documents lack the latent: to be given, it has to be in more of them than usual.",
    )
    return _coverage_table("Coverage over documents", "documents", sizes, found, notes)


def coverage_benchmark(samples: int, corpora: int, seed: int) -> Iterator[BenchmarkTable]:
    """Yield all tables: prompts and the test with `samples` repetitions, documents with `corpora`."""
    yield prompt_coverage(samples, seed)
    yield shift_level(samples, seed)
    yield document_coverage(corpora, seed)


def _coverage_table(
    title: str,
    unit: str,
    sizes: Sequence[int],
    found: dict[str, list[Coverage]],
    notes: tuple[str, ...],
) -> BenchmarkTable:
    rows = tuple((name, *(one.text() for one in coverages)) for name, coverages in found.items())
    record = {name: [one.record() for one in coverages] for name, coverages in found.items()}
    header = ("statistic", *(f"{size} {unit}" for size in sizes))
    return BenchmarkTable(
        title, header, rows, {"sizes": list(sizes), "confidence": CONFIDENCE, "coverage": record}, notes
    )
