"""The checks that the sentences at the top of a report rest on, each with its verdict, and the gate that every finding passes.

Names: `conditions/…` (conditions for labels), `labels/…` (replication, q-values), `change/…` (elements of the change),
`behaviors/NAME/…` (the shift of a behavior, and the causal checks of its latents), `discovery/…` (findings).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..discovery.findings_file import Discovery
from ..labels.rule import CLAIMED
from ..tables.analysis_files import AnalysisResults
from .behavior_schema import BehaviorShift, CausalCheck
from .discovery_grounds import discovery_grounds
from .fields import Verdict
from .headline_schema import About, Ground, Headline, Kind
from .label_conditions import conditions_of, found_by, verdict_of
from .phrases import NOT_MEASURED, unit_format
from .wording import Sentence, say

FOUND_AGAIN = "labels/found_again"
Q_VALUES = "labels/q_values"

# Largest corrected p-value of an element of the change, as `analysis.change` establishes them.
_LARGEST_P = 0.05


class Draft(NamedTuple):
    """A sentence of the opening before the gate."""

    text: Sentence
    rests_on: tuple[str, ...] = ()
    kind: Kind = "finding"
    otherwise: Sentence | None = None
    """What is said if one of the checks did not pass; None: nothing."""

    about: About = "activations"


class Grounds:
    """All checks of a report, by name."""

    def __init__(self, grounds: Iterable[Ground]) -> None:
        self.by_name: dict[str, Ground] = {ground.name: ground for ground in grounds}

    def verdict(self, name: str) -> Verdict:
        """Return the verdict of a check; one that is unknown was not made."""
        found = self.by_name.get(name)
        return NOT_MEASURED if found is None else found.verdict

    def passed(self, *names: str) -> bool:
        """Whether all of these checks passed."""
        return all(self.verdict(name) == "pass" for name in names)

    def measured(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of the names whose check was made."""
        return tuple(name for name in names if self.verdict(name) != NOT_MEASURED)

    def settle(self, drafts: Iterable[Draft]) -> Iterator[Headline]:
        """Yield the sentences that may be said: a finding only if it rests on at least one check and all of them passed."""
        for draft in drafts:
            if draft.kind != "finding":
                yield Headline(kind=draft.kind, about=draft.about, text=draft.text, rests_on=())
            elif draft.rests_on and self.passed(*draft.rests_on):
                yield Headline(kind="finding", about=draft.about, text=draft.text, rests_on=draft.rests_on)
            elif draft.otherwise is not None:
                yield Headline(kind="not established", about=draft.about, text=draft.otherwise, rests_on=())


def grounds_of(
    results: AnalysisResults, behaviors: Sequence[BehaviorShift], discovered: Discovery | None
) -> Grounds:
    """Return every check of a run that a sentence of the opening can rest on."""
    found = [*discovery_grounds(discovered)]
    found += [*_conditions(results.summary), *_label_grounds(results), *_change(results.summary)]
    for behavior in behaviors:
        found += _behavior_grounds(behavior)
    return Grounds(found)


def condition_names(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the grounds that are conditions for labels."""
    return tuple(f"conditions/{name}" for name in conditions_of(summary))


def behavior_ground(name: str, *parts: str) -> str:
    """Return the name of a check of a behavior."""
    return "/".join(("behaviors", name, *parts))


def _conditions(summary: Mapping[str, Any]) -> Iterator[Ground]:
    for name, entry in conditions_of(summary).items():
        yield Ground(
            name=f"conditions/{name}", verdict=verdict_of(entry), found=found_by(name, entry, summary)
        )


def _label_grounds(results: AnalysisResults) -> Iterator[Ground]:
    """Yield whether every label that claims a change was found again by the other trainings, and has a small enough q-value."""
    features, rule = results.features, results.summary.get("rule") or {}
    claimed = features[features["label"].isin(CLAIMED)]
    asked = rule.get("replications") or 0
    seeds = (results.summary.get("controls") or {}).get("seeds") or 0
    if asked:
        again = _column(claimed, "label_stability")
        all_again = bool((again >= 1).all())
        yield Ground(
            name=FOUND_AGAIN,
            verdict=NOT_MEASURED if seeds < asked else "pass" if all_again else "fail",
            found=say(
                "{again:,} of {claimed:counted latent} labeled as changed are found again, with the same label, by all of {seeds:counted other "
                "training}; {asked} are asked for",
                again=int((again >= 1).sum()),
                claimed=len(claimed),
                seeds=seeds,
                asked=asked,
            ),
        )
    limit = rule.get("false_discovery_rate")
    if limit is not None and "q_value" in features and bool(features["q_value"].notna().any()):
        q_values = _column(claimed, "q_value")
        known = q_values[np.isfinite(q_values)]
        yield Ground(
            name=Q_VALUES,
            verdict="pass" if bool((known <= limit).all()) else "fail",
            found=say(
                "{within:,} of {claimed:counted latent} labeled as changed have a q-value of at most {limit:g}",
                within=int((known <= limit).sum()),
                claimed=len(known),
                limit=limit,
            ),
        )


def _column(table: Any, name: str) -> np.ndarray:
    return (
        table[name].to_numpy(dtype=float, na_value=np.nan) if name in table else np.full(len(table), np.nan)
    )


def _change(summary: Mapping[str, Any]) -> Iterator[Ground]:
    """Yield whether each element of the change is established."""
    change = summary.get("change")
    if not change:
        return
    for name in ("offset", "map"):
        element = change[name]
        yield Ground(
            name=f"change/{name}",
            verdict="pass" if element["established"] else "fail",
            found=say("{share:percent} of the squared change", share=change["parts"][name]["share"]),
        )
    subspaces = change["subspaces"]
    if subspaces:
        worst = max(entry["p"] for entry in subspaces)
        yield Ground(
            name="change/subspaces",
            verdict="pass" if worst <= _LARGEST_P else "fail",
            found=say("{subspaces:counted subspace}, largest p {p:.2g}", subspaces=len(subspaces), p=worst),
        )


def _behavior_grounds(behavior: BehaviorShift) -> Iterator[Ground]:
    """Yield whether the shift is established, and the checks of its latents together."""
    form = unit_format(behavior.unit)
    yield Ground(
        name=behavior_ground(behavior.name, "shift"),
        verdict="pass" if behavior.established else "fail",
        found=say(
            f"a shift of {{shift:{form}}} ({{unit}}) on {{prompts:counted held-out prompt}}",
            shift=behavior.shift.value,
            unit=behavior.unit,
            prompts=behavior.n_prompts,
        ),
    )
    explanation = behavior.explanation
    if explanation is None:
        return
    against = explanation.against
    checks = {
        ("together", "necessity"): explanation.necessity,
        ("together", "sufficiency"): explanation.sufficiency,
        ("answers", "necessity"): explanation.answers_necessity,
        ("answers", "sufficiency"): explanation.answers_sufficiency,
        ("against", "necessity"): None if against is None else against.necessity,
        ("against", "sufficiency"): None if against is None else against.sufficiency,
    }
    for parts, check in checks.items():
        if check is not None:
            yield Ground(
                name=behavior_ground(behavior.name, *parts),
                verdict=check_verdict(check),
                found=say(
                    "{share:percent} of the shift; random latents {random:percent} on average in {draws:counted draw}",
                    share=check.share.value,
                    random=check.random_mean,
                    draws=check.n_random,
                ),
            )


def check_verdict(check: CausalCheck) -> Verdict:
    """Return the verdict of a causal check; one that was not made is not measured."""
    return NOT_MEASURED if not check.made or check.passed is None else "pass" if check.passed else "fail"
