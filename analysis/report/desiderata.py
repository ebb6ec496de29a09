"""The desiderata table: what an explanation of a change has to fulfill, each requirement with its measure and a verdict.

Comparative XAI (arXiv 2602.02304) asks for comparability, validity, actionability and monitoring, as measured requirements. The ten
requirements under those four families, their measures and their thresholds are this project's own reading of them.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from crosscoder.folder import RunFolder
from crosscoder.requirements import Requirements

from ..results import AnalysisResults
from .findings import CLAIMED, has
from .phrases import Number, fixed, percent, whole
from .schema import NOT_MEASURED, Requirement

# Conventions, stated beside every verdict.
_FVE_GAP = 0.05
_FALSE_LABELS = 0.5
_REFOUND = 0.5
_UNEXPLAINED = 0.5
_LATENTS = 100
_FOLLOWED = 0.9

_LEGIBLE_SHARE = 0.8
"""Of what latents carry of the shift: how many of them have to be read for it."""


def desiderata(results: AnalysisResults, folder: RunFolder) -> tuple[Requirement, ...]:
    """All requirements, family by family; what cannot be measured yet says so."""
    return (
        _contract(results, folder),
        _common_frame(results.summary),
        _change(results.summary),
        _unmeasured(
            "validity.faithfulness",
            "share of the behavioral shift that goes with the named latents, taken out and put in",
        ),
        _specificity(results.summary),
        _robustness(results),
        _unmeasured(
            "actionability.lever", "behavioral shift undone by steering, and what it costs elsewhere"
        ),
        _legibility(results),
        _trajectory(results),
        _coverage(results.summary),
    )


def unmet(requirements: Requirements, measured: Iterable[Requirement]) -> list[str]:
    """A line for every demand that the run does not fulfill; what is not measured does not fulfill any."""
    found = {requirement.key: requirement for requirement in measured}
    lines = []
    for key, demand in requirements.demands():
        is_ = found[key]
        if not demand.fulfilled_by(is_.value, is_.verdict):
            threshold = f" ({is_.threshold})" if demand.verdict else ""
            lines.append(f"{key}: {is_.shown}, required: {demand}{threshold}")
    return lines


def _contract(results: AnalysisResults, folder: RunFolder) -> Requirement:
    """Whether everything that decides the comparison is named."""
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
        percent(share) + (f"; missing: {', '.join(missing)}" if missing else ""),
        "100 %",
        share == 1,
        "share named of what decides the comparison: digests of weights, tokenizer and text, hookpoint, settings, versions, commands",
    )


def _common_frame(summary: dict[str, Any]) -> Requirement:
    fve = summary.get("fve") or {}
    reference, intervened = fve.get("reference"), fve.get("intervened")
    gap = None if reference is None or intervened is None else abs(reference - intervened)
    return _at_most(
        "comparability.common_frame", gap, _FVE_GAP, percent, "gap between the two models' variance explained"
    )


def _change(summary: dict[str, Any]) -> Requirement:
    identity = (summary.get("controls") or {}).get("identity")
    found = None if identity is None else sum(identity.get(label, 0) for label in CLAIMED)
    return _at_most(
        "comparability.change",
        found,
        0,
        whole,
        "latents called new, lost, rotated or rescaled where the reference stands beside itself",
    )


def _specificity(summary: dict[str, Any]) -> Requirement:
    counts = summary.get("counts") or {}
    new, lost = ((counts.get(label) or {}).get("expected_false") for label in ("new", "lost"))
    total = None if new is None or lost is None else new + lost
    return _at_most(
        "validity.specificity",
        total,
        _FALSE_LABELS,
        lambda value: fixed(value, 1),
        "latents called new or lost in a pair that differs as much and in no feature, where q-values allow as much",
    )


def _robustness(results: AnalysisResults) -> Requirement:
    """With fewer than three seeds, or nothing claimed, there is nothing to tell."""
    features = results.features
    claimed = features[features["label"].isin(CLAIMED)]
    seeds = (results.summary.get("controls") or {}).get("seeds", 0)
    share = None
    if seeds >= 2 and len(claimed) and has(features, "seed_stability"):
        share = float(np.mean(np.asarray(claimed["seed_stability"], dtype=float) == 1))
    return _judged(
        "validity.robustness",
        share,
        percent(share) + (f" of {len(claimed)}" if share is not None else ""),
        f"at least {percent(_REFOUND)}",
        None if share is None else share >= _REFOUND,
        "share of the latents called new, lost, rotated or rescaled that every other seed finds again",
    )


def _legibility(results: AnalysisResults) -> Requirement:
    shares = np.sort(results.features["shift_share"].dropna().clip(lower=0).to_numpy(dtype=float))[::-1]
    carried = float(shares.sum())
    needed = int(np.searchsorted(shares.cumsum(), _LEGIBLE_SHARE * carried) + 1) if carried > 0 else None
    return _at_most(
        "actionability.legibility",
        needed,
        _LATENTS,
        whole,
        f"latents that carry {percent(_LEGIBLE_SHARE)} of what all latents carry of the shift",
    )


def _trajectory(results: AnalysisResults) -> Requirement:
    """Without snapshots, or where nothing is claimed, there is nothing to follow."""
    monitoring = results.summary.get("monitoring") or {}
    checkpoints, onset = monitoring.get("checkpoints") or [], monitoring.get("onset") or {}
    share = onset["named"] / onset["changed"] if len(checkpoints) >= 3 and onset.get("changed") else None
    return _judged(
        "monitoring.trajectory",
        share,
        percent(share)
        + (f" of {onset['changed']}, over {len(checkpoints)} checkpoints" if share is not None else ""),
        f"at least {percent(_FOLLOWED)}",
        None if share is None else share >= _FOLLOWED,
        "share of the latents called new, lost, rotated or rescaled that are followed over three or more checkpoints to the one at "
        "which their change began",
    )


def _coverage(summary: dict[str, Any]) -> Requirement:
    explained = (summary.get("fve") or {}).get("difference")
    return _at_most(
        "monitoring.coverage",
        None if explained is None else 1 - explained,
        _UNEXPLAINED,
        percent,
        "share of the difference between the models that no latent explains",
    )


def _at_most(key: str, value: Number | None, limit: Number, show: Any, measure: str) -> Requirement:
    met = None if value is None else value <= limit
    return _judged(key, value, show(value), f"at most {show(limit)}", met, measure)


def _unmeasured(key: str, measure: str) -> Requirement:
    return _judged(key, None, NOT_MEASURED, "none yet", None, measure)


def _judged(
    key: str, value: Number | None, shown: str, threshold: str, met: bool | None, measure: str
) -> Requirement:
    family, _, name = key.partition(".")
    verdict = NOT_MEASURED if met is None else "pass" if met else "fail"
    return Requirement(
        key=key,
        family=family,
        name=name.replace("_", " "),
        measure=measure,
        value=value,
        shown=shown,
        threshold=threshold,
        verdict=verdict,
    )
