"""Correction of p-values for many tests, and how many random draws a corrected level needs.

    Holm (1979)                     bounds the chance of any false claim: for a few claims that are read one by one
    Benjamini and Hochberg (1995)   bounds the expected share of false claims: for a list. It holds for tests that share their random
                                    draws, whose p-values are positively dependent (Benjamini and Yekutieli 2001)

The p-value of a test against n random draws is (1 + draws that reach it) / (1 + n) (Phipson and Smyth 2010), so it is never below
1 / (1 + n): with too few draws no test can be significant once it is corrected.
"""

import math

import numpy as np
from jaxtyping import Float64
from scipy.stats import false_discovery_control

PValues = Float64[np.ndarray, " test"]

_ROUNDING = 1e-9
"""1 - 0.95 is not 0.05 in floating point."""


def holm(p_values: PValues) -> PValues:
    """Return the adjusted p-values of Holm's step-down procedure, at most 1."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return adjusted


def benjamini_hochberg(p_values: PValues) -> PValues:
    """Return the adjusted p-values of the step-up procedure, at most 1."""
    return false_discovery_control(p_values, method="bh") if len(p_values) else p_values


def significant(p_value: float, confidence: float) -> bool:
    """Whether an adjusted p-value is at most 1 - confidence."""
    return bool(p_value <= 1 - confidence + _ROUNDING)


def draws_for_holm(n_tests: int, confidence: float) -> int:
    """Return the least number of draws with which one of `n_tests` can be significant alone."""
    return _draws(float(n_tests), confidence)


def draws_for_benjamini_hochberg(n_tests: int, n_significant: int, confidence: float) -> int:
    """Return the least number of draws with which `n_significant` of `n_tests` can be significant without the others."""
    return _draws(n_tests / n_significant, confidence)


def _draws(divisor: float, confidence: float) -> int:
    return math.ceil(divisor / (1 - confidence) - 1 - _ROUNDING)
