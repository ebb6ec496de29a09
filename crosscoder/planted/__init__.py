"""Planted pairs: made-up models whose differences are all known, for benchmarks and tests."""

from .chain import PlantedChain
from .directions import spread_directions
from .elements import Element
from .exact import exact_dictionary
from .feature_plan import SMALL, STANDARD
from .planted_pair import PlantedPair
from .truth import PlantedTruth

__all__ = [
    "SMALL",
    "STANDARD",
    "Element",
    "PlantedChain",
    "PlantedPair",
    "PlantedTruth",
    "exact_dictionary",
    "spread_directions",
]
