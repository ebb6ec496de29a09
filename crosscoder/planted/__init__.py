"""Planted pairs: made-up models whose differences are all known, for benchmarks and tests."""

from .chain import PlantedChain
from .directions import spread_directions
from .exact import exact_dictionary
from .planted_pair import SMALL, STANDARD, PlantedPair
from .truth import PlantedTruth

__all__ = [
    "SMALL",
    "STANDARD",
    "PlantedChain",
    "PlantedPair",
    "PlantedTruth",
    "exact_dictionary",
    "spread_directions",
]
