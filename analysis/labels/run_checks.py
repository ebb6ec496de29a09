"""Whether a run is fit to be labeled: what the dictionary reconstructs, and whether its brief controls came out as they must.

A label describes what the dictionary sees. An undertrained one sees little, and calls everything shared, because both of its decoders begin
equal. So every condition has a verdict, and a run that misses one labels nothing and says first what to change. A condition that could not be
checked (a control that was not trained, or models that share no space) has no verdict and withholds nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from crosscoder.config import Conditions

from .controls import ComparedDictionary, Controls
from .rule import CLAIMED

Fve = Mapping[str, float | None]
"""Fraction of variance explained of `reference` and `intervened`; None if the dictionary does not reconstruct it."""


class Reconstruction(NamedTuple):
    """How well the run's dictionary reconstructs held-out tokens, and with how many latents."""

    fve: Fve
    l0: float
    l0_target: float | None
    """None: the dictionary was trained elsewhere, for a target that is not known."""


@dataclass(frozen=True)
class RunCheck:
    """The verdict of one condition."""

    name: str
    passed: bool | None
    """None: not checked."""
    found: float | None
    limit: float
    advice: str
    """What was found and what to change, in one sentence; for a condition that failed."""

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of summary.json."""
        return asdict(self)


def check_run(found: Reconstruction, controls: Controls, conditions: Conditions) -> tuple[RunCheck, ...]:
    """Return the verdict of every condition."""
    return (
        *_variance_explained(found.fve, conditions),
        _sparsity(found, conditions),
        *_controls(found.fve, controls, conditions),
    )


def withheld(checks: tuple[RunCheck, ...]) -> str | None:
    """Return why nothing is labeled: the advice of every condition that failed; None if none did."""
    failed = [check.advice for check in checks if check.passed is False]
    return "; ".join(failed) or None


def _variance_explained(fve: Fve, conditions: Conditions) -> Iterator[RunCheck]:
    for model in ("reference", "intervened"):
        found = fve[model]
        yield RunCheck(
            f"fve_{model}",
            None if found is None else found >= conditions.fve,
            found,
            conditions.fve,
            f"the dictionary explains {_percent(found)} of the variance of the {model}{' model' * (model != 'reference')}, less than "
            f"{_percent(conditions.fve)}: train longer (training.n_tokens), or raise k or crosscoder.n_latents",
        )


def _sparsity(found: Reconstruction, conditions: Conditions) -> RunCheck:
    deviation = None if found.l0_target is None else abs(found.l0 / found.l0_target - 1)
    return RunCheck(
        "l0",
        None if deviation is None else deviation <= conditions.l0_deviation,
        deviation,
        conditions.l0_deviation,
        f"{found.l0:.1f} latents fire on a held-out token, not the {found.l0_target or 0:g} that were asked for: train longer (training.n_tokens), or give more text",
    )


def _controls(fve: Fve, controls: Controls, conditions: Conditions) -> Iterator[RunCheck]:
    run = max((value for value in _of_models(fve) if value is not None), default=None)
    for null in controls.nulls:
        yield _trained(null, run, conditions.null_fve_gap)
    if controls.identity is not None:
        yield _trained(controls.identity, run, conditions.identity_fve_gap)
        changed = sum(controls.identity.counts[label] for label in CLAIMED) / max(
            1, controls.identity.n_alive
        )
        yield RunCheck(
            "identity_unchanged",
            changed <= conditions.identity_changed,
            changed,
            conditions.identity_changed,
            f"of the reference compared with itself, {_percent(changed)} of the latents are called changed: the pipeline finds changes where there "
            "are none; train longer (training.n_tokens)",
        )
    shuffled = controls.shuffled
    if shuffled is not None and shuffled.features.evidence is not None:
        shared = shuffled.counts["shared"] / max(1, shuffled.n_alive)
        yield RunCheck(
            "shuffled_parted",
            shared <= conditions.shuffled_shared,
            shared,
            conditions.shuffled_shared,
            f"of pairs of unrelated tokens, which share nothing, {_percent(shared)} of the latents are called shared (at most "
            f"{_percent(conditions.shuffled_shared)}), as at the start of training, when both decoders are equal: train longer "
            "(training.n_tokens)",
        )


def _trained(control: ComparedDictionary, run: float | None, gap: float) -> RunCheck:
    """Check that a control explains about as much as the run does; the models with the better reconstruction count."""
    found = max((value for value in _of_models(control.fve) if value is not None), default=None)
    return RunCheck(
        f"{control.name}_trained",
        None if found is None or run is None else found >= run - gap,
        found,
        run - gap if run is not None else 0.0,
        f"the control {control.name} explains {_percent(found)} of the variance, far less than the run ({_percent(run)}), so it shows nothing: "
        "train longer (training.n_tokens)",
    )


def _of_models(fve: Fve) -> tuple[float | None, float | None]:
    return fve.get("reference"), fve.get("intervened")


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{100 * share:.3g} %"
