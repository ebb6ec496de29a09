"""The regimes of the benchmark: named configurations of a planted pair, and the nulls beside them."""

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConfigError, did_you_mean
from .planted_pair import STANDARD, PlantedPair

RARE = 0.003
N_LATENTS = 128


@dataclass(frozen=True)
class Regime:
    """One way in which a pair of models differs."""

    says: str
    """What is special about it."""

    make: Callable[[int], PlantedPair]
    """The pair of a seed."""

    n_latents: int = N_LATENTS
    is_null: bool = False
    """Whether no feature is new, lost or otherwise changed, so that every label that says so is false."""


def _counts(shared: int = 64, new: int = 8, lost: int = 8, **others: int) -> dict[str, int]:
    return {"shared": shared, **others, "new": new, "lost": lost}


REGIMES: dict[str, Regime] = {
    "standard": Regime(
        "64 shared, 8 rotated, 8 rescaled, 8 new and 8 lost features, independent", PlantedPair
    ),
    "rare": Regime(
        f"new and lost features fire on {100 * RARE:g} % of the tokens",
        lambda seed: PlantedPair(seed, rare=RARE),
    ),
    "undercomplete": Regime(
        "standard, but the dictionary has two thirds as many latents as there are features",
        PlantedPair,
        n_latents=2 * sum(STANDARD.values()) // 3,
    ),
    "hierarchical": Regime(
        "changed features fire only where their shared parent does, on at most half of its tokens",
        lambda seed: PlantedPair(seed, hierarchical=True),
    ),
    "entangled": Regime(
        "groups of six features that fire together and have cosines of 0.1 to 0.5",
        lambda seed: PlantedPair(seed, entangled=True),
    ),
    "roomy": Regime(
        "standard in 128 dimensions, more than there are features: their directions do not overlap",
        lambda seed: PlantedPair(seed, d_model=128),
    ),
    "split": Regime(
        "eight directions of the reference are two each in the intervened model, firing disjointly",
        lambda seed: PlantedPair(seed, counts=_counts(split=16)),
    ),
    "merged": Regime(
        "eight pairs of directions of the reference are one each in the intervened model",
        lambda seed: PlantedPair(seed, counts=_counts(merged=16)),
    ),
    "reweighted": Regime(
        "16 features fire three times as often or seldom, or with three times the spread of magnitudes, in one model",
        lambda seed: PlantedPair(seed, counts=_counts(reweighted=16)),
    ),
    "rotation": Regime(
        "the intervened model's space turned by a random rotation; nothing else turns or rescales",
        lambda seed: PlantedPair(seed, counts=_counts(shared=80), mapping="rotation"),
    ),
    "affine": Regime(
        "the intervened model's space mapped by a random matrix (singular values 1/2 to 2) and moved",
        lambda seed: PlantedPair(seed, counts=_counts(shared=80), mapping="affine"),
    ),
    "widths": Regime(
        "models of width 48 and 64, whose directions have nothing to do with each other",
        lambda seed: PlantedPair(seed, counts=_counts(shared=80), intervened_d_model=64),
    ),
    "heavy_tailed": Regime(
        "standard, 1 % of the tokens 5 to 10 times as long",
        lambda seed: PlantedPair(seed, heavy_tails=0.01),
    ),
    "null_identity": Regime(
        "the same activations twice", lambda seed: PlantedPair(seed).null("identity"), is_null=True
    ),
    "null_noise": Regime(
        "the same features, noise of its own in each model",
        lambda seed: PlantedPair(seed).null("noise"),
        is_null=True,
    ),
    "null_rotation": Regime(
        "the same features, noise of its own in each model, and the intervened model's space turned by a random rotation",
        lambda seed: PlantedPair(seed, counts={"shared": 96}, mapping="rotation"),
        is_null=True,
    ),
    "null_widths": Regime(
        "the same features in models of width 48 and 64",
        lambda seed: PlantedPair(seed, counts={"shared": 96}, intervened_d_model=64),
        is_null=True,
    ),
    "null_drift": Regime(
        "a change as large as in standard that carries no feature: half a random map near the identity, half noise that "
        "varies as the activations do",
        lambda seed: PlantedPair(seed).null("drift"),
        is_null=True,
    ),
}


def regime_named(name: str) -> Regime:
    """The regime of this name. Raises ConfigError where there is none."""
    if name not in REGIMES:
        raise ConfigError(
            f"regimes: {name!r} is not known{did_you_mean(name, REGIMES)}; there are {', '.join(REGIMES)}"
        )
    return REGIMES[name]
