"""The verb `explain`: a chat model writes what a latent fires on, and how well that tells is measured on excerpts it did not see.

Beside each score stands that of the explanation of another latent: a judge for which both are alike does not judge. Every prompt with its
reply is in RUN/explanations/replies.jsonl; the results are in explanations.parquet.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool
from tqdm.auto import tqdm

from crosscoder.config.explanation import ExplanationSettings
from crosscoder.config.load import dump_config
from crosscoder.errors import ConfigError, DataError, ResourceError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic

from ..behaviors.behavior_files import named_by_behaviors
from ..judges.chat_models import ChatModel, Question, open_model, verdict_of
from ..judges.reply_cache import ReplyCache, key_of
from ..latents.trained_run import TrainedRun
from ..tables.columns import WRITTEN
from ..tables.parquet import read_table, write_parquet
from .balanced_accuracy import LEAST, Score, Verdict, balanced_accuracy
from .excerpts import Excerpt, ExcerptFinder, Excerpts
from .explanation_files import WAYS, RuleScore, WrittenFolder, mean_scores, read_rows, read_rules
from .firing_rules import latents_that_fire, latents_that_matter
from .firing_table import read_firings
from .judge_prompts import author_question, detection_question, fuzzing_question, silent_marks
from .token_families import Family, families

logger = logging.getLogger(__name__)

METHOD = "excerpts with what is written into both models"


class Task(NamedTuple):
    """A question whose right answer is known, but for the explanation that is put into it."""

    way: str
    excerpt: Excerpt
    marks: Bool[np.ndarray, " token"] | None
    true: bool

    def question(self, explanation: str) -> Question:
        """With an explanation."""
        if self.marks is None:
            return detection_question(explanation, self.excerpt)
        return fuzzing_question(explanation, self.excerpt, self.marks)


class Case(NamedTuple):
    """A latent to explain; without an author's question there is nothing to show."""

    latent: int
    excerpts: Excerpts
    question: Question | None
    tasks: tuple[Task, ...]


def explain_latents(run: TrainedRun, settings: ExplanationSettings) -> tuple[list[dict[str, Any]], int]:
    """Write RUN/explanations for the latents that the settings choose; the rows of the table, and the tokens that were used.

    Raises:
        ConfigError: The run has no tokens, no latent is chosen, or a model cannot be had.
        ResourceError: More tokens would be used than allowed, or an endpoint gives no reply.
        FormatError: Dictionary, activations or rules are missing or damaged.
    """
    if not run.has_models:
        raise ConfigError(
            f"{run.folder.path}: its activations came from files, without their tokens, so there is no text to explain from; make a run with a pair"
        )
    if settings.author is None:
        raise ConfigError(
            "author: missing; give author.kind=local author.model=PATH, or author.kind=endpoint author.url=URL author.model=NAME"
        )
    place = WrittenFolder(run.folder.explanations)
    latents = _chosen(run.folder, settings)
    cases = _cases(run, settings, latents)
    author = open_model(settings.author, "author")
    judge = author if settings.judge is None else open_model(settings.judge, "judge")
    asking = _Asking(place, author, judge, settings)
    asking.announce(cases)
    texts = asking.explanations(cases)
    rows = list(asking.rows(cases, texts, run.config.analysis.rule.confidence))
    write_atomic(place.settings, dump_config(settings))
    _write(place, rows)
    return rows, asking.spent


def summary_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """In one line: mean scores, and beside each that of other latents' explanations."""
    means = mean_scores(rows)
    parts = [
        f"{way} {means[way].own:.2f}, with another latent's explanation {means[way].control:.2f} (mean of {means[way].n})"
        if way in means
        else f"{way} not measured"
        for way in WAYS
    ]
    unparsed = sum(row[f"{way}_unparsed"] + row[f"{way}_control_unparsed"] for row in rows for way in WAYS)
    return "; ".join(
        [f"{len(rows)} latents", *parts, "chance is 0.5", f"{unparsed} replies were neither yes nor no"]
    )


def _chosen(folder: RunFolder, settings: ExplanationSettings) -> list[int]:
    if not folder.features.is_file():
        raise ConfigError(f"{folder.path}: no analysis; run crosscoder analyze first")
    features = read_table(folder.features, "analyze")
    named = named_by_behaviors(folder)
    first, others = latents_that_matter(features, named)
    if settings.only:
        unknown = sorted(set(settings.only) - {*first, *others})
        if unknown:
            raise ConfigError(f"only: {unknown[0]} is no latent of this dictionary that fires; name others")
        return list(dict.fromkeys(settings.only))
    match settings.latents:
        case "claimed":
            found = first
        case "named":
            found = [latent for latent in first if latent in named]
        case "top":
            found = latents_that_fire(features)
    if not found:
        raise ConfigError(
            f"latents: no latent of this run is {settings.latents}; give latents=top, or name some with only"
        )
    return found[: settings.limit]


def _cases(run: TrainedRun, settings: ExplanationSettings, latents: Sequence[int]) -> list[Case]:
    context, seed = run.document_context, run.config.seed
    firings = read_firings(run.reader, run.view, latents, settings.tokens, seed, "excerpts")
    finder = ExcerptFinder(firings, context, settings.window, settings.seed, seed)
    kinds = families(context.documents, context.vocabulary, firings.document, firings.position)
    rules = read_rules(run.folder)
    cases = []
    for latent in latents:
        holds = _holds(rules.get(latent), kinds)
        excerpts = finder.find(latent, settings.shown, settings.shown_silent, settings.scored, holds)
        question = author_question(excerpts, settings.reply_tokens) if excerpts.shown else None
        cases.append(
            Case(latent, excerpts, question, tuple(_tasks(latent, excerpts, settings)) if question else ())
        )
    if not any(case.question for case in cases):
        raise DataError(
            "latents: none of them fires in the documents that explanations are found on; choose others"
        )
    return cases


def _tasks(latent: int, excerpts: Excerpts, settings: ExplanationSettings) -> Iterator[Task]:
    """As many of each kind as there are, no excerpt in both ways to score where there are enough."""
    scored = settings.scored
    for excerpt in excerpts.scored[:scored]:
        yield Task("detection", excerpt, None, True)
    for excerpt in excerpts.scored_silent:
        yield Task("detection", excerpt, None, False)
    turned = [*excerpts.scored[scored:], *excerpts.scored[:scored]]
    drawn = [
        (excerpt, silent_marks(excerpt, (settings.seed, latent, excerpt.document))) for excerpt in turned
    ]
    able = [(excerpt, marks) for excerpt, marks in drawn if marks is not None][: 2 * scored]
    for place, (excerpt, marks) in enumerate(able):
        true = place % 2 == 0
        yield Task("fuzzing", excerpt, excerpt.fires if true else marks, true)


class _Asking:
    """Asks what is not known yet, and keeps count of the tokens."""

    def __init__(
        self, place: WrittenFolder, author: ChatModel, judge: ChatModel, settings: ExplanationSettings
    ) -> None:
        self.author, self.judge, self.settings = author, judge, settings
        self.kept = ReplyCache(place.replies)
        self.spent = 0
        """Tokens of prompts and replies that this command used."""

    def announce(self, cases: Sequence[Case]) -> None:
        """Say what will be asked, and refuse where it is more than allowed."""
        # Of an explanation that is not written yet only its greatest length is known.
        blank = "x" * 4 * self.settings.reply_tokens
        known = {case.latent: self._known(case) or blank for case in cases}
        author = self.kept.unknown(self.author, (case.question for case in cases if case.question))
        others = _others(list(known), self.settings.seed)
        judged = [
            task.question(known[source])
            for case in cases
            for source in dict.fromkeys((case.latent, others.get(case.latent, case.latent)))
            for task in case.tasks
        ]
        fresh = [question for question in judged if self.kept.known(self.judge, question) is None]
        tokens = sum(self._most(self.author, question) for question in author)
        tokens += sum(self._most(self.judge, question) for question in fresh)
        logger.info(
            "explain: %d latents; at most %d prompts to %s and %d to %s, about %s tokens in all of at most %s; the other replies are kept",
            len(cases), len(author), self.author.name, len(fresh), self.judge.name, f"{tokens:,}", f"{self.settings.max_tokens:,}",
        )  # fmt: skip
        if tokens > self.settings.max_tokens:
            raise ResourceError(
                f"max_tokens: {len(author) + len(fresh)} prompts need about {tokens} tokens, the limit is {self.settings.max_tokens}; raise it, "
                "or explain fewer latents (limit), or score on fewer excerpts (scored)"
            )

    def explanations(self, cases: Sequence[Case]) -> dict[int, str]:
        """By latent; a reply of several lines is one text, an empty one is none."""
        texts = {}
        for case in tqdm([case for case in cases if case.question], desc="explain", unit=" latents"):
            assert case.question is not None
            self._ask(self.author, case.question)
            if text := self._known(case):
                texts[case.latent] = text
        return texts

    def rows(
        self, cases: Sequence[Case], texts: Mapping[int, str], confidence: float
    ) -> Iterator[dict[str, Any]]:
        """One for each latent, as in explanations.parquet."""
        others = _others(list(texts), self.settings.seed)
        for case in tqdm(cases, desc="score", unit=" latents"):
            text = texts.get(case.latent)
            row: dict[str, Any] = {
                "latent": case.latent, "text": text, "reason": _why_not(case, text), "method": METHOD,
                "author": self.author.name, "judge": self.judge.name,
                "prompt_digest": key_of(self.author, case.question) if case.question else None,
                "n_shown": len(case.excerpts.shown), "n_shown_silent": len(case.excerpts.shown_silent),
                "control_latent": others.get(case.latent),
            }  # fmt: skip
            of_rule = [
                Verdict(task.true, task.excerpt.rule_holds) for task in case.tasks if task.way == "detection"
            ]
            row["detection_rule"] = balanced_accuracy(of_rule, confidence).value
            asked = [(self.author, case.question)] if case.question else []
            for suffix, source in (("", case.latent), ("_control", others.get(case.latent))):
                said = texts.get(source) if source is not None else None
                for way in WAYS:
                    tasks = [] if said is None else [task for task in case.tasks if task.way == way]
                    questions = [task.question(said) for task in tasks if said is not None]
                    replies = [self._ask(self.judge, question) for question in questions]
                    verdicts = [
                        Verdict(task.true, verdict_of(reply))
                        for task, reply in zip(tasks, replies, strict=True)
                    ]
                    row |= _columns(way + suffix, balanced_accuracy(verdicts, confidence))
                    asked += [(self.judge, question) for question in questions]
            replies = [
                reply
                for model, question in dict.fromkeys(asked)
                if (reply := self.kept.known(model, question))
            ]
            row["prompt_tokens"] = sum(reply.prompt_tokens for reply in replies)
            row["reply_tokens"] = sum(reply.reply_tokens for reply in replies)
            yield row

    def _known(self, case: Case) -> str:
        reply = None if case.question is None else self.kept.known(self.author, case.question)
        return "" if reply is None else " ".join(reply.text.split())

    def _ask(self, model: ChatModel, question: Question) -> str:
        if (kept := self.kept.known(model, question)) is not None:
            return kept.text
        # The estimate beforehand may have been too small.
        if self.spent + self._most(model, question) > self.settings.max_tokens:
            raise ResourceError(
                f"max_tokens: {self.spent} tokens are used, and the next prompt would pass the limit of {self.settings.max_tokens}; raise it: "
                "replies so far are kept, so the same command goes on"
            )
        reply = self.kept.ask(model, question)
        self.spent += reply.prompt_tokens + reply.reply_tokens
        return reply.text

    def _most(self, model: ChatModel, question: Question) -> int:
        return model.tokens_of(question.prompt) + question.most_tokens


def _others(latents: Sequence[int], seed: int) -> dict[int, int]:
    """For each latent another one, whose explanation it gets as a control; none where there is no other."""
    if len(latents) < 2:
        return {}
    order = np.random.default_rng(seed).permutation(sorted(latents)).tolist()
    return dict(zip(order, [*order[1:], order[0]], strict=True))


def _why_not(case: Case, text: str | None) -> str | None:
    """Why there is no explanation, or no score of it."""
    if case.question is None:
        return "fires in no document that explanations are found on"
    if text is None:
        return "the author's reply is empty"
    counts = len(case.excerpts.scored), len(case.excerpts.scored_silent)
    if min(counts) < LEAST:
        return f"too few excerpts of other documents to score detection on: it fires in {counts[0]}, and is silent in {counts[1]} (fewer than {LEAST})"
    return None


def _columns(name: str, score: Score) -> dict[str, Any]:
    return {
        name: score.value, f"{name}_low": score.low, f"{name}_high": score.high, f"{name}_n": score.n,
        f"{name}_unparsed": score.unparsed,
    }  # fmt: skip


def _holds(rule: RuleScore | None, kinds: Sequence[Family]) -> Bool[np.ndarray, " token"] | None:
    """Whether a rule of the file holds on each token of a table; its items are known by their texts."""
    kind = next((kind for kind in kinds if rule is not None and kind.name == rule.family), None)
    if rule is None or kind is None:
        return None
    named = set(rule.items)
    inside = np.array([text in named for text in kind.texts], dtype=bool)
    return inside[kind.key] ^ bool(rule.negated)


def _write(place: WrittenFolder, rows: Sequence[dict[str, Any]]) -> None:
    """Rows of other latents, authors and judges stay."""

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["latent"], row["author"], row["judge"]

    fresh = {key(row) for row in rows}
    kept = [row for row in read_rows(place.table, WRITTEN.schema(), "explain") if key(row) not in fresh]
    table = pa.Table.from_pylist(sorted([*kept, *rows], key=key), schema=WRITTEN.schema())
    write_parquet(place.table, table)
