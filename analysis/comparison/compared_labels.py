"""Dictionaries and labels of several runs. A number of latents is given only where the run's own report states it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..labels.rule import CLAIMED
from ..report.claims import LABEL_MEANINGS
from ..report.content import counts_by_label
from ..report.headline_schema import LabelCount
from ..report.headlines import why_no_change, why_unlabeled
from ..report.phrases import NOT_MEASURED
from ..report.wording import Part, Sentence, named, say
from ..tables.analysis_files import LABELS, AnalysisResults
from .compared_runs import ComparedRun
from .comparison_schema import Cell, LabelCell, LabelRow, Row

_NEED_NORMS = ("new", "lost", "replaced", "rotated", "rescaled")
"""Labels that a dictionary without decoder norms for each model cannot give."""


def stated_labels(run: ComparedRun) -> frozenset[str]:
    """Return the labels whose latents the run's report states; empty if it has no analysis, or withholds its labels."""
    if run.results is None or why_unlabeled(run.results) is not None:
        return frozenset()
    unstated = {*CLAIMED, "undetermined"} if why_no_change(run.results, run.grounds) is not None else set()
    # The number of undetermined latents would give away the number of changed ones.
    if not run.results.has_norms:
        unstated |= set(_NEED_NORMS)
    return frozenset(LABELS) - unstated


def unlabeled_sentences(runs: Sequence[ComparedRun]) -> tuple[Sentence, ...]:
    """Return, for each run whose report does not state all labels, why."""
    told = []
    for run in runs:
        if run.results is None:
            continue
        why = why_unlabeled(run.results) or why_no_change(run.results, run.grounds)
        if why is not None:
            told.append(say("{run}: {why}", run=named(run.name), why=why))
    return tuple(told)


def label_rows(runs: Sequence[ComparedRun]) -> tuple[LabelRow, ...]:
    """Return a row for each label, with its number of latents in each run."""
    counts = [_counts(run) for run in runs]
    stated = [stated_labels(run) for run in runs]
    return tuple(
        LabelRow(
            label=label,
            meaning=LABEL_MEANINGS.get(label, ""),
            cells=tuple(
                _label_cell(run, label, by_label, label in may)
                for run, by_label, may in zip(runs, counts, stated, strict=True)
            ),
        )
        for label in LABELS
    )


def _counts(run: ComparedRun) -> Mapping[str, LabelCount]:
    return {} if run.results is None else {count.label: count for count in counts_by_label(run.results)}


def _label_cell(run: ComparedRun, label: str, counts: Mapping[str, LabelCount], stated: bool) -> LabelCell:
    if run.results is None:
        problem = run.problems["analysis"]
        return LabelCell(state=problem.state, count=None, shown=problem.short)
    if not stated:
        return LabelCell(state="withheld", count=None, shown=_why_withheld(run.results, label))
    count = counts[label]
    bounds: Part = ""
    if count.low is not None and count.high is not None:
        bounds = say(" ({low:.0f} to {high:.0f})", low=count.low, high=count.high)
    return LabelCell(
        state="stated", count=count, shown=say("{count:whole}{bounds}", count=count.count, bounds=bounds)
    )


def _why_withheld(results: AnalysisResults, label: str) -> Sentence:
    """Return in a few words why a count is not stated; `unlabeled_sentences` has the whole reason."""
    if results.labels_undefined:
        return say("undefined")
    if why_unlabeled(results) is not None:
        return say("withheld")
    if not results.has_norms and label in _NEED_NORMS:
        return say("not given by this kind of dictionary")
    return say("not established")


# --- the dictionaries -------------------------------------------------------------------------------------------------

_Value = Callable[[Mapping[str, Any]], Part]


def dictionary_rows(runs: Sequence[ComparedRun]) -> tuple[Row, ...]:
    """Return how much each dictionary explains, how many latents fire and how many never do, on held-out tokens."""
    measures: tuple[tuple[str, str, str, _Value], ...] = (
        ("explained, reference", "share of the variance of the reference's activations", "percent", _explained("reference")),
        ("explained, intervened", "share of the variance of the intervened model's activations", "percent", _explained("intervened")),
        ("explained, difference", "share of the variance of intervened − reference", "percent", _explained("difference")),
        ("latents", "size of the dictionary", "whole", lambda summary: summary.get("n_latents")),
        ("L0", "latents that fire on a token", ".1f", lambda summary: summary.get("l0")),
        ("dead", "share of the latents that fire on no held-out token", "percent", lambda summary: summary.get("dead_share")),
        ("held-out tokens", "tokens that all of this was measured on", "whole", lambda summary: summary.get("n_tokens")),
    )  # fmt: skip
    return tuple(
        Row(name=name, meaning=meaning, cells=tuple(_measured(run, form, value) for run in runs))
        for name, meaning, form, value in measures
    )


def _explained(of: str) -> _Value:
    return lambda summary: (summary.get("fve") or {}).get(of)


def _measured(run: ComparedRun, form: str, value: _Value) -> Cell:
    if run.results is None:
        problem = run.problems["analysis"]
        return Cell(state=problem.state, shown=problem.short)
    number = value(run.results.summary)
    if number is None:
        return Cell(state=NOT_MEASURED, shown=say(NOT_MEASURED))
    return Cell(state="stated", shown=say(f"{{value:{form}}}", value=number))
