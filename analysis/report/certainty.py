"""The checks of the labels: what each found, or that it was not made."""

from collections import Counter
from typing import Any

import pandas as pd

from ..labels.rule import CLAIMED
from ..tables.analysis_files import AnalysisResults
from .control_results import agreement, has, label_counts, shuffled_found, stability, why_unreliable
from .phrases import NOT_MEASURED, Number
from .schema import Statement
from .wording import Sentence, listed, named, say

Entry = tuple[str, Sentence | None, str]
"""Name, what was found (None if not measured), and what it means."""


def certainty(results: AnalysisResults) -> tuple[Statement, ...]:
    """Return one statement for each check, made or not."""
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
            "{level}. Observed means seen in activations; it does not claim that the latent causes any behavior.",
            level=level,
        ),
    )
    made = [
        Statement(
            name=name,
            text=say("{found} ({meaning})", found=text or NOT_MEASURED, meaning=meaning),
            verdict="measured" if text else NOT_MEASURED,
        )
        for name, text, meaning in (*_label_checks(results), *_replications(results, levels["causal"]))
    ]
    return first, *made


def _readable_lists(counts: dict[str, dict[str, dict[str, int]]]) -> Sentence:
    """Return how many lists of tokens are better than those of random directions, for each model and side."""
    return listed(
        (
            (
                f"{model}_{side}",
                say(
                    "{model}, {side}: {readable:whole} of {lists:whole} lists read as tokens",
                    model=model,
                    side=side,
                    **count,
                ),
            )
            for model, sides in counts.items()
            for side, count in sides.items()
        ),
        "; ",
    )


def _label_checks(results: AnalysisResults) -> tuple[Entry, ...]:
    """Return how many labels to expect by chance, and what the null pair and the brief controls found."""
    features, summary = results.features, results.summary
    expected, most = (
        {label: (count or {}).get(key) for label, count in (summary.get("counts") or {}).items()}
        for key in ("expected_false", "expected_false_high")
    )
    rate = [
        (label, _expected(label, value, most.get(label)))
        for label, value in expected.items()
        if value is not None
    ]
    controls = summary.get("controls") or {}
    nulls, shuffled = controls.get("nulls") or [], controls.get("shuffled")
    if results.labels_undefined:
        # The models of these controls share no space either, so their latents have no labels. Those of the identity do.
        nulls, shuffled = [], None
    return (
        (
            "logit lens",
            _readable_lists(results.summary.get("logit_lens") or {}) if results.has_logits else None,
            "the tokens that each direction raises and lowers most, through the model's final norm and unembedding; a list is shown only if it is "
            "better than those of random directions of the same model, and otherwise its direction does not read as tokens",
        ),
        (
            "expected under the nulls tried",
            say("{rate}", rate=listed(rate)) if rate else None,
            "the number of latents with each label in the null pair that has most, before the other trainings are asked; a change of a kind that no "
            "null pair has can beat it",
        ),
        (
            "q-values",
            _q_values(features, bool(nulls)) if has(features, "q_value") else None,
            "for each latent, the larger of a false-discovery rate of sampling noise and the fraction of false labels expected under the null pairs "
            "tried, among latents with at least this much evidence",
        ),
        (
            "null pair",
            listed(((_null_name(null), _null(null)) for null in nulls), "; ") if nulls else None,
            "what the same recipe finds in two models that differ by as much, but in no feature; by the rule alone, before q-values",
        ),
        (
            "identity",
            label_counts(controls["identity"], CLAIMED) if controls.get("identity") else None,
            "what a brief training finds when the reference is compared with itself; any of these labels is a defect",
        ),
        (
            "shuffled pairs",
            shuffled_found(shuffled) if shuffled else None,
            "positive control: a brief training on pairs of different tokens, so that nothing is shared",
        ),
    )


def _replications(results: AnalysisResults, causal: int) -> tuple[Entry, ...]:
    """Return whether other seeds, another method and causal checks confirm the labels."""
    features, controls = results.features, results.summary.get("controls") or {}
    return (
        (
            "found again by other trainings",
            stability(features, controls.get("seeds", 0)) if has(features, "seed_stability") else None,
            "whether trainings with another seed, on half of the training documents, find the same latents",
        ),
        (
            "agreement with another method",
            _agreement(features, controls) if has(features, "difference_cosine") else None,
            "whether another method finds the same directions",
        ),
        (
            "causal checks",
            say("{causal:counted latent} passed", causal=causal) if causal else None,
            "whether removing or adding a single latent changes a behavior, more than random latents do, corrected for the number of latents and checks",
        ),
    )


def _expected(label: str, value: Number, most: Number | None) -> Sentence:
    return say(
        "{label} {expected_false:.3g}{most}",
        label=label,
        expected_false=value,
        most="" if most is None else say(" (at most {high:.1f})", high=most),
    )


def _null_name(null: dict[str, Any]) -> str:
    return str(null.get("name", "null"))


def _null(null: dict[str, Any]) -> Sentence:
    return say("{name}: {counts}", name=named(_null_name(null)), counts=label_counts(null, CLAIMED))


def _q_values(features: pd.DataFrame, with_nulls: bool) -> Sentence:
    claimed = features.loc[features["label"].isin(CLAIMED), "q_value"].dropna().tolist()
    return say(
        "in the column q_value{nulls}{largest}",
        nulls="" if with_nulls else ", from chance alone, as no null pair was trained",
        largest=say(
            "; at most {largest_q_value:.2g} among latents labeled as changed", largest_q_value=max(claimed)
        )
        if claimed
        else "",
    )


def _agreement(features: pd.DataFrame, controls: dict[str, Any]) -> Sentence:
    if controls.get("difference_heard"):
        return agreement(features, controls)
    return say("not used: {why}", why=why_unreliable(controls))
