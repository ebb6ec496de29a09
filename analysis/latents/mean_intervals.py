"""Intervals and tests of a mean of few and skewed observations.

Of a sample with mean m, standard deviation s and skewness γ, T = (m - μ)/s is compared with Student's t in two ways, and the wider bound
counts on each side:

    t       √n T
    Hall    √n (T + γT²/3 + γ²T³/27 + γ/(6n))     without the skewness of T, and monotone in T (Hall 1992, Annals of Statistics 20)

t alone is short on the side of the long tail, Hall alone where the tail only seems long. The skewness of a small sample is too small on
average, so it is multiplied by √(n(n-1))/(n-2) · (1 + 6/n) (Tasker and Stedinger 1986). `crosscoder bench coverage` measures how often the
intervals contain the truth.
"""

from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import NDArray
from scipy.stats import t as student

_NO_SKEWNESS = 1e-6
"""|γy| below which the cube root of the transformation loses its digits, and two terms of its series are exact."""


class Sample(NamedTuple):
    """What intervals need to know of a sample; every field has one entry per sample."""

    n: Float64[np.ndarray, " sample"]
    mean: Float64[np.ndarray, " sample"]
    deviation: Float64[np.ndarray, " sample"]
    """Standard deviation, with n - 1."""

    skewness: Float64[np.ndarray, " sample"]
    """Skewness, corrected for small samples; 0 without deviation."""

    freedom: Float64[np.ndarray, " sample"]
    """Degrees of freedom of the standard deviation."""


class Margins(NamedTuple):
    """Distances from a mean to the lower and to the upper bound of its interval; neither is negative."""

    below: Float64[np.ndarray, " sample"]
    above: Float64[np.ndarray, " sample"]


def sample_of(
    values: Float64[np.ndarray, "item sample"], counted: Bool[np.ndarray, "item sample"] | None = None
) -> Sample:
    """Summarize samples of at least three items along the first axis; with fewer, numbers are NaN.

    Args:
        counted: Items that belong to a sample; None: all.
    """
    weight = np.ones_like(values) if counted is None else counted.astype(np.float64)
    n = weight.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (values * weight).sum(axis=0) / n
        centred = (values - mean) * weight
        variance = (centred**2).sum(axis=0) / n
        third = (centred**3).sum(axis=0) / n
        # A spread of rounding errors has no shape.
        flat = variance <= 1e-24 * mean**2
        skewness = np.where(flat, 0.0, third / np.where(flat, 1.0, variance) ** 1.5)
        few = n < 3
        return Sample(
            n,
            mean,
            np.where(few, np.nan, np.sqrt(np.where(flat, 0.0, variance) * n / (n - 1))),
            np.where(few, np.nan, skewness * skewness_correction(n)),
            n - 1,
        )


def effective_freedom(
    values: Float64[np.ndarray, "item sample"], counted: Bool[np.ndarray, "item sample"]
) -> Float64[np.ndarray, " sample"]:
    """Return degrees of freedom that are few where few items carry the variance, at most n - 1.

    The smaller of two numbers, for items x around their mean with kurtosis κ:

        2n/(κ - 1)                     a multiple of χ² with as much variance as that of the sample (Satterthwaite 1946)
        (n + (Σ|x|)²/Σx²)/2 - 1        halfway between all items and their effective number, because κ is too small in small samples
    """
    n = counted.sum(axis=0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        centred = np.where(counted, values - np.where(counted, values, 0).sum(axis=0) / n, 0)
        square = (centred**2).sum(axis=0)
        kurtosis = n * (centred**4).sum(axis=0) / square**2
        effective = np.abs(centred).sum(axis=0) ** 2 / square
        by_kurtosis = np.where(kurtosis > 1, 2 * n / (kurtosis - 1), np.inf)
    found = np.minimum(by_kurtosis, (n + effective) / 2 - 1)
    # Equal items have no variance to carry.
    return np.where(square > 0, np.minimum(found, n - 1), n - 1)


def margins(sample: Sample, confidence: float) -> Margins:
    """Return the two-sided interval of the mean as distances from it; 0 without deviation."""
    quantile = student.ppf((1 + confidence) / 2, sample.freedom)
    plain = quantile / np.sqrt(sample.n)
    low, high = (_untransformed(bound, sample) for bound in (quantile, -quantile))
    return Margins(
        sample.deviation * np.maximum(plain, low),
        sample.deviation * np.maximum(plain, -high),
    )


def zero_mean_p_value(sample: Sample) -> Float64[np.ndarray, " sample"]:
    """Return the two-sided p-value of a mean of 0: the largest 1 - confidence at which the interval of `margins` contains 0.

    1 for a sample of zeros, 0 for one of equal values that are not 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = sample.mean / sample.deviation
        statistics = np.sqrt(sample.n) * np.stack(
            [relative, transformed(relative, sample.skewness, sample.n)]
        )
        p_value = 2 * student.sf(np.abs(statistics), sample.freedom).max(axis=0)
    return np.where(sample.deviation > 0, p_value, np.where(sample.mean == 0, 1.0, 0.0))


Number = TypeVar("Number", float, NDArray[np.float64])


def transformed(relative: Number, skewness: Number, n: Number) -> Number:
    """Return Hall's transformation of T = (mean - μ)/deviation."""
    cubed = skewness * relative / 3
    return relative * (1 + cubed + cubed**2 / 3) + skewness / (6 * n)


def _untransformed(bound: Float64[np.ndarray, " sample"], sample: Sample) -> Float64[np.ndarray, " sample"]:
    """Return the T whose transformation times √n is the bound."""
    rest = bound / np.sqrt(sample.n) - sample.skewness / (6 * sample.n)
    product = sample.skewness * rest
    small = np.abs(product) < _NO_SKEWNESS
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = 3 / sample.skewness * (np.cbrt(1 + product) - 1)
    return np.where(small, rest * (1 - product / 3), exact)


def skewness_correction(n: Number) -> Number:
    """Return the factor that makes up for the skewness that small samples miss."""
    factor: Any = (n * (n - 1)) ** 0.5 / (n - 2) * (1 + 6 / n)
    return factor
