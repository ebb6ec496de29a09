"""What each control of a run found, a line each, with what it means: for the report and for the page."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..labels.rule import CLAIMED
from ..tables.analysis_files import SAME_DIRECTION, AnalysisResults
from .phrases import Number, visible
from .wording import Sentence, say


class Finding(NamedTuple):
    """One thing that a claim can be checked with."""

    name: str
    text: Sentence | None
    """What was found; None: not measured."""

    meaning: str
    """What it is about."""


def control_findings(results: AnalysisResults) -> tuple[Finding, ...]:
    """Every control in the order in which it is doubted; those that were not trained, too."""
    features, controls = results.features, results.summary.get("controls") or {}
    identity, shuffled = controls.get("identity"), controls.get("shuffled")
    nulls = controls.get("nulls") or []
    if results.labels_undefined:
        # Their models share no space either, so that nothing could be called new, lost or shared. The identity's do not.
        shuffled, nulls = None, []
    return (
        *_nulls(nulls),
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


def claims(control: dict[str, Any], labels: tuple[str, ...]) -> Sentence:
    """How many latents of a control bear each of these labels."""
    *others, last = (f"{{{label}:,}} {label}" for label in labels)
    return say(
        f"{', '.join(others)} and {last} among {{alive:counted latent}}",
        alive=control["alive"],
        **{label: control.get(label, 0) for label in labels},
    )


def one_sided(null: dict[str, Any]) -> Sentence | str:
    """Which latents of a null count, where not all do."""
    if null.get("replaced") is None:
        return ""
    return say(
        "; of them only those of the {replaced} count, twice: what the other model alone has is no artifact, as the map between the two "
        "leads it nowhere",
        replaced="reference" if null["replaced"] == "reference" else "intervened model",
    )


def shuffled_found(control: dict[str, Any]) -> Sentence:
    """Which labels latents have where nothing is shared."""
    alive = max(1, control["alive"])
    return say(
        "{shared:percent} of {alive:counted latent} that fire are called shared, {new_or_lost:percent} new or lost",
        shared=control.get("shared", 0) / alive,
        alive=control["alive"],
        new_or_lost=(control.get("new", 0) + control.get("lost", 0)) / alive,
    )


def stability(features: pd.DataFrame, n_seeds: int) -> Sentence:
    """How many latents, and how many claimed ones, all other seeds found again."""
    share = features["seed_stability"].to_numpy(dtype=float)
    known = np.isfinite(share) & (features["n_tokens"].to_numpy() > 0)
    again = known & (share == 1)
    claimed = known & np.isin(features["label"].to_numpy(), CLAIMED)
    return say(
        "of {fire:counted latent} that fire, {found_again:percent} are found again by {seeds}; of the {claimed:,} that are claimed "
        "to have changed, {claimed_found_again:,}",
        fire=int(known.sum()),
        found_again=float(again.sum() / max(1, known.sum())),
        seeds="the other seed" if n_seeds == 1 else say("all {other_seeds} other seeds", other_seeds=n_seeds),
        claimed=int(claimed.sum()),
        claimed_found_again=int((claimed & again).sum()),
    )


def agreement(features: pd.DataFrame, controls: dict[str, Any]) -> Sentence:
    """How many claimed latents change along a direction of a diff-SAE that is to be believed."""
    claimed = np.isin(features["label"].to_numpy(), CLAIMED)
    others = ~claimed & (features["n_tokens"].to_numpy() > 0)
    same = features["difference_cosine"].to_numpy(dtype=float) > SAME_DIRECTION
    return say(
        "{claimed_along:,} of the {claimed:,} latents that are claimed to have changed do so along a direction of the "
        "diff-SAE, which {explained}; cosine above {same_direction:g}; of the other latents {others_along:percent}",
        claimed_along=int((claimed & same).sum()),
        claimed=int(claimed.sum()),
        explained=_explained(controls),
        same_direction=SAME_DIRECTION,
        others_along=float((others & same).sum() / max(1, others.sum())),
    )


def disbelief(controls: dict[str, Any]) -> Sentence:
    """Why a diff-SAE is not to be believed."""
    return say(
        "the diff-SAE explains {fve:percent} of the difference, and as much as {fve_mixed:percent} of one without structure, so its "
        "directions may be invented",
        **_rebuilt(controls),
    )


def _explained(controls: dict[str, Any]) -> Sentence:
    return say(
        "explains {fve:percent} of the difference ({fve_mixed:percent} of one without structure)",
        **_rebuilt(controls),
    )


def _rebuilt(controls: dict[str, Any]) -> dict[str, Number | None]:
    return {"fve": controls.get("difference_fve"), "fve_mixed": controls.get("difference_fve_mixed")}


def _nulls(nulls: list[dict[str, Any]]) -> Iterator[Finding]:
    drift = "It differs as much and in no feature: what is claimed to have changed there, has done so from nothing."
    named = "A change of no interest, named in the settings: what is claimed to have changed there, has done so from nothing."
    if not any(null.get("name") == "drift" for null in nulls):
        yield Finding("null: drift", None, drift)
    for null in nulls:
        name = str(null.get("name", "null"))
        found = say(
            "{claims}, by the rule alone, before q-values{one_sided}",
            claims=claims(null, CLAIMED),
            one_sided=one_sided(null),
        )
        yield Finding(f"null: {visible(name)}", found, drift if name == "drift" else named)


def _identity(control: dict[str, Any]) -> Sentence:
    found = sum(control.get(label, 0) for label in CLAIMED)
    return say(
        "{claims}: {verdict}",
        claims=claims(control, CLAIMED),
        verdict="something, so doubt the labels" if found else "nothing, as it should be",
    )


def _difference(features: pd.DataFrame, controls: dict[str, Any]) -> Sentence | None:
    heard = controls.get("difference_heard")
    if heard is None:
        return None
    if not heard:
        return say("not to be believed: {disbelief}", disbelief=disbelief(controls))
    if has(features, "difference_cosine"):
        return say("to be believed: {agreement}", agreement=agreement(features, controls))
    # Models of different width have no difference of directions: then it explains, and nothing is compared with it.
    return say("to be believed: the diff-SAE {explained}", explained=_explained(controls))
