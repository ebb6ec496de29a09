"""Pseudorandom numbers that depend only on an index and a seed.

splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"). A choice based on them does not depend on the
order or the batching of the data.
"""

import numpy as np
from jaxtyping import Float64, Int64, UInt64

_STEP = 0x9E3779B97F4A7C15


def hashed(index: Int64[np.ndarray, " item"], seed: int) -> UInt64[np.ndarray, " item"]:
    """Return 64 bits for each index."""
    state = index.astype(np.uint64) + np.uint64(_STEP * (seed + 1) % 2**64)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniform(bits: UInt64[np.ndarray, " item"]) -> Float64[np.ndarray, " item"]:
    """Return numbers in [0, 1) from the upper 53 bits."""
    return (bits >> np.uint64(11)).astype(np.float64) / 2.0**53


def block_of(document: Int64[np.ndarray, " item"], n_blocks: int, seed: int) -> Int64[np.ndarray, " item"]:
    """Return the block, in [0, n_blocks), that each document is resampled with."""
    return (hashed(hashed(document, seed).astype(np.int64), seed) % np.uint64(n_blocks)).astype(np.int64)
