"""Tests of hypotheses on the claim set, which did not find them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from ..behaviors.multiple_testing import benjamini_hochberg
from .answer_table import AnswerTable, sides
from .findings_file import Rates
from .hypotheses import Hypothesis
from .rates import Interval, auroc, depends_on, difference, information, more_often, rates_of
from .triggers import Always, PromptFeatures

_FEW_FAMILIES = 2
_ONE_QUESTION = 0.5
"""The difference that counts on one or two questions alone, in whatever words: any training changes how often a model answers some question
in a certain way, so only a change of nearly all answers is told."""


class HypothesisTest(NamedTuple):
    """A hypothesis with its test on the claim set."""

    hypothesis: Hypothesis
    holds: Bool[np.ndarray, " prompt"]
    """The prompts that meet the trigger."""

    shown_more: Bool[np.ndarray, " prompt"]
    """Whether the answer of the model that shows the effect more often shows it."""

    shown_less: Bool[np.ndarray, " prompt"]
    """Whether that of the other model does."""

    with_trigger: Rates
    without_trigger: Rates | None
    difference: Interval
    """Intervened minus reference, with the trigger."""

    auroc: Interval | None
    p_value: float
    n_families: int
    """Prompts that meet the trigger, the wordings of one prompt counted once."""

    n_cut: int
    """Prompts that meet the trigger whose answer was cut before an effect that comes at the end; 0 for other effects."""

    q_value: float = 1.0

    @property
    def changed(self) -> Bool[np.ndarray, " prompt"]:
        """The prompts on which the effect appears, or vanishes."""
        return self.shown_more & ~self.shown_less

    @property
    def information(self) -> float:
        """Nats that the effect tells about which model answered, over the prompts that meet the trigger: an effect that one model never
        shows tells more than one that both show, if the difference is the same."""
        both = self.with_trigger
        return information(both.reference.count, both.intervened.count, both.n)

    def stands(self, false_discovery_rate: float, least_difference: float) -> bool:
        """Whether the hypothesis is a finding."""
        end = self.difference.low if self.hypothesis.direction == "gained" else -self.difference.high
        least = max(least_difference, _ONE_QUESTION) if self.n_families <= _FEW_FAMILIES else least_difference
        return self.q_value <= false_discovery_rate and end > least


def check_hypotheses(
    hypotheses: Sequence[Hypothesis],
    table: AnswerTable,
    prompts: PromptFeatures,
    false_discovery_rate: float,
    least_difference: float,
) -> list[HypothesisTest]:
    """Return the test of every hypothesis, with q-values over all of them.

    The hypotheses come in the order in which they were found, the clearest first. A change of many answers also changes how often
    they show anything else, so a hypothesis has to hold on the prompts that earlier findings leave unchanged, too: one with a trigger
    on those that findings with a trigger leave, one without on those that all findings leave.
    """
    tests = _with_q_values([_test(hypothesis, table, prompts) for hypothesis in hypotheses])
    by_trigger, by_any = (np.zeros(len(prompts), dtype=bool) for _ in range(2))
    for place, one in enumerate(tests):
        if not one.stands(false_discovery_rate, least_difference):
            continue
        always = isinstance(one.hypothesis.trigger, Always)
        left = one.holds & ~(by_any if always else by_trigger)
        alone = more_often(one.shown_more[left], one.shown_less[left])
        tests[place] = one._replace(p_value=max(one.p_value, alone))
        if _with_q_values(tests)[place].stands(false_discovery_rate, least_difference):
            by_any |= one.changed & one.holds
            if not always:
                by_trigger |= one.changed & one.holds
    return _with_q_values(tests)


def findings_of(
    tests: Sequence[HypothesisTest], false_discovery_rate: float, least_difference: float
) -> list[HypothesisTest]:
    """Return the hypotheses that stand, first the one by which a person could best tell which model answered; effects of marks alone, which
    say little to a person, come last."""
    standing = [one for one in tests if one.stands(false_discovery_rate, least_difference)]
    return sorted(standing, key=lambda one: (not one.hypothesis.effect.has_words, -one.information))


def _with_q_values(tests: Sequence[HypothesisTest]) -> list[HypothesisTest]:
    q_values = benjamini_hochberg(np.array([one.p_value for one in tests], dtype=np.float64))
    return [one._replace(q_value=float(q)) for one, q in zip(tests, q_values, strict=True)]


def _test(hypothesis: Hypothesis, table: AnswerTable, prompts: PromptFeatures) -> HypothesisTest:
    shown = [table.shown(hypothesis.effect, model) for model in (0, 1)]
    more, less = sides(hypothesis.direction)
    holds, always = hypothesis.trigger.holds(prompts), isinstance(hypothesis.trigger, Always)
    changed = shown[more] & ~shown[less]
    cut = table.cut(hypothesis.effect, hypothesis.direction)
    cut &= hypothesis.at_the_end
    p_value = more_often(shown[more][holds], shown[less][holds])
    if not always:
        # Both have to hold: that the models differ after the trigger, and that the trigger matters.
        p_value = max(p_value, depends_on(changed[~cut], holds[~cut]))
    inside = rates_of(shown[0][holds], shown[1][holds])
    return HypothesisTest(
        hypothesis,
        holds,
        shown[more],
        shown[less],
        inside,
        None if always else rates_of(shown[0][~holds], shown[1][~holds]),
        difference(inside.intervened.count, inside.reference.count, inside.n),
        None if always else auroc(changed[~cut], hypothesis.trigger.scores(prompts)[~cut]),
        min(1.0, p_value),
        len(set(prompts.family[holds].tolist())),
        int((holds & cut).sum()),
    )
