"""What each control of a run found, and what that means: one line per control, for the report and the page."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..labels.rule import CLAIMED
from ..tables.analysis_files import SAME_DIRECTION, AnalysisResults
from .phrases import Number, visible
from .wording import Sentence, say

_FALSE = "A latent labeled as changed there is a false positive."
_NULLS = {
    "drift": f"A null pair: two models that differ by as much, but in no feature. {_FALSE}",
    "intermittent": f"A null pair in which each token differs as much as in the real pair, in directions that repeat no feature. {_FALSE}",
}


class ControlResult(NamedTuple):
    """The result of one control."""

    name: str
    text: Sentence | None
    """What was found; None if not measured."""

    meaning: str
    """What the control compares, and how to read its result."""


def control_results(results: AnalysisResults) -> tuple[ControlResult, ...]:
    """Return the result of every control; those that were not trained are included as not measured."""
    features, controls = results.features, results.summary.get("controls") or {}
    identity, shuffled = controls.get("identity"), controls.get("shuffled")
    nulls = controls.get("nulls") or []
    if results.labels_undefined:
        # The models of these controls share no space either, so their latents have no labels. Those of the identity do.
        shuffled, nulls = None, []
    return (
        *_nulls(nulls),
        ControlResult(
            "identity",
            _identity(identity) if identity else None,
            "The reference compared with itself, after a brief training: any latent labeled as changed is a defect.",
        ),
        ControlResult(
            "shuffled",
            shuffled_found(shuffled) if shuffled else None,
            "Each token paired with a different token of the other model, after a brief training: nothing is shared, and the labels should show it.",
        ),
        ControlResult(
            "other trainings",
            stability(features, controls.get("seeds", 0)) if has(features, "seed_stability") else None,
            "The same training from other seeds, each on half of the training documents: what one training alone finds may be chance, so a label that "
            "claims a change has to be found again by all of them.",
        ),
        ControlResult(
            "diff-SAE",
            _difference(features, controls),
            "Another method, trained on the difference alone: what both find does not depend on the method.",
        ),
    )


def has(features: pd.DataFrame, column: str) -> bool:
    """Whether the table has the column, with any number in it."""
    return column in features and bool(features[column].notna().any())


def label_counts(control: dict[str, Any], labels: tuple[str, ...]) -> Sentence:
    """Return how many latents of a control have each of these labels."""
    *others, last = (f"{{{label}:,}} {label}" for label in labels)
    return say(
        f"{', '.join(others)} and {last} among {{alive:counted latent}} that fire",
        alive=control["alive"],
        **{label: control.get(label, 0) for label in labels},
    )


def one_sided(null: dict[str, Any]) -> Sentence | str:
    """Return which latents of a null count as false; empty if all do."""
    if null.get("replaced") is None:
        return ""
    return say(
        "; only latents that are stronger in the {replaced} count as false, each twice: the linear map does not carry features that only the other model has, "
        "so latents for those are correct",
        replaced="reference" if null["replaced"] == "reference" else "intervened model",
    )


def shuffled_found(control: dict[str, Any]) -> Sentence:
    """Return the labels of latents in a control in which nothing is shared."""
    alive = max(1, control["alive"])
    return say(
        "{shared:percent} of {alive:counted latent} that fire are called shared, {new_or_lost:percent} new or lost",
        shared=control.get("shared", 0) / alive,
        alive=control["alive"],
        new_or_lost=(control.get("new", 0) + control.get("lost", 0)) / alive,
    )


def stability(features: pd.DataFrame, n_seeds: int) -> Sentence:
    """Return the share of latents, and the number of those that this training alone would call changed, that all other trainings find again."""
    share = features["seed_stability"].to_numpy(dtype=float)
    known = np.isfinite(share) & (features["n_tokens"].to_numpy() > 0)
    again = known & (share == 1)
    claimed = known & np.isin(candidates(features), CLAIMED)
    with_label = (
        features["label_stability"].to_numpy(dtype=float, na_value=np.nan) == 1
        if has(features, "label_stability")
        else again
    )
    return say(
        "{found_again:percent} of {fire:counted latent} that fire are found again by {seeds}; so are, with the same label, "
        "{claimed_found_again:,} of the {claimed:,} that this training alone would call changed",
        fire=int(known.sum()),
        found_again=float(again.sum() / max(1, known.sum())),
        seeds="the other training"
        if n_seeds == 1
        else say("all {other_seeds} other trainings", other_seeds=n_seeds),
        claimed=int(claimed.sum()),
        claimed_found_again=int((claimed & with_label).sum()),
    )


def candidates(features: pd.DataFrame) -> np.ndarray:
    """Return the label that this training alone would give each latent; its label if that was not recorded."""
    return features["candidate" if "candidate" in features else "label"].to_numpy()


def agreement(features: pd.DataFrame, controls: dict[str, Any]) -> Sentence:
    """Return how many latents labeled as changed change along a direction of a reliable diff-SAE."""
    claimed = np.isin(features["label"].to_numpy(), CLAIMED)
    others = ~claimed & (features["n_tokens"].to_numpy() > 0)
    same = features["difference_cosine"].to_numpy(dtype=float) > SAME_DIRECTION
    return say(
        "{claimed_along:,} of the {claimed:,} latents labeled as changed do so along a direction of the diff-SAE (cosine above "
        "{same_direction:g}), compared with {others_along:percent} of the other latents; the diff-SAE {explained}",
        claimed_along=int((claimed & same).sum()),
        claimed=int(claimed.sum()),
        explained=_explained(controls),
        same_direction=SAME_DIRECTION,
        others_along=float((others & same).sum() / max(1, others.sum())),
    )


def why_unreliable(controls: dict[str, Any]) -> Sentence:
    """Return why a diff-SAE is not reliable."""
    return say(
        "the diff-SAE explains {fve:percent} of the difference, but {fve_mixed:percent} of a difference without structure, so its "
        "directions may be artifacts",
        **_explained_shares(controls),
    )


def _explained(controls: dict[str, Any]) -> Sentence:
    return say(
        "explains {fve:percent} of the difference ({fve_mixed:percent} of a difference without structure)",
        **_explained_shares(controls),
    )


def _explained_shares(controls: dict[str, Any]) -> dict[str, Number | None]:
    return {"fve": controls.get("difference_fve"), "fve_mixed": controls.get("difference_fve_mixed")}


def _nulls(nulls: list[dict[str, Any]]) -> Iterator[ControlResult]:
    named = "A change of no interest, named in the settings: a latent labeled as changed there is a false positive."
    trained = {null.get("name") for null in nulls}
    for name, meaning in _NULLS.items():
        if name not in trained:
            yield ControlResult(f"null: {name}", None, meaning)
    for null in nulls:
        name = str(null.get("name", "null"))
        found = say(
            "{counts}, by the rule alone, before q-values{one_sided}",
            counts=label_counts(null, CLAIMED),
            one_sided=one_sided(null),
        )
        yield ControlResult(f"null: {visible(name)}", found, _NULLS.get(name, named))


def _identity(control: dict[str, Any]) -> Sentence:
    found = sum(control.get(label, 0) for label in CLAIMED)
    return say(
        "{counts}: {verdict}",
        counts=label_counts(control, CLAIMED),
        verdict="some, so doubt the labels" if found else "none, as expected",
    )


def _difference(features: pd.DataFrame, controls: dict[str, Any]) -> Sentence | None:
    reliable = controls.get("difference_heard")
    if reliable is None:
        return None
    if not reliable:
        return say("not reliable: {why}", why=why_unreliable(controls))
    if has(features, "difference_cosine"):
        return say("reliable: {agreement}", agreement=agreement(features, controls))
    # Models of different width have no difference of directions to compare with it.
    return say("reliable: the diff-SAE {explained}", explained=_explained(controls))
