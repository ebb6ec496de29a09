"""Which other dictionaries a run has beside its own, where they lie, and with which settings they are trained.

    drift             a null: a pair that differs as much and in no feature (`drift`). What is called new or lost there, is
                      called so for nothing; q-values count it
    identity          the reference against itself in coarser numbers (`changes`): nothing changed
    shuffled          tokens of one model beside other tokens of the other: nothing is shared
    seed_N            the same pair from another seed: what another run of the recipe would have found
    difference        a diff-SAE: whether another method finds the same directions
    difference_mixed  a diff-SAE on a difference of the same covariance without sparse structure: what a diff-SAE explains of
                      nothing

Of a run with snapshots, seeds read all models and the others its two ends; all begin afresh, whatever the run begins from.

`identity` and `shuffled` check that the pipeline can say "nothing" and "everything", not a rate, and are trained briefly.
"""

import math
from pathlib import Path
from typing import Literal, NamedTuple

from ..config import BatchTopK, ControlsConfig, FileActivations, RunConfig, TopK, WandbConfig

Kind = Literal["drift", "identity", "shuffled", "seed", "difference", "difference_mixed"]

BRIEF = 0.1
"""Length of the training of `identity` and `shuffled`, as a share of the run's own."""

# A diff-SAE sees only what changed, so fewer latents fire on a token.
_DIFFERENCE_K = 4


class Control(NamedTuple):
    """Another dictionary of a run."""

    name: str
    """Of its folder under RUN/controls."""

    kind: Kind
    config: RunConfig
    """The run's own settings but for what makes the control."""


def _with_ends_alone(config: RunConfig) -> RunConfig:
    """The same settings without snapshots."""
    part = "activations" if isinstance(config.activations, FileActivations) else "pair"
    block = getattr(config, part)
    return config.model_copy(update={part: block.model_copy(update={"snapshots": ()})})


def controls_of(config: RunConfig, run: Path) -> list[Control]:
    """The controls that the settings of the run at `run` ask for. Models of a dictionary that is not paired have none."""
    asked, found = config.controls, []
    if config.crosscoder.reads != "paired":
        return []
    if asked.drift:
        found.append(_control("drift", "drift", config, run))
    brief = config.training.model_copy(update={"n_tokens": math.ceil(BRIEF * config.training.n_tokens)})
    if asked.identity:
        found.append(_control("identity", "identity", config, run, training=brief))
    if asked.shuffled:
        found.append(_control("shuffled", "shuffled", config, run, training=brief))
    found += [
        _control(f"seed_{number}", "seed", config, run, seed=config.seed + number)
        for number in range(1, asked.seeds + 1)
    ]
    if asked.difference:
        sparsity = config.crosscoder.sparsity
        if isinstance(sparsity, BatchTopK | TopK):
            sparsity = sparsity.model_copy(update={"k": max(1, sparsity.k // _DIFFERENCE_K)})
        changes = {
            "crosscoder": config.crosscoder.model_copy(
                update={"reads": "difference", "sparsity": sparsity, "exclusive": 0.0, "tied": 0.0}
            ),
            "training": config.training.model_copy(update={"difference_weight": None}),
        }
        found.append(_control("difference", "difference", config, run, **changes))
        found.append(_control("difference_mixed", "difference_mixed", config, run, **changes))
    return found


def _control(name: str, kind: Kind, config: RunConfig, run: Path, **changes: object) -> Control:
    config = config.model_copy(update=changes)
    config = config if kind == "seed" else _with_ends_alone(config)
    fresh = config.training.model_copy(update={"start_from": None})
    return Control(name, kind, control_config(config, run / "controls" / name, training=fresh))


def control_config(config: RunConfig, output: Path, **changes: object) -> RunConfig:
    """Settings of another dictionary of a run: its own but for `changes`, without controls, and not told to wandb."""
    controls = ControlsConfig(drift=False, identity=False, shuffled=False)
    return config.model_copy(
        update={"output": output, "controls": controls, "wandb": WandbConfig(), **changes}
    )
