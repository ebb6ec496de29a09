"""The recipe: how large a dictionary is and how long it is trained, where the settings leave that open.

The rule chooses from three numbers: the width d of a model, the number N of distinct training tokens, and what the settings do give.

    n_latents       the power of two next to √(d · N / TOKENS_PER_LATENT)
    batch_tokens    the power of two next to BATCH_SCALE · √n_latents, between SMALLEST_BATCH and LARGEST_BATCH
    n_tokens        LEAST_STEPS batches, and at least one pass over the data
    lr              RATE_SCALE / √n_latents
    auxiliary       k = d / 2 (Gao et al. 2024, appendix A.2); dead after DEAD_AFTER_STEPS steps without firing

The rate falls with the root of the width, as in the trainers of Gao et al. 2024, whose constant is for ten times as many steps. The
constants were chosen on planted pairs and on a real pair (docs/stability.md). k is not chosen here: `sweep.brief_sweep` does that.

The chosen values are written to RUN/config.yaml before training, and hold for the rest of the run: its controls, a resumed training,
the analysis.
"""

import math
from typing import NamedTuple

from crosscoder.config import BatchTopK, RunConfig, TopK
from crosscoder.config.introspection import Place
from crosscoder.config.open_settings import chosen, with_value

TOKENS_PER_LATENT = 100
"""Distinct training tokens per latent, in the geometric mean of N / TOKENS_PER_LATENT and d. Where data are few, so are the latents: the
ratio of latents to dimensions grows with the root of the tokens per dimension."""

SMALLEST_DICTIONARY = 64
"""Latents, at least."""

LATENTS_PER_FIRING = 4
"""Latents, at least, as a multiple of those that fire on a token."""

BATCH_SCALE = 16
SMALLEST_BATCH, LARGEST_BATCH = 256, 8192

LEAST_STEPS = 6000
"""Training steps, at least."""

RATE_SCALE = 0.0566
"""Learning rate times the root of the number of latents: 5e-3 at 128 latents, 4.4e-4 at 16,384."""

DEAD_AFTER_STEPS = 200
"""A latent counts as dead after so many steps without firing."""


LARGEST_K = 320
"""The largest k that a brief sweep tries: published dictionaries for models of up to 8 billion parameters have 32 to 200."""

LONGEST_CHAIN = 8
"""Values of k in a brief sweep, at most."""


BRIEF_SHARE = 0.5
"""Tokens of the first training of a brief sweep, as a share of the run's; at most those of this share of `LEAST_STEPS` steps."""

FURTHER_SHARE = 0.25
"""Tokens of the training at each further k, as a share of those at the first, in a sweep."""


class Choice(NamedTuple):
    """One setting that the rule chose."""

    place: Place
    """Where it stands in the settings."""

    value: int | float
    why: str
    """The rule, with its numbers."""

    def __str__(self) -> str:
        value = f"{self.value:,}" if isinstance(self.value, int) else f"{self.value:.2g}"
        return f"{'.'.join(self.place)} {value} ({self.why})"


def choices(config: RunConfig, d_models: tuple[int, ...], n_train_tokens: int) -> list[Choice]:
    """Choose every setting of the size and length of the training that `config` leaves open, except k.

    Args:
        d_models: Width of each model.
        n_train_tokens: Distinct training tokens.
    """
    training, auxiliary = config.training, config.training.auxiliary
    found: list[Choice] = []

    def choose(place: Place, given: int | float | None, value: int | float, why: str) -> int | float:
        if given is not None:
            return given
        found.append(Choice(place, value, why))
        return value

    n_latents = choose(
        ("crosscoder", "n_latents"),
        config.crosscoder.n_latents,
        *_n_latents(d_models, n_train_tokens, _k(config)),
    )
    batch = choose(
        ("training", "batch_tokens"),
        training.batch_tokens,
        _between(SMALLEST_BATCH, _power_of_two(BATCH_SCALE * math.sqrt(n_latents)), LARGEST_BATCH),
        f"power of two next to {BATCH_SCALE} · √{n_latents}, from {SMALLEST_BATCH} to {LARGEST_BATCH:,}",
    )
    passes = max(LEAST_STEPS * int(batch), n_train_tokens)
    choose(
        ("training", "n_tokens"),
        training.n_tokens,
        passes,
        f"{LEAST_STEPS:,} steps of {batch:,}, or one pass over {n_train_tokens:,} tokens: {passes / n_train_tokens:.1f} passes",
    )
    choose(
        ("training", "lr"),
        training.lr,
        float(f"{RATE_SCALE / math.sqrt(n_latents):.2g}"),
        f"{RATE_SCALE} / √{n_latents}",
    )
    choose(
        ("training", "auxiliary", "k"),
        auxiliary.k,
        max(1, min(d_models) // 2),
        f"half of the width {min(d_models):,}",
    )
    choose(
        ("training", "auxiliary", "dead_after_tokens"),
        auxiliary.dead_after_tokens,
        DEAD_AFTER_STEPS * int(batch),
        f"{DEAD_AFTER_STEPS} steps",
    )
    return found


def with_chosen(config: RunConfig, found: list[Choice]) -> RunConfig:
    """Return the settings with the choices filled in."""
    for choice in found:
        config = with_value(config, choice.place, choice.value)
    return config


def resolved(config: RunConfig, d_models: tuple[int, ...], n_train_tokens: int) -> RunConfig:
    """Return the settings with everything chosen that `choices` chooses. Only a k that is open stays open."""
    return with_chosen(config, choices(config, d_models, n_train_tokens))


def k_is_open(config: RunConfig) -> bool:
    """Whether the dictionary needs a k that is not chosen yet."""
    sparsity = config.crosscoder.sparsity
    return isinstance(sparsity, BatchTopK | TopK) and sparsity.k is None


def with_k(config: RunConfig, k: int) -> RunConfig:
    """Return the settings with this k."""
    return with_value(config, ("crosscoder", "sparsity", "k"), k)


def candidate_ks(config: RunConfig, d_models: tuple[int, ...]) -> tuple[int, ...]:
    """The values of k that a brief sweep tries, in descending order: from a quarter of the width, and at most `LARGEST_K`, each two
    thirds of the one before.

    A diff-SAE begins at half of that, since fewer features changed than fire.
    """
    n_latents = chosen(config.crosscoder.n_latents, "crosscoder.n_latents")
    largest = min(min(d_models) / 4, LARGEST_K) / (2 if config.crosscoder.reads == "difference" else 1)
    ks: list[int] = []
    k = min(largest, n_latents / LATENTS_PER_FIRING)
    while k >= 1 and len(ks) < LONGEST_CHAIN:
        ks.append(max(1, round(k)))
        k /= 1.5
    return tuple(dict.fromkeys(ks)) or (1,)


def brief_config(config: RunConfig) -> RunConfig:
    """Return the settings of the first training of a brief sweep."""
    training = config.training
    batch = chosen(training.batch_tokens, "training.batch_tokens")
    n_tokens = BRIEF_SHARE * min(chosen(training.n_tokens, "training.n_tokens"), LEAST_STEPS * batch)
    short = training.model_copy(update={"n_tokens": math.ceil(n_tokens), "start_from": None})
    return config.model_copy(update={"training": short})


def brief_sweep_share(config: RunConfig, d_models: tuple[int, ...]) -> float:
    """Training tokens of a brief sweep, if no k ends it, as a share of the run's."""
    first = chosen(brief_config(config).training.n_tokens, "training.n_tokens")
    further = len(candidate_ks(config, d_models)) - 1
    return first * (1 + FURTHER_SHARE * further) / chosen(config.training.n_tokens, "training.n_tokens")


def k_of_width(d_models: tuple[int, ...]) -> int:
    """The k to take where no sweep can choose one: an eighth of the width, up to 128."""
    return max(1, min(min(d_models) // 8, 128))


def _n_latents(d_models: tuple[int, ...], n_train_tokens: int, k: int) -> tuple[int, str]:
    width = max(d_models)
    n_latents = max(SMALLEST_DICTIONARY, _power_of_two(math.sqrt(width * n_train_tokens / TOKENS_PER_LATENT)))
    while n_latents < LATENTS_PER_FIRING * k:
        n_latents *= 2
    why = f"power of two next to √({width:,} dimensions · {n_train_tokens:,} tokens / {TOKENS_PER_LATENT})"
    return n_latents, why + (f", at least {LATENTS_PER_FIRING} times k {k}" if k else "")


def _k(config: RunConfig) -> int:
    return getattr(config.crosscoder.sparsity, "k", None) or 0


def _power_of_two(value: float) -> int:
    """The power of two that is next to `value`, in ratio; the smaller one halfway between two."""
    return 2 ** max(0, math.ceil(math.log2(max(1.0, value)) - 0.5))


def _between(least: int, value: int, most: int) -> int:
    return max(least, min(value, most))
