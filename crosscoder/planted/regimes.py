"""The regimes of the benchmark: named configurations of planted pairs, including null pairs."""

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConfigError, did_you_mean
from .alterations import (
    BURST_DIMENSIONS,
    BURST_LENGTH,
    BURST_SHARE,
    CLASS_GAIN,
    CLASS_SHARE,
    OFFSET_LENGTH,
    ROUNDING_BITS,
    TAIL_DIMENSIONS,
    TAIL_FREEDOM,
    TOPICS,
    Bursts,
    ClassGain,
    HeavyTailedNoise,
    OutlierChannel,
    Rounding,
    TopicOffsets,
)
from .feature_plan import CIRCLE_FEATURES, STANDARD
from .planted_pair import PlantedPair

RARE, RAREST = 0.003, 0.0005
LOCAL_SHARE, LOCAL_DOCUMENT = 0.02, 64
NEAR_COSINES = (0.5, 0.85)
N_LATENTS = 128
ZIPF_LATENTS, ZIPF_RATIO = 64, 20
ONLY_SHARED = {"shared": 96}


@dataclass(frozen=True)
class Regime:
    """One way in which a pair of models differs."""

    description: str
    """How this regime differs from the standard one."""

    make: Callable[[int], PlantedPair]
    """Returns the pair for a seed."""

    n_latents: int | None = None
    """Latents of the dictionary, where the regime is about their number; None: as the data ask for (`training.recipe`)."""

    is_null: bool = False
    """Whether no feature changes, so that every label that claims a change of a feature is false. What differs is noise, or no
    more than an element of change that is none of a feature."""

    more_tokens: int = 1
    """How many times as many tokens the benchmark samples, where its usual number holds too little of what is planted."""


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
    "replaced": Regime(
        "eight features of the reference are replaced by others of the intervened model, at right angles and on the same tokens, every "
        "second one with magnitudes of its own",
        lambda seed: PlantedPair(seed, counts=_counts(replaced=8)),
    ),
    "unwritten": Regime(
        "16 features are not written on half of their tokens in the intervened model; they are reweighted, and not lost",
        lambda seed: PlantedPair(seed, counts=_counts(reweighted=16), unwritten=0.5),
    ),
    "near": Regime(
        f"new and lost features have cosines of {NEAR_COSINES[0]} to {NEAR_COSINES[1]} to a shared one",
        lambda seed: PlantedPair(seed, counts=_counts(shared=80), near=NEAR_COSINES),
    ),
    "local": Regime(
        f"new, lost and every fourth shared feature live in {100 * LOCAL_SHARE:g} % of the documents, of {LOCAL_DOCUMENT} tokens",
        lambda seed: PlantedPair(
            seed, counts=_counts(shared=80), local=LOCAL_SHARE, document_tokens=LOCAL_DOCUMENT
        ),
        more_tokens=4,
    ),
    "rarest": Regime(
        f"new and lost features fire on {100 * RAREST:g} % of the tokens",
        lambda seed: PlantedPair(seed, rare=RAREST),
        more_tokens=4,
    ),
    "zipf": Regime(
        f"{ZIPF_RATIO} features a latent in 64 dimensions, with firing rates by Zipf's law; 8 new and 8 lost ones are among the "
        f"{ZIPF_LATENTS} that fire most",
        lambda seed: PlantedPair(
            seed, d_model=64, counts=_counts(shared=ZIPF_RATIO * ZIPF_LATENTS - 16), zipf=True
        ),
        n_latents=ZIPF_LATENTS,
    ),
    "circles": Regime(
        f"four circles of {CIRCLE_FEATURES} features each, whose planes are turned by 60°: each of their features is rotated",
        lambda seed: PlantedPair(seed, counts=_counts(shared=48, rotated=4 * CIRCLE_FEATURES), circles=True),
    ),
    "class_gain": Regime(
        f"the intervened model's activations are multiplied by {CLASS_GAIN} on {100 * CLASS_SHARE:g} % of the tokens",
        lambda seed: PlantedPair(seed, counts=_counts(shared=80)).altered(ClassGain),
    ),
    "topic_offsets": Regime(
        f"each document has one of {TOPICS} topics, and each topic a constant vector of length {OFFSET_LENGTH:g} in the intervened model",
        lambda seed: PlantedPair(seed, counts=_counts(shared=80)).altered(TopicOffsets),
    ),
    "low_rank_1": Regime(
        "the intervened model's space is mapped by the identity plus a matrix of rank 1; no feature changes by itself",
        lambda seed: PlantedPair(seed, counts=ONLY_SHARED).mapped(1),
    ),
    "low_rank_4": Regime(
        "the same with a matrix of rank 4",
        lambda seed: PlantedPair(seed, counts=ONLY_SHARED).mapped(4),
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
    "null_bursts": Regime(
        f"{100 * BURST_SHARE:g} % of the intervened model's tokens carry a vector of length {BURST_LENGTH:g} within {BURST_DIMENSIONS} "
        "dimensions, in a direction that is new on every token",
        lambda seed: PlantedPair(seed, counts=ONLY_SHARED).altered(Bursts),
        is_null=True,
    ),
    "null_heavy_tails": Regime(
        f"the intervened model has additional Student t noise ({TAIL_FREEDOM} degrees of freedom) in {TAIL_DIMENSIONS} dimensions",
        lambda seed: PlantedPair(seed, counts=ONLY_SHARED).altered(HeavyTailedNoise),
        is_null=True,
    ),
    "null_rounding": Regime(
        f"both models have an outlier channel, and the intervened one is rounded to {ROUNDING_BITS} bits, token by token",
        lambda seed: (
            PlantedPair(seed, counts=ONLY_SHARED).altered(OutlierChannel, both=True).altered(Rounding)
        ),
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
