"""The desiderata table: the requirements on an explanation of a change, each with its measure and verdict.

Comparative XAI (arXiv 2602.02304) asks for comparability, validity, actionability and monitoring, as measured requirements. The ten
requirements under those four families, their measures and their thresholds are this project's own reading of them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from crosscoder.config.requirements import Requirements
from crosscoder.run.folder import RunFolder

from ..behaviors.behavior_files import BehaviorResults, load_behaviors
from ..labels.rule import CLAIMED
from ..tables.analysis_files import AnalysisResults
from .control_results import candidates, has
from .levers import COST, Lever, levers_of
from .phrases import NOT_MEASURED, Number
from .schema import Requirement
from .wording import Part, Sentence, named, say

# Conventions, stated with every verdict.
_FVE_GAP = 0.05
_FALSE_LABELS = 0.5
_REFOUND = 0.5
_UNEXPLAINED = 0.5
_LATENTS = 100
_FAITHFUL = 0.5
_UNDONE = 0.5

_FOLLOWED = 0.9

_LEGIBLE_SHARE = 0.8
"""Share of what all latents explain of the activation shift: the latents needed for it are counted."""


def desiderata(results: AnalysisResults, folder: RunFolder) -> tuple[Requirement, ...]:
    """Return all requirements, family by family; those not measured have the verdict `not measured`."""
    behaviors = [behavior for behavior in load_behaviors(folder) if not behavior.shift["unrelated"]]
    return (
        _contract(results, folder),
        _common_frame(results.summary),
        _change(results.summary),
        _faithfulness(behaviors),
        _specificity(results.summary),
        _robustness(results),
        _lever(behaviors),
        _legibility(results),
        _trajectory(results),
        _coverage(results.summary),
    )


def unmet(requirements: Requirements, measured: Iterable[Requirement]) -> list[str]:
    """Return a line for every demand that the run does not fulfill; a requirement that is not measured fulfills none."""
    found = {requirement.key: requirement for requirement in measured}
    lines = []
    for key, demand in requirements.demands():
        measure = found[key]
        if not demand.fulfilled_by(measure.value, measure.verdict):
            threshold = f" ({measure.threshold})" if demand.verdict else ""
            lines.append(f"{key}: {measure.shown}, required: {demand}{threshold}")
    return lines


def _contract(results: AnalysisResults, folder: RunFolder) -> Requirement:
    """Return whether the run records everything that defines the comparison."""
    manifest = results.manifest
    pair, data = manifest.get("pair") or {}, manifest.get("data") or {}
    named = {
        "settings": folder.config.is_file() or None,
        "versions": manifest.get("versions"),
        "commands": manifest.get("stages"),
        "weights of the reference": (pair.get("reference") or {}).get("weights"),
        "weights of the intervened model": (pair.get("intervened") or {}).get("weights"),
        "tokenizer": pair.get("tokenizer"),
        "text": data.get("fingerprint"),
        "hookpoint": results.summary.get("hookpoint"),
    }
    missing = [name for name, value in named.items() if not value]
    share = 1 - len(missing) / len(named)
    return _judged(
        "comparability.contract",
        share,
        say(
            "{value:percent}{missing}",
            value=share,
            missing=f"; missing: {', '.join(missing)}" if missing else "",
        ),
        say("all: {limit:percent}", limit=1),
        share == 1,
        "share recorded of what defines the comparison: digests of weights, tokenizer and text, hookpoint, settings, versions, commands",
    )


def _common_frame(summary: dict[str, Any]) -> Requirement:
    fve = summary.get("fve") or {}
    reference, intervened = fve.get("reference"), fve.get("intervened")
    gap = None if reference is None or intervened is None else abs(reference - intervened)
    return _at_most(
        "comparability.common_frame",
        gap,
        _FVE_GAP,
        "percent",
        "gap between the two models' variance explained",
    )


def _change(summary: dict[str, Any]) -> Requirement:
    identity = (summary.get("controls") or {}).get("identity")
    found = None if identity is None else sum(identity.get(label, 0) for label in CLAIMED)
    return _at_most(
        "comparability.change",
        found,
        0,
        "whole",
        "latents labeled as changed when the reference is compared with itself",
    )


def _faithfulness(behaviors: Sequence[BehaviorResults]) -> Requirement:
    """Return the faithfulness of the behavior that is explained worst: an average would hide it."""
    checks = {
        behavior.name: max(
            (check for check in behavior.causal["together"].values() if check is not None),
            key=lambda check: (bool(check["passed"]), check["value"] or 0.0),
        )
        for behavior in behaviors
        if behavior.causal is not None and not _share_no_space(behavior.causal)
    }
    name = min(
        checks, key=lambda name: (bool(checks[name]["passed"]), checks[name]["low"] or 0.0), default=None
    )
    check = None if name is None else checks[name]
    low = None if check is None else check["low"]
    return _judged(
        "validity.faithfulness",
        low,
        say(
            "{value:percent}{of}{random}",
            value=low,
            of="" if name is None else say(" of {behavior}", behavior=named(name)),
            random=_random(check),
        ),
        say("at least {limit:percent}, and the check against random latents is passed", limit=_FAITHFUL),
        None
        if check is None or low is None or not check["made"]
        else bool(check["passed"]) and low >= _FAITHFUL,
        "share of the behavioral shift that removing the named latents undoes, or adding them produces, on held-out prompts (lower end of the "
        "interval; the behavior that is explained worst)",
    )


def _random(check: dict[str, Any] | None) -> Part:
    """Return what random latents do, and whether the check is passed."""
    if check is None:
        return ""
    if not check["made"]:
        return " (the check was not made)"
    return say(
        " (random latents {random:percent} on average: {verdict})",
        random=check["random_mean"],
        verdict="passed" if check["passed"] else "not passed",
    )


def _lever(behaviors: Sequence[BehaviorResults]) -> Requirement:
    """Return the lever of the behavior that can be undone least; one that does no more than its random control undoes nothing."""
    best = [
        max(
            (lever for lever in levers_of(behavior.causal) if lever.within_cost),
            key=_undone,
            default=None,
        )
        for behavior in behaviors
        if behavior.causal is not None and not _share_no_space(behavior.causal)
    ]
    worst = min(best, key=_undone, default=None)
    share = None if not best else _undone(worst)
    return _judged(
        "actionability.lever",
        share,
        say(
            "{value:percent}{compared}",
            value=share,
            compared=""
            if worst is None
            else worst.compared()
            if worst.proven
            else say(
                ": the best lever undoes {undone:percent}{compared}",
                undone=worst.share,
                compared=worst.compared(),
            ),
        ),
        say("at least {limit:percent}, and more than a random edit", limit=_UNDONE),
        None if share is None else share >= _UNDONE,
        say(
            "share of the behavioral shift that can be undone in the intervened model, by removing the named latents (both models run) or by "
            "steering with a constant direction made of them, at a cost of at most {cost:.2f} nats (KL) on unrelated text; zero if random latents, or "
            "a random direction, do as much",
            cost=COST,
        ),
    )


def _undone(lever: Lever | None) -> float:
    """Return the share that a lever is shown to undo, compared with its random control."""
    return lever.share if lever is not None and lever.proven else 0.0


def _share_no_space(causal: dict[str, Any]) -> bool:
    """Whether shares are of one model's behavior rather than of the shift, as for models that share no space."""
    return causal.get("of") == "intervened"


def _specificity(summary: dict[str, Any]) -> Requirement:
    counts = summary.get("counts") or {}
    found = [(counts.get(label) or {}).get("expected_false") for label in CLAIMED]
    total = None if any(count is None for count in found) else float(sum(filter(None, found)))
    return _at_most(
        "validity.specificity",
        total,
        _FALSE_LABELS,
        ".1f",
        "latents of a null pair (two models that differ by as much, but in no feature) that the rule labels as changed, with at least the effect "
        "of latents labeled so here",
    )


def _robustness(results: AnalysisResults) -> Requirement:
    """Return the share of the candidates that are found again; labels themselves are found again by construction.

    Not measured with fewer than two other trainings, or without latents that this training alone would call changed.
    """
    features = results.features
    claimed = np.isin(candidates(features), CLAIMED)
    seeds = (results.summary.get("controls") or {}).get("seeds", 0)
    column = next((name for name in ("label_stability", "seed_stability") if has(features, name)), None)
    share = None
    if seeds >= 2 and claimed.any() and column is not None:
        share = float(np.mean(features[column].to_numpy(dtype=float, na_value=np.nan)[claimed] == 1))
    return _judged(
        "validity.robustness",
        share,
        say(
            "{value:percent}{of}",
            value=share,
            of="" if share is None else say(" of {candidates}", candidates=int(claimed.sum())),
        ),
        say("at least {limit:percent}", limit=_REFOUND),
        None if share is None else share >= _REFOUND,
        "share of the latents that this training alone would call changed that every other training finds again, with the same label; those that are "
        "not found again are not labeled as changed",
    )


def _legibility(results: AnalysisResults) -> Requirement:
    shares = np.sort(results.features["shift_share"].dropna().clip(lower=0).to_numpy(dtype=float))[::-1]
    carried = float(shares.sum())
    needed = int(np.searchsorted(shares.cumsum(), _LEGIBLE_SHARE * carried) + 1) if carried > 0 else None
    return _at_most(
        "actionability.legibility",
        needed,
        _LATENTS,
        "whole",
        say(
            "number of latents that explain {share:percent} of what all latents explain of the activation shift",
            share=_LEGIBLE_SHARE,
        ),
    )


def _trajectory(results: AnalysisResults) -> Requirement:
    """Return the share of changes with a known onset; not measured without snapshots or without latents labeled as changed."""
    monitoring = results.summary.get("monitoring") or {}
    checkpoints, onset = monitoring.get("checkpoints") or [], monitoring.get("onset") or {}
    share = onset["named"] / onset["changed"] if len(checkpoints) >= 3 and onset.get("changed") else None
    return _judged(
        "monitoring.trajectory",
        share,
        say(
            "{value:percent}{of}",
            value=share,
            of=""
            if share is None
            else say(
                " of {changed:whole}, over {checkpoints:whole} checkpoints",
                changed=onset["changed"],
                checkpoints=len(checkpoints),
            ),
        ),
        say("at least {limit:percent}", limit=_FOLLOWED),
        None if share is None else share >= _FOLLOWED,
        "share of the latents labeled as changed that are followed over three or more checkpoints to the one at which their "
        "change began",
    )


def _coverage(summary: dict[str, Any]) -> Requirement:
    explained = (summary.get("fve") or {}).get("difference")
    return _at_most(
        "monitoring.coverage",
        None if explained is None else 1 - explained,
        _UNEXPLAINED,
        "percent",
        "share of the variance of the difference between the models' activations that the dictionary does not explain",
    )


def _at_most(
    key: str, value: Number | None, limit: Number, form: str, measure: str | Sentence
) -> Requirement:
    met = None if value is None else value <= limit
    shown, threshold = say(f"{{value:{form}}}", value=value), say(f"at most {{limit:{form}}}", limit=limit)
    return _judged(key, value, shown, threshold, met, measure)


def _judged(
    key: str,
    value: Number | None,
    shown: Sentence,
    threshold: Sentence,
    met: bool | None,
    measure: str | Sentence,
) -> Requirement:
    family, _, name = key.partition(".")
    verdict = NOT_MEASURED if met is None else "pass" if met else "fail"
    return Requirement(
        key=key,
        family=family,
        name=name.replace("_", " "),
        measure=say("{measure}", measure=measure),
        value=value,
        shown=shown,
        threshold=threshold,
        verdict=verdict,
    )
