"""The search: both models answer prompts, hypotheses are found in half of the answers and tested in the other half.

In a second round, the prompts on which the answers differ most, with or without a reason found so far, are asked again in other words,
together with questions like them: a fact that changed is one prompt in hundreds, and shows an effect in no other. The same search runs
on nulls, where nothing changed.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np
from jaxtyping import Bool, Float64

from crosscoder.config import DiscoveryConfig, TokenPolicy
from crosscoder.language_models.pair import ModelPair

from ..behaviors.patching import INTERVENED
from ..behaviors.prompts import Prompt
from .answer_features import Answer, LengthLevels
from .answer_table import AnswerPair, AnswerTable
from .held_out_tests import HypothesisTest, check_hypotheses, findings_of
from .hypotheses import Hypothesis, find_hypotheses
from .probes import Probe, variants_of
from .prompt_embeddings import PromptEmbedding, embed, joined, standardized
from .similar_questions import similar_questions
from .subjects import Subject, TimeSpent
from .triggers import Always, PromptFeatures, prompt_words

_CLEAR = 3.5
"""Clearness from which a hypothesis explains the prompts on which the answers differ as it says."""

_MANY_EXAMPLES = 32
"""Questions of the find set that show an effect, from which on more are not needed to tell when it shows."""


@dataclass
class Asked:
    """Prompts with the answers of both models."""

    probes: list[Probe] = field(default_factory=list)
    reference: list[Answer] = field(default_factory=list)
    intervened: list[Answer] = field(default_factory=list)

    def ask(self, probes: Sequence[Probe], models: tuple[Subject, Subject]) -> None:
        """Ask both models further prompts."""
        prompts = [probe.prompt for probe in probes]
        answers = [model.answers(prompts) for model in models]
        self.probes += probes
        self.reference += answers[0]
        self.intervened += answers[1]

    def move_to_find_set(self, chosen: Sequence[int]) -> None:
        """Move some prompts to the find set."""
        for i in chosen:
            self.probes[i] = replace(self.probes[i], find=True)

    @property
    def in_find(self) -> Bool[np.ndarray, " prompt"]:
        """Which prompts are in the find set."""
        return np.array([probe.find for probe in self.probes], dtype=bool)

    @property
    def answers(self) -> AnswerPair:
        """The answers to all prompts."""
        return AnswerPair(self.reference, self.intervened)

    def half(self, find: bool) -> AnswerPair:
        """Return the answers to the find set or to the claim set."""
        chosen = np.flatnonzero(self.in_find == find)
        return AnswerPair([self.reference[i] for i in chosen], [self.intervened[i] for i in chosen])

    def first_round(self) -> "Asked":
        """Return the prompts of the first round."""
        return self.subset([i for i, probe in enumerate(self.probes) if probe.near is None])

    def subset(self, chosen: Sequence[int]) -> "Asked":
        """Return some of the prompts with their answers."""
        reference, intervened = ([side[i] for i in chosen] for side in (self.reference, self.intervened))
        return Asked([self.probes[i] for i in chosen], reference, intervened)

    def probes_of(self, find: bool) -> list[Probe]:
        """Return the prompts of the find set or of the claim set."""
        return [probe for probe in self.probes if probe.find == find]


@dataclass
class SearchResult:
    """What a search found."""

    asked: Asked
    table: AnswerTable
    """Of the answers to all prompts asked."""

    tested: list[HypothesisTest]
    findings: list[HypothesisTest]
    incomplete: str | None


class PromptReader:
    """Reads the features of prompts, each once."""

    def __init__(self, pair: ModelPair, policy: TokenPolicy, other: int = INTERVENED) -> None:
        """
        Args:
            other: The model whose difference from the reference is read.
        """
        self._pair, self._policy, self._other = pair, policy, other
        self._known: dict[str, PromptEmbedding] = {}

    def features(self, asked: Asked, of: Sequence[Probe] | None = None) -> PromptFeatures:
        """Return the features of some prompts, by default of all asked, in units of the spread over those asked."""
        probes = asked.probes if of is None else of
        # Variants of a few prompts and questions like them would shift the mean.
        like = self._embedded([probe.prompt for probe in asked.probes if probe.near is None])
        embedding = standardized(self._embedded([probe.prompt for probe in probes]), like)
        words = tuple(prompt_words(probe.prompt.text) for probe in probes)
        return PromptFeatures(
            words,
            embedding,
            np.array([probe.family for probe in probes]),
            np.array([probe.neighborhood for probe in probes]),
            np.array([probe.near is None for probe in probes], dtype=bool),
        )

    def _embedded(self, prompts: Sequence[Prompt]) -> PromptEmbedding:
        missing = [prompt for prompt in prompts if prompt.text not in self._known]
        if missing:
            found = embed(self._pair, missing, self._policy, self._other).rows()
            self._known |= {prompt.text: row for prompt, row in zip(missing, found, strict=True)}
        return joined([self._known[prompt.text] for prompt in prompts])


def search(
    models: tuple[Subject, Subject],
    probes: Sequence[Probe],
    reader: PromptReader,
    settings: DiscoveryConfig,
    seed: int,
) -> SearchResult:
    """Return what changed from the first to the second model.

    Raises:
        TimeSpent: Not even the first round was finished.
    """
    state = _Search(models, reader, settings, seed, probes)
    incomplete = None
    try:
        state.ask_again()
    except TimeSpent:
        incomplete = (
            "its time (discovery.minutes) was spent before the prompts on which the models differ most were asked again in other words, so "
            "changes that concern one question only may be missed"
        )
    else:
        try:
            state.sharpen()
        except TimeSpent:
            incomplete = (
                "its time (discovery.minutes) was spent before more questions like those that show an effect were asked, so when an effect "
                "shows is told less exactly"
            )
    return _tested(state.asked, state.table, state.hypotheses, reader, settings, incomplete)


class _Search:
    """The rounds of a search: what was asked so far, and the hypotheses that the find set suggests."""

    def __init__(
        self,
        models: tuple[Subject, Subject],
        reader: PromptReader,
        settings: DiscoveryConfig,
        seed: int,
        probes: Sequence[Probe],
    ) -> None:
        """Ask the prompts of the first round.

        Raises:
            TimeSpent: No time is left.
        """
        self._models, self._reader, self._settings, self._seed = models, reader, settings, seed
        self.asked = Asked()
        self.asked.ask(probes, models)
        self._lengths = LengthLevels.of(self.asked.half(find=True).reference)
        self._read()

    def ask_again(self) -> None:
        """Ask the prompts on which the answers differ most in other words, and questions like them.

        Raises:
            TimeSpent: No time is left.
        """
        chosen = _most_different(
            self.asked, self._models, self.hypotheses, self.table, self._settings.variants
        )
        further = _further(self.asked, chosen, self._models[0], self._settings)
        if further:
            # Their answers chose them, so they cannot test anything any more.
            self.asked.move_to_find_set(chosen)
            self.asked.ask(further, self._models)
            self._read()

    def sharpen(self) -> None:
        """Ask questions like those of the find set that show an effect with a trigger: examples of the trigger, and counterexamples near to it.

        Raises:
            TimeSpent: No time is left.
        """
        used: set[int] = set()
        for _ in range(self._settings.rounds):
            examples = self._examples(used)
            if not examples:
                return
            used.update(self.asked.probes[place].family for place in examples)
            questions = similar_questions(
                [self.asked.probes[place] for place in examples],
                self.asked.probes,
                self._models[0],
                self._settings.answer_tokens,
            )
            if questions:
                self.asked.ask(questions, self._models)
                self._read()

    def _read(self) -> None:
        self.table = AnswerTable.of(self.asked.answers, self._lengths)
        self.hypotheses = _hypotheses(self.asked, self.table, self._reader, self._seed)

    def _examples(self, used: Set[int]) -> list[int]:
        """Return prompts of the find set that show an effect of which few examples are known, the effects in turn; one of each family, and
        none of a family that was used."""
        chats = self.asked.in_find & [probe.text.messages is not None for probe in self.asked.probes]
        queues: list[Iterator[int]] = []
        for hypothesis in self.hypotheses:
            if isinstance(hypothesis.trigger, Always) or hypothesis.clearness < _CLEAR:
                continue
            shown = self.table.changed(hypothesis.effect, hypothesis.direction) & chats
            family_of = {self.asked.probes[place].family: int(place) for place in np.flatnonzero(shown)}
            if len(family_of) < _MANY_EXAMPLES:
                queues.append(place for family, place in family_of.items() if family not in used)
        return list(dict.fromkeys(_in_turn(queues)))[: self._settings.variants]


def _in_turn(queues: Sequence[Iterator[int]]) -> Iterator[int]:
    """Yield the first of each, then the second of each, until all are empty."""
    for row in zip_longest(*queues):
        yield from (one for one in row if one is not None)


def search_answers(asked: Asked, reader: PromptReader, settings: DiscoveryConfig, seed: int) -> SearchResult:
    """Return what changed according to answers that are given; nothing more is asked."""
    table = AnswerTable.of(asked.answers, LengthLevels.of(asked.half(find=True).reference))
    return _tested(asked, table, _hypotheses(asked, table, reader, seed), reader, settings, None)


def _tested(
    asked: Asked,
    table: AnswerTable,
    hypotheses: Sequence[Hypothesis],
    reader: PromptReader,
    settings: DiscoveryConfig,
    incomplete: str | None,
) -> SearchResult:
    claim_set = ~asked.in_find
    limits = settings.false_discovery_rate, settings.least_difference
    tested = check_hypotheses(
        hypotheses, table.subset(claim_set), reader.features(asked).subset(claim_set), *limits
    )
    return SearchResult(asked, table, tested, findings_of(tested, *limits), incomplete)


def _hypotheses(asked: Asked, table: AnswerTable, reader: PromptReader, seed: int) -> list[Hypothesis]:
    in_find = asked.in_find
    return find_hypotheses(table.subset(in_find), reader.features(asked).subset(in_find), seed)


def _further(
    asked: Asked, chosen: Sequence[int], reference: Subject, settings: DiscoveryConfig
) -> list[Probe]:
    """Return some prompts in other words, and questions like them."""
    probes = [asked.probes[i] for i in chosen]
    variants = variants_of(probes, reference.pair, settings.answer_tokens)
    chats = [probe for probe in probes if probe.text.messages is not None]
    if not chats:
        return variants
    known = [*asked.probes, *variants]
    return variants + similar_questions(chats, known, reference, settings.answer_tokens)


def _most_different(
    asked: Asked,
    models: tuple[Subject, Subject],
    hypotheses: Sequence[Hypothesis],
    table: AnswerTable,
    n: int,
) -> list[int]:
    """Return the prompts whose answers tell the models apart most clearly: half of them among all prompts, the others among those that no
    clear hypothesis explains.

    A training changes the wording of many answers, and the question whose content it changed can be among these; or one change of style
    is most of the difference, and hides every other. An answer tells the models apart by the log-ratio of its probabilities in both,
    per token; both models' answers count.
    """
    if not n or models[0].pair.readers is not None:
        return []
    ratio = _log_ratio(asked, models)
    # Openings have no topic, and their answers vary most.
    ratio[[probe.origin == "openings" for probe in asked.probes]] = -np.inf
    explained = np.zeros(len(ratio), dtype=bool)
    for hypothesis in hypotheses:
        if hypothesis.clearness >= _CLEAR:
            explained |= table.changed(hypothesis.effect, hypothesis.direction)
    order = [int(place) for place in np.argsort(-ratio, kind="stable") if np.isfinite(ratio[place])]
    among_all = order[: n // 2]
    unexplained = [place for place in order if place not in among_all and not explained[place]]
    return among_all + unexplained[: n - len(among_all)]


def _log_ratio(asked: Asked, models: tuple[Subject, Subject]) -> Float64[np.ndarray, " prompt"]:
    """Return how much more probable, per token, both answers to each prompt are in their own model than in the other, in nats."""
    prompts = [probe.prompt for probe in asked.probes]
    ratio = np.zeros(len(prompts))
    for side, other in ((asked.intervened, models[0]), (asked.reference, models[1])):
        own = np.array([answer.log_probability for answer in side])
        ratio += own - other.log_probability(prompts, side)
    return ratio
