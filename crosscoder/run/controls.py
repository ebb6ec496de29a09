"""The controls of a run: their names, their folders, and the settings they are trained with.

    drift             null pair: differs as much as the real pair but in no feature (`activations.null_pair`). Its latents
                      labeled new or lost are false positives; q-values count them
    identity          the reference compared with itself at reduced precision (`activations.transforms`): nothing changed
    shuffled          each token of one model paired with a different token of the other: nothing is shared
    seed_N            the same pair with another seed: what another run with these settings would have found
    difference        a diff-SAE: whether another method finds the same directions
    difference_mixed  a diff-SAE on a difference with the same covariance but no sparse structure: how much a diff-SAE
                      explains by chance

In a run with snapshots, seeds read all models and the other controls only the reference and the intervened model. No control
uses a warm start.

`identity` and `shuffled` check that the pipeline can find nothing and everything; they estimate no rate, so a brief training
is enough.
"""

import math
from pathlib import Path
from typing import Literal, NamedTuple

from ..config import BatchTopK, ControlsConfig, FileActivations, RunConfig, TopK, WandbConfig

Kind = Literal["drift", "identity", "shuffled", "seed", "difference", "difference_mixed"]

BRIEF = 0.1
"""Training tokens of `identity` and `shuffled`, as a share of the run's."""

# Divides k for a diff-SAE: it reads only what changed, so fewer latents fire on a token.
_DIFFERENCE_K = 4


class Control(NamedTuple):
    """One control dictionary of a run."""

    name: str
    """Name of its folder under RUN/controls."""

    kind: Kind
    config: RunConfig
    """The run's settings, with the changes that define the control."""


def _without_snapshots(config: RunConfig) -> RunConfig:
    """Return the settings without snapshots."""
    part = "activations" if isinstance(config.activations, FileActivations) else "pair"
    block = getattr(config, part)
    return config.model_copy(update={part: block.model_copy(update={"snapshots": ()})})


def controls_of(config: RunConfig, run: Path) -> list[Control]:
    """Return the controls that the settings of the run at `run` enable; none unless its view is paired."""
    enabled, found = config.controls, []
    if config.crosscoder.reads != "paired":
        return []
    if enabled.drift:
        found.append(_control("drift", "drift", config, run))
    brief = config.training.model_copy(update={"n_tokens": math.ceil(BRIEF * config.training.n_tokens)})
    if enabled.identity:
        found.append(_control("identity", "identity", config, run, training=brief))
    if enabled.shuffled:
        found.append(_control("shuffled", "shuffled", config, run, training=brief))
    found += [
        _control(f"seed_{number}", "seed", config, run, seed=config.seed + number)
        for number in range(1, enabled.seeds + 1)
    ]
    if enabled.difference:
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
    config = config if kind == "seed" else _without_snapshots(config)
    fresh = config.training.model_copy(update={"start_from": None})
    return Control(name, kind, control_config(config, run / "controls" / name, training=fresh))


def control_config(config: RunConfig, output: Path, **changes: object) -> RunConfig:
    """Return the settings of a control: the run's with `changes`, without controls and without wandb."""
    controls = ControlsConfig(drift=False, identity=False, shuffled=False)
    return config.model_copy(
        update={"output": output, "controls": controls, "wandb": WandbConfig(), **changes}
    )
