"""What stands behind the labels, and what was not measured."""

from collections import Counter
from typing import Any

import pandas as pd

from ..results import AnalysisResults
from .findings import CLAIMED, agreement, claims, disbelief, has, shuffled_found, stability
from .phrases import counted, fixed
from .schema import Statement

Entry = tuple[str, str | None, str]
"""Name, what was found (None: not measured), and what it is about."""


def certainty(results: AnalysisResults) -> tuple[Statement, ...]:
    """One statement for everything that a claim could be checked with."""
    levels = Counter(results.features["evidence"].tolist())
    level = "; ".join(f"{name}: {counted(number, 'latent')}" for name, number in levels.items())
    first = Statement(
        name="evidence",
        text=f"{level}. Observed means: seen in activations; it is not a claim about what causes what the model says.",
    )
    made = [
        Statement(name=name, text=f"{text} ({meaning})", verdict="measured")
        if text
        else Statement(name=name, text=f"not measured ({meaning})", verdict="not measured")
        for name, text, meaning in (*_of_nulls(results), *_of_others(results, levels["causal"]))
    ]
    return first, *made


def _of_nulls(results: AnalysisResults) -> tuple[Entry, ...]:
    """How many labels to expect from nothing."""
    features, summary = results.features, results.summary
    expected = {
        label: (count or {}).get("expected_false") for label, count in (summary.get("counts") or {}).items()
    }
    rate = ", ".join(f"{label} {fixed(value, 1)}" for label, value in expected.items() if value is not None)
    controls = summary.get("controls") or {}
    nulls = controls.get("nulls") or []
    return (
        (
            "logit lens",
            "tables of top and bottom tokens" if results.has_logits else None,
            "which tokens a direction points at, through the model's final norm and unembedding",
        ),
        (
            "false-discovery rate",
            f"expected false labels: {rate}" if rate else None,
            "how many of the labels would be false",
        ),
        (
            "q-values",
            _q_values(features, bool(nulls)) if has(features, "q_value") else None,
            "the same, latent by latent",
        ),
        (
            "null pair",
            "; ".join(f"{null.get('name', 'null')}: {claims(null, ('new', 'lost'))}" for null in nulls)
            or None,
            "what the same recipe finds on a pair that differs as much and in no feature: by the rule, before q-values",
        ),
        (
            "identity",
            claims(controls["identity"], CLAIMED) if controls.get("identity") else None,
            "what a brief training finds where the reference stands beside itself: anything would be a defect",
        ),
        (
            "shuffled pairs",
            shuffled_found(controls["shuffled"]) if controls.get("shuffled") else None,
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
            f"{counted(causal, 'latent')} passed" if causal else None,
            "whether adding or removing a latent changes what the model does",
        ),
    )


def _q_values(features: pd.DataFrame, with_nulls: bool) -> str:
    claimed = features[features["label"].isin(["new", "lost"])]["q_value"]
    largest = f"; at most {claimed.max():.2g} among the new and lost" if len(claimed) else ""
    return (
        "in the column q_value" + ("" if with_nulls else ", of chance alone: no null was trained") + largest
    )


def _agreement(features: pd.DataFrame, controls: dict[str, Any]) -> str:
    return (
        agreement(features, controls)
        if controls.get("difference_heard")
        else f"not counted: {disbelief(controls)}"
    )
