"""The regimes of the benchmark: named configurations of planted pairs, including null pairs."""

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConfigError, did_you_mean
from .planted_pair import STANDARD, PlantedPair

RARE = 0.003
N_LATENTS = 128


@dataclass(frozen=True)
class Regime:
    """One way in which a pair of models differs."""

    description: str
    """How this regime differs from the standard one."""

    make: Callable[[int], PlantedPair]
    """Returns the pair for a seed."""

    n_latents: int = N_LATENTS
    is_null: bool = False
    """Whether no feature changes, so that every label that claims a change is false."""


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
        "changed features fire only if their shared parent does, on at most half of its tokens",
        lambda seed: PlantedPair(seed, hierarchical=True),
    ),
    "entangled": Regime(
        "features in groups of six that fire together and have cosines of 0.1 to 0.5",
        lambda seed: PlantedPair(seed, entangled=True),
    ),
    "roomy": Regime(
        "standard in 128 dimensions, more than the number of features, so directions are orthogonal",
        lambda seed: PlantedPair(seed, d_model=128),
    ),
    "split": Regime(
        "eight directions of the reference each split into two in the intervened model, which never fire together",
        lambda seed: PlantedPair(seed, counts=_counts(split=16)),
    ),
    "merged": Regime(
        "eight pairs of directions of the reference each merge into one in the intervened model",
        lambda seed: PlantedPair(seed, counts=_counts(merged=16)),
    ),
    "reweighted": Regime(
        "16 features fire three times as often or a third as often, or with three times the spread of magnitudes, in one model",
        lambda seed: PlantedPair(seed, counts=_counts(reweighted=16)),
    ),
    "rotation": Regime(
        "the intervened model's space is rotated at random; no feature is rotated or rescaled relative to it",
        lambda seed: PlantedPair(seed, counts=_counts(shared=80), mapping="rotation"),
    ),
    "affine": Regime(
        "the intervened model's space is mapped by a random matrix (singular values 1/2 to 2) and shifted",
        lambda seed: PlantedPair(seed, counts=_counts(shared=80), mapping="affine"),
    ),
    "widths": Regime(
        "models of width 48 and 64, with unrelated directions",
        lambda seed: PlantedPair(seed, counts=_counts(shared=80), intervened_d_model=64),
    ),
    "heavy_tailed": Regime(
        "standard, with 1 % of the tokens scaled by 5 to 10",
        lambda seed: PlantedPair(seed, heavy_tails=0.01),
    ),
    "null_identity": Regime(
        "the same activations twice", lambda seed: PlantedPair(seed).null("identity"), is_null=True
    ),
    "null_noise": Regime(
        "the same features, with independent noise in each model",
        lambda seed: PlantedPair(seed).null("noise"),
        is_null=True,
    ),
    "null_rotation": Regime(
        "the same features, with independent noise in each model and the intervened model's space rotated at random",
        lambda seed: PlantedPair(seed, counts={"shared": 96}, mapping="rotation"),
        is_null=True,
    ),
    "null_widths": Regime(
        "the same features in models of width 48 and 64",
        lambda seed: PlantedPair(seed, counts={"shared": 96}, intervened_d_model=64),
        is_null=True,
    ),
    "null_drift": Regime(
        "a change as large as in standard, in no feature: half from a random map near the identity, half from noise with the "
        "covariance of the activations",
        lambda seed: PlantedPair(seed).null("drift"),
        is_null=True,
    ),
}


def regime_named(name: str) -> Regime:
    """Return the regime of this name.

    Raises:
        ConfigError: There is no such regime.
    """
    if name not in REGIMES:
        raise ConfigError(
            f"regimes: {name!r} is not known{did_you_mean(name, REGIMES)}; the regimes are {', '.join(REGIMES)}"
        )
    return REGIMES[name]
