"""What was found, as the record says it: names, rates, and examples of both models' answers."""

import re

import numpy as np

from .findings_file import Effect, Example, Finding, Trigger
from .held_out_tests import HypothesisTest
from .search import Asked, SearchResult

_EXAMPLES = 4
_PROMPTS = 8
_NAME_WORDS = 4


def finding_records(result: SearchResult) -> tuple[Finding, ...]:
    """Return the records of all findings, with distinct names."""
    return tuple(
        _finding(_name(place, tested), tested, result.asked)
        for place, tested in enumerate(result.findings, start=1)
    )


def changed_share(result: SearchResult) -> float | None:
    """Return the share of the claim prompts on which the effect of any finding is in one model's answer only; None without findings."""
    if not result.findings:
        return None
    return float(np.any([one.changed & one.holds for one in result.findings], axis=0).mean())


def _name(place: int, tested: HypothesisTest) -> str:
    words = re.findall(r"[a-z0-9]+", tested.hypothesis.effect.text.lower())[:_NAME_WORDS]
    return "-".join(("found", str(place), *words))


def _finding(name: str, tested: HypothesisTest, asked: Asked) -> Finding:
    hypothesis = tested.hypothesis
    effect = hypothesis.effect
    return Finding(
        name=name,
        direction=hypothesis.direction,
        effect=Effect(
            kind=effect.kind,
            text=effect.text,
            also=tuple(one.text for one in hypothesis.also),
            pattern=effect.pattern,
        ),
        trigger=_trigger(tested, asked),
        with_trigger=tested.with_trigger,
        without_trigger=tested.without_trigger,
        cut=tested.n_cut,
        difference=tested.difference.value,
        difference_low=tested.difference.low,
        difference_high=tested.difference.high,
        p_value=tested.p_value,
        q_value=tested.q_value,
        examples=_examples(tested, asked),
        behavior=None if effect.pattern is None else f"discovery/behaviors/{name}.yaml",
    )


def _trigger(tested: HypothesisTest, asked: Asked) -> Trigger:
    area = tested.auroc
    probes = asked.probes_of(find=False)
    return Trigger(
        kind=tested.hypothesis.trigger.kind,
        words=tested.hypothesis.trigger.words,
        prompts=tuple(probes[i].prompt.text for i in _shown_first(tested, asked)[:_PROMPTS]),
        auroc=None if area is None else area.value,
        auroc_low=None if area is None else area.low,
        auroc_high=None if area is None else area.high,
    )


def _examples(tested: HypothesisTest, asked: Asked) -> tuple[Example, ...]:
    probes, answers = asked.probes_of(find=False), asked.half(find=False)
    return tuple(
        Example(
            prompt=probes[i].prompt.text,
            reference=answers.reference[i].text,
            intervened=answers.intervened[i].text,
        )
        for i in _shown_first(tested, asked)[:_EXAMPLES]
    )


def _shown_first(tested: HypothesisTest, asked: Asked) -> list[int]:
    """Return the prompts that meet the trigger: in their order, but those that changed first, and those of the second round last."""
    probes = asked.probes_of(find=False)
    order = np.flatnonzero(tested.holds).tolist()
    return sorted(order, key=lambda i: (not tested.changed[i], probes[i].near is not None, i))
