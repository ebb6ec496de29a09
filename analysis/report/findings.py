"""What each control of a run found, a line each, with what it means: for the report and for the page."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..results import SAME_DIRECTION, AnalysisResults
from .phrases import counted, percent, visible

CLAIMED = ("new", "lost", "rotated", "rescaled")
"""Labels that say something changed, and that a control can find where nothing did."""


class Finding(NamedTuple):
    """One thing that a claim can be checked with."""

    name: str
    text: str | None
    """What was found; None: not measured."""

    meaning: str
    """What it is about."""


def control_findings(results: AnalysisResults) -> tuple[Finding, ...]:
    """Every control in the order in which it is doubted; those that were not trained, too."""
    features, controls = results.features, results.summary.get("controls") or {}
    identity, shuffled = controls.get("identity"), controls.get("shuffled")
    return (
        *_nulls(controls.get("nulls") or []),
        Finding(
            "identity",
            _identity(identity) if identity else None,
            "The reference beside itself, trained briefly: anything found is a defect.",
        ),
        Finding(
            "shuffled",
            shuffled_found(shuffled) if shuffled else None,
            "No token beside its own, trained briefly: nothing is shared, and labels should say so.",
        ),
        Finding(
            "other seeds",
            stability(features, controls.get("seeds", 0)) if has(features, "seed_stability") else None,
            "The same training from another seed: what only one of them finds may be chance.",
        ),
        Finding(
            "diff-SAE",
            _difference(features, controls),
            "Another method, on the difference alone: what both find does not depend on the method.",
        ),
    )


def has(features: pd.DataFrame, column: str) -> bool:
    """Whether a column holds any number."""
    return column in features and bool(features[column].notna().any())


def claims(control: dict[str, Any], labels: tuple[str, ...]) -> str:
    """How many latents of a control bear each of these labels."""
    numbers = [f"{control.get(label, 0):,} {label}" for label in labels]
    return f"{', '.join(numbers[:-1])} and {numbers[-1]} among {counted(control['alive'], 'latent')}"


def shuffled_found(control: dict[str, Any]) -> str:
    """Which labels latents have where nothing is shared."""
    alive = max(1, control["alive"])
    return (
        f"{percent(control.get('shared', 0) / alive)} of {counted(control['alive'], 'latent')} that fire are called shared, "
        f"{percent((control.get('new', 0) + control.get('lost', 0)) / alive)} new or lost"
    )


def stability(features: pd.DataFrame, n_seeds: int) -> str:
    """How many latents, and how many claimed ones, all other seeds found again."""
    share = features["seed_stability"].to_numpy(dtype=float)
    known = np.isfinite(share) & (features["n_tokens"].to_numpy() > 0)
    again = known & (share == 1)
    claimed = known & np.isin(features["label"].to_numpy(), CLAIMED)
    return (
        f"of {counted(int(known.sum()), 'latent')} that fire, {percent(float(again.sum() / max(1, known.sum())))} are found again by "
        f"{'the other seed' if n_seeds == 1 else f'all {n_seeds} other seeds'}; of the {int(claimed.sum()):,} that are new, lost, "
        f"rotated or rescaled, {int((claimed & again).sum()):,}"
    )


def agreement(features: pd.DataFrame, controls: dict[str, Any]) -> str:
    """How many claimed latents change along a direction of a diff-SAE that is to be believed."""
    explained, mixed = controls.get("difference_fve"), controls.get("difference_fve_mixed")
    claimed = np.isin(features["label"].to_numpy(), CLAIMED)
    others = ~claimed & (features["n_tokens"].to_numpy() > 0)
    same = features["difference_cosine"].to_numpy(dtype=float) > SAME_DIRECTION
    return (
        f"{int((claimed & same).sum()):,} of the {int(claimed.sum()):,} latents that are new, lost, rotated or rescaled change along "
        f"a direction of the diff-SAE, which explains {percent(explained)} of the difference ({percent(mixed)} of one without "
        f"structure); cosine above {SAME_DIRECTION:g}; of the other latents {percent(float((others & same).sum() / max(1, others.sum())))}"
    )


def disbelief(controls: dict[str, Any]) -> str:
    """Why a diff-SAE is not to be believed."""
    explained, mixed = controls.get("difference_fve"), controls.get("difference_fve_mixed")
    return (
        f"the diff-SAE explains {percent(explained)} of the difference, and as much as {percent(mixed)} of one "
        "without structure, so its directions may be invented"
    )


def _nulls(nulls: list[dict[str, Any]]) -> Iterator[Finding]:
    """Only new and lost: what is linear in the real change stays in a drift, so what turned or grew there did so indeed."""
    drift = "It differs as much and in no feature: what is new or lost there, is so from nothing."
    named = "A change of no interest, named in the settings: new or lost there is so from nothing."
    if not any(null.get("name") == "drift" for null in nulls):
        yield Finding("null: drift", None, drift)
    for null in nulls:
        name = str(null.get("name", "null"))
        found = f"{claims(null, ('new', 'lost'))}, by the rule alone, before q-values"
        yield Finding(f"null: {visible(name)}", found, drift if name == "drift" else named)


def _identity(control: dict[str, Any]) -> str:
    found = sum(control.get(label, 0) for label in CLAIMED)
    return f"{claims(control, CLAIMED)}: {'something, so doubt the labels' if found else 'nothing, as it should be'}"


def _difference(features: pd.DataFrame, controls: dict[str, Any]) -> str | None:
    heard = controls.get("difference_heard")
    if heard is None:
        return None
    if not heard:
        return f"not to be believed: {disbelief(controls)}"
    if has(features, "difference_cosine"):
        return f"to be believed: {agreement(features, controls)}"
    # Models of different width have no difference of directions: then it explains, and nothing is compared with it.
    explained, mixed = (percent(controls.get(name)) for name in ("difference_fve", "difference_fve_mixed"))
    return f"to be believed: the diff-SAE explains {explained} of the difference ({mixed} of one without structure)"
