"""What stands behind the labels, and what was not measured."""

from collections import Counter
from typing import Any

import pandas as pd

from ..labels.rule import CLAIMED
from ..tables.analysis_files import AnalysisResults
from .findings import agreement, claims, disbelief, has, shuffled_found, stability
from .phrases import NOT_MEASURED
from .schema import Statement
from .wording import Sentence, listed, named, say

Entry = tuple[str, Sentence | None, str]
"""Name, what was found (None: not measured), and what it is about."""


def certainty(results: AnalysisResults) -> tuple[Statement, ...]:
    """One statement for everything that a claim could be checked with."""
    levels = Counter(results.features["evidence"].tolist())
    level = listed(
        (
            (name, say("{name}: {latents:counted latent}", name=name, latents=number))
            for name, number in levels.items()
        ),
        "; ",
    )
    first = Statement(
        name="evidence",
        text=say(
            "{level}. Observed means: seen in activations; it is not a claim about what causes what the model says.",
            level=level,
        ),
    )
    made = [
        Statement(
            name=name,
            text=say("{found} ({meaning})", found=text or NOT_MEASURED, meaning=meaning),
            verdict="measured" if text else NOT_MEASURED,
        )
        for name, text, meaning in (*_of_nulls(results), *_of_others(results, levels["causal"]))
    ]
    return first, *made


def _of_nulls(results: AnalysisResults) -> tuple[Entry, ...]:
    """How many labels to expect from nothing."""
    features, summary = results.features, results.summary
    expected = {
        label: (count or {}).get("expected_false") for label, count in (summary.get("counts") or {}).items()
    }
    rate = [
        (label, say("{label} {expected_false:.1f}", label=label, expected_false=value))
        for label, value in expected.items()
        if value is not None
    ]
    controls = summary.get("controls") or {}
    nulls, shuffled = controls.get("nulls") or [], controls.get("shuffled")
    if results.labels_undefined:
        # Their models share no space either, so that nothing could be called new, lost or shared. The identity's do not.
        nulls, shuffled = [], None
    return (
        (
            "logit lens",
            say("tables of top and bottom tokens") if results.has_logits else None,
            "which tokens a direction points at, through the model's final norm and unembedding",
        ),
        (
            "false-discovery rate",
            say("expected false labels: {rate}", rate=listed(rate)) if rate else None,
            "how many of the labels would be false",
        ),
        (
            "q-values",
            _q_values(features, bool(nulls)) if has(features, "q_value") else None,
            "the same, latent by latent",
        ),
        (
            "null pair",
            listed(((_name_of(null), _null(null)) for null in nulls), "; ") if nulls else None,
            "what the same recipe finds on a pair that differs as much and in no feature: by the rule, before q-values",
        ),
        (
            "identity",
            claims(controls["identity"], CLAIMED) if controls.get("identity") else None,
            "what a brief training finds where the reference stands beside itself: anything would be a defect",
        ),
        (
            "shuffled pairs",
            shuffled_found(shuffled) if shuffled else None,
            "the positive control: a brief training where no token stands beside its own, so that nothing is shared",
        ),
    )


def _of_others(results: AnalysisResults, causal: int) -> tuple[Entry, ...]:
    """Whether anything else finds the same."""
    features, controls = results.features, results.summary.get("controls") or {}
    return (
        (
            "stability over seeds",
            stability(features, controls.get("seeds", 0)) if has(features, "seed_stability") else None,
            "whether another training run finds the same latents",
        ),
        (
            "agreement with another method",
            _agreement(features, controls) if has(features, "difference_cosine") else None,
            "whether another method finds the same directions",
        ),
        (
            "causal checks",
            say("{causal:counted latent} passed", causal=causal) if causal else None,
            "whether adding or removing a latent changes what the model does",
        ),
    )


def _name_of(null: dict[str, Any]) -> str:
    return str(null.get("name", "null"))


def _null(null: dict[str, Any]) -> Sentence:
    return say("{name}: {claims}", name=named(_name_of(null)), claims=claims(null, CLAIMED))


def _q_values(features: pd.DataFrame, with_nulls: bool) -> Sentence:
    claimed = features.loc[features["label"].isin(CLAIMED), "q_value"].dropna().tolist()
    return say(
        "in the column q_value{nulls}{largest}",
        nulls="" if with_nulls else ", of chance alone: no null was trained",
        largest=say("; at most {largest_q_value:.2g} among the claimed", largest_q_value=max(claimed))
        if claimed
        else "",
    )


def _agreement(features: pd.DataFrame, controls: dict[str, Any]) -> Sentence:
    if controls.get("difference_heard"):
        return agreement(features, controls)
    return say("not counted: {disbelief}", disbelief=disbelief(controls))
