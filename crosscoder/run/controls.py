"""The controls of a run: their names, their folders, and the settings they are trained with.

    drift             null pair: differs as much as the real pair but in no feature (`activations.null_pair`). Its latents that meet
                      the label rule are false positives; q-values count them
    intermittent      the same, but each token differs as much as in the real pair, so that what is rare and large stays so
    identity          the reference compared with itself at reduced precision (`activations.transforms`): nothing changed
    shuffled          each token of one model paired with a different token of the other: nothing is shared
    seed_N            the same pair with another seed and half of the training documents, the other half for every other N: what an
                      independent training finds. A claim of change has to be found again by all of them
    difference        a diff-SAE: whether another method finds the same directions
    difference_mixed  a diff-SAE on a difference with the same covariance but no sparse structure: how much a diff-SAE
                      explains by chance

In a run with snapshots, seeds read all models and the other controls only the reference and the intervened model. No control
uses a warm start.

`identity` and `shuffled` check that the pipeline can find nothing and everything; they estimate no rate, so a brief training
is enough, as long as it is no shorter than `BRIEF_STEPS`: an undertrained dictionary calls everything shared, because both of its decoders
begin equal.
"""

import math
from pathlib import Path
from typing import Literal, NamedTuple

from ..config import (
    BatchTopK,
    ControlsConfig,
    FileActivations,
    RunConfig,
    TopK,
    TrainingConfig,
    WandbConfig,
)
from ..config.open_settings import chosen

Kind = Literal["drift", "intermittent", "identity", "shuffled", "seed", "difference", "difference_mixed"]
NULLS: tuple[Kind, ...] = ("drift", "intermittent")
BRIEFLY_TRAINED: tuple[Kind, ...] = ("identity", "shuffled")

BRIEF = 0.1
"""Training tokens of `identity` and `shuffled`, as a share of the run's."""

BRIEF_STEPS = 1000
"""Least training steps of `identity` and `shuffled`, or those of the run if these are fewer."""

# Divides k for a diff-SAE: it reads only what changed, so fewer latents fire on a token.
_DIFFERENCE_K = 4


class Control(NamedTuple):
    """One control dictionary of a run."""

    name: str
    """Name of its folder under RUN/controls."""

    kind: Kind
    config: RunConfig
    """The run's settings, with the changes that define the control."""

    half: int | None = None
    """Half of the training documents that it reads (`TokenSource.half`); None: all."""


def _without_snapshots(config: RunConfig) -> RunConfig:
    """Return the settings without snapshots."""
    part = "activations" if isinstance(config.activations, FileActivations) else "pair"
    block = getattr(config, part)
    return config.model_copy(update={part: block.model_copy(update={"snapshots": ()})})


def controls_of(config: RunConfig, run: Path) -> list[Control]:
    """Return the controls that the settings of the run at `run` enable: all for a crosscoder, only seeds for a shared-dictionary SAE, and none
    for a diff-SAE. A dictionary that was loaded has none, because each would be another training like its own."""
    if config.crosscoder.load is not None:
        return []
    enabled, reads = config.controls, config.crosscoder.reads
    # A diff-SAE labels nothing, so there is nothing to find again.
    seeds = (
        [_replica(number, config, run) for number in range(1, enabled.seeds + 1)]
        if reads != "difference"
        else []
    )
    if reads != "paired":
        return seeds
    found = [_control(kind, kind, config, run) for kind in NULLS if getattr(enabled, kind)]
    found += [
        _control(kind, kind, config, run, training=_brief(config.training))
        for kind in BRIEFLY_TRAINED
        if getattr(enabled, kind)
    ]
    found += seeds
    if enabled.difference:
        sparsity = config.crosscoder.sparsity
        if isinstance(sparsity, BatchTopK | TopK):
            sparsity = sparsity.model_copy(
                update={"k": max(1, chosen(sparsity.k, "crosscoder.sparsity.k") // _DIFFERENCE_K)}
            )
        changes = {
            "crosscoder": config.crosscoder.model_copy(
                update={"reads": "difference", "sparsity": sparsity, "exclusive": 0.0, "tied": 0.0}
            ),
            "training": config.training.model_copy(update={"difference_weight": None}),
        }
        found.append(_control("difference", "difference", config, run, **changes))
        found.append(_control("difference_mixed", "difference_mixed", config, run, **changes))
    return found


def not_available(config: RunConfig) -> list[str]:
    """Return the names of the enabled controls that a run cannot have because its dictionary was loaded."""
    if config.crosscoder.load is None:
        return []
    names = [name for name in (*NULLS, *BRIEFLY_TRAINED, "difference") if getattr(config.controls, name)]
    return names + [f"seed_{number}" for number in range(1, config.controls.seeds + 1)]


def _replica(number: int, config: RunConfig, run: Path) -> Control:
    """Return the control `seed_N`, which reads half of the training documents, twice as often as the run reads them."""
    return _control(f"seed_{number}", "seed", config, run, seed=config.seed + number)._replace(
        half=(number - 1) % 2
    )


def _brief(training: TrainingConfig) -> TrainingConfig:
    """Return the settings of a brief training."""
    n_tokens = chosen(training.n_tokens, "training.n_tokens")
    least = min(n_tokens, BRIEF_STEPS * chosen(training.batch_tokens, "training.batch_tokens"))
    return training.model_copy(update={"n_tokens": max(least, math.ceil(BRIEF * n_tokens))})


def _control(name: str, kind: Kind, config: RunConfig, run: Path, **changes: object) -> Control:
    config = config.model_copy(update=changes)
    config = config if kind == "seed" else _without_snapshots(config)
    fresh = config.training.model_copy(update={"start_from": None})
    return Control(name, kind, control_config(config, run / "controls" / name, training=fresh))


def control_config(config: RunConfig, output: Path, **changes: object) -> RunConfig:
    """Return the settings of a control: the run's with `changes`, without controls and without wandb."""
    return config.model_copy(
        update={"output": output, "controls": ControlsConfig.none(), "wandb": WandbConfig(), **changes}
    )
