"""Pairs of made-up models whose every difference is known, and a benchmark of what methods find in them."""

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
