"""Behaviors of several runs: their shifts in both models, and what the causal checks of each run's latents found."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from ..behaviors.behavior_files import BehaviorResults
from ..report.behavior_headlines import edit_words, whole_words
from ..report.behavior_schema import BehaviorShift, CausalCheck, Estimate, Explanation
from ..report.grounds import check_verdict
from ..report.phrases import unit_format, visible
from ..report.shortages import not_established
from ..report.wording import Part, Sentence, named, say
from .compared_findings import RunFinding, strongest
from .compared_runs import ComparedRun
from .comparison_schema import BehaviorCell, BehaviorCheck, BehaviorRow

ANSWERS = "generated answers"


class _Measured(NamedTuple):
    run: int
    results: BehaviorResults
    shift: BehaviorShift


def behavior_rows(
    runs: Sequence[ComparedRun], groups: Sequence[Sequence[RunFinding]]
) -> tuple[BehaviorRow, ...]:
    """Return a row for each behavior that any run measured.

    Args:
        groups: Matched findings. Behaviors of findings that match are one behavior, whatever their names.
    """
    title = {
        (one.run, one.finding.name): f"finding {strongest(members).name} {place}"
        for place, members in enumerate(groups)
        for one in members
    }
    titles: dict[str, set[str]] = {}
    for (_, name), one in title.items():
        titles.setdefault(name, set()).add(one)
    rows: dict[str, list[_Measured]] = {}
    for place, run in enumerate(runs):
        for results, shift in zip(run.behaviors, run.shifts, strict=True):
            alone = f"name {results.name}"
            # A behavior that is no finding of its own run may be one of another run, under its name.
            elsewhere = titles.get(results.name, set())
            key = title.get((place, results.name), min(elsewhere) if len(elsewhere) == 1 else alone)
            if any(one.run == place for one in rows.get(key, ())):
                # Another finding of the same effect in this run, with another trigger.
                key = alone
            rows.setdefault(key, []).append(_Measured(place, results, shift))
    return tuple(_row(runs, rows[key]) for key in sorted(rows))


def _row(runs: Sequence[ComparedRun], measured: Sequence[_Measured]) -> BehaviorRow:
    by_run = {one.run: one for one in measured}
    metrics = {repr(one.results.shift.get("metric")) for one in measured}
    return BehaviorRow(
        name=visible(min(one.results.name for one in measured)),
        alike=len(metrics) == 1,
        cells=tuple(_cell(run, by_run.get(place)) for place, run in enumerate(runs)),
    )


def _cell(run: ComparedRun, measured: _Measured | None) -> BehaviorCell:
    if measured is None:
        problem = run.problems.get("behaviors")
        return BehaviorCell(
            state="missing" if problem is None else problem.state, name=None, unit=None, reference=None, intervened=None,
            shift=None, checks=(), causal=None, checked=None, hookpoint=None,
            lines=(say("not measured in this run") if problem is None else problem.short,),
        )  # fmt: skip
    shift, found = measured.shift, measured.shift.explanation
    return BehaviorCell(
        state="established" if shift.established else "not established",
        name=visible(shift.name),
        unit=shift.unit,
        reference=shift.reference,
        intervened=shift.intervened,
        shift=shift.shift,
        checks=() if found is None else tuple(_checks(found)),
        causal=None if found is None else sum(latent.evidence == "causal" for latent in found.latents),
        checked=None if found is None else len(found.latents),
        hookpoint=None if run.hookpoint is None else visible(run.hookpoint),
        lines=tuple(_lines(run, measured)),
    )


def _lines(run: ComparedRun, measured: _Measured) -> Iterator[Sentence]:
    """Yield the shift, or why none is established; then what its latents do, and where they are."""
    shift, found = measured.shift, measured.shift.explanation
    form = unit_format(shift.unit)
    yield say(
        f"{{reference:{form}}} → {{intervened:{form}}}{{unit}} on {{prompts:counted held-out prompt}}; shift {{shift}}",
        reference=shift.reference.value,
        intervened=shift.intervened.value,
        unit="" if form == "percent" else f" {shift.unit}",
        prompts=shift.n_prompts,
        shift=_estimate(shift.shift, form).under("shift"),
    )
    if not shift.established:
        yield not_established(measured.results.shift["shift"], shift.unit)
        return
    if found is None:
        yield say("The shift was not attributed to latents.")
        return
    causal = sum(latent.evidence == "causal" for latent in found.latents)
    yield say(
        "{checked:counted latent} named at {hookpoint}, {causal} of them causal alone:",
        checked=len(found.latents),
        hookpoint="the dictionary's input" if run.hookpoint is None else named(run.hookpoint),
        causal=say("{causal:,}", causal=causal) if causal else "none",
    )
    for one in _checks(found):
        yield _effect(one, found)


def _checks(found: Explanation) -> Iterator[BehaviorCheck]:
    """Yield the checks of the latents together, in generated answers first, which is what a person sees."""
    checks: tuple[tuple[Literal["necessity", "sufficiency"], str, CausalCheck | None], ...] = (
        ("necessity", ANSWERS, found.answers_necessity),
        ("sufficiency", ANSWERS, found.answers_sufficiency),
        ("necessity", found.unit, found.necessity),
        ("sufficiency", found.unit, found.sufficiency),
    )
    for kind, unit, check in checks:
        if check is not None:
            yield BehaviorCheck(kind=kind, unit=unit, check=check)


def _effect(one: BehaviorCheck, found: Explanation) -> Sentence:
    """Return what a check found, what random latents do, and whether it passed."""
    does, check = edit_words(one.kind, found), one.check
    if not check.made:
        return say(
            "in {unit}, what {does} is {why}", unit=one.unit, does=does, why=check.why_not or "not measured"
        )
    return say(
        f"in {{unit}}, {does} {{share}} of {whole_words(found)}, random latents {{random:percent}}: {{passed}}",
        unit=one.unit,
        share=_estimate(check.share, "percent"),
        random=check.random_mean,
        passed="passed" if check_verdict(check) == "pass" else "not passed",
    )


def _estimate(estimate: Estimate, form: str) -> Sentence:
    bounds: Part = ""
    if estimate.low is not None and estimate.high is not None:
        bounds = say(f" ({{low:{form}}} to {{high:{form}}})", low=estimate.low, high=estimate.high)
    return say(f"{{value:{form}}}{{bounds}}", value=estimate.value, bounds=bounds)
