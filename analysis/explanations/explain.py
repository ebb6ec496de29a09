"""The verb `explain`: a chat model describes what a latent fires on, and the description is scored on excerpts it did not see.

Each score is reported with the score of another latent's explanation as a control: if both are equal, the judge does not discriminate.
Prompts and replies are stored in RUN/explanations/replies.jsonl, results in explanations.parquet.
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
from .balanced_accuracy import MIN_VERDICTS, Score, Verdict, balanced_accuracy
from .excerpts import Excerpt, ExcerptFinder, Excerpts
from .explanation_files import (
    SCORE_KINDS,
    ExplanationFolder,
    RuleScore,
    mean_scores,
    read_rows,
    read_rules,
)
from .firing_rules import claimed_and_others, firing_latents
from .firing_table import read_firings
from .judge_prompts import author_question, decoy_marks, detection_question, fuzzing_question
from .token_families import TokenFamily, token_families

logger = logging.getLogger(__name__)

METHOD = "excerpts with what is written into both models"


class Task(NamedTuple):
    """A question with a known answer, into which an explanation is inserted."""

    kind: str
    excerpt: Excerpt
    marks: Bool[np.ndarray, " token"] | None
    truth: bool

    def question(self, explanation: str) -> Question:
        """Return the question for an explanation."""
        if self.marks is None:
            return detection_question(explanation, self.excerpt)
        return fuzzing_question(explanation, self.excerpt, self.marks)


class Case(NamedTuple):
    """A latent to explain; `question` is None if no excerpt can be shown to the author."""

    latent: int
    excerpts: Excerpts
    question: Question | None
    tasks: tuple[Task, ...]


def require_explainable(run: TrainedRun, settings: ExplanationSettings) -> None:
    """Raise ConfigError for a run without tokens, or settings without an author: nothing of the run is touched then."""
    if not run.has_models:
        raise ConfigError(
            f"{run.folder.path}: its activations came from files, without tokens, so there is no text to explain from; use a run with a pair"
        )
    if settings.author is None:
        raise ConfigError(
            "author: missing; give author.kind=local author.model=PATH, or author.kind=endpoint author.url=URL author.model=NAME"
        )


def explain_latents(run: TrainedRun, settings: ExplanationSettings) -> tuple[list[dict[str, Any]], int]:
    """Write RUN/explanations for the latents that the settings select; return the rows of the table and the number of tokens used.

    The run and the settings have passed `require_explainable`.

    Raises:
        ConfigError: No latent is selected, or a model is not available.
        ResourceError: The token limit would be exceeded, or an endpoint does not reply.
        FormatError: Dictionary, activations or rules are missing or damaged.
    """
    assert settings.author is not None
    files = ExplanationFolder(run.folder.explanations)
    latents = _selected_latents(run.folder, settings)
    cases = _cases(run, settings, latents)
    author = open_model(settings.author, "author")
    judge = author if settings.judge is None else open_model(settings.judge, "judge")
    client = _Client(files, author, judge, settings)
    client.check_budget(cases)
    texts = client.explanations(cases)
    rows = list(client.rows(cases, texts, run.config.analysis.rule.confidence))
    write_atomic(files.settings, dump_config(settings))
    _write(files, rows)
    return rows, client.spent


def summary_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line with the mean scores, each with that of other latents' explanations."""
    means = mean_scores(rows)
    parts = [
        f"{kind} {means[kind].own:.2f}, with another latent's explanation {means[kind].control:.2f} (mean of {means[kind].n})"
        if kind in means
        else f"{kind} not measured"
        for kind in SCORE_KINDS
    ]
    unparsed = sum(
        row[f"{kind}_unparsed"] + row[f"{kind}_control_unparsed"] for row in rows for kind in SCORE_KINDS
    )
    return "; ".join(
        [f"{len(rows)} latents", *parts, "chance is 0.5", f"{unparsed} replies were neither yes nor no"]
    )


def _selected_latents(folder: RunFolder, settings: ExplanationSettings) -> list[int]:
    if not folder.features.is_file():
        raise ConfigError(f"{folder.path}: no analysis; run crosscoder analyze first")
    features = read_table(folder.features, "analyze")
    named = named_by_behaviors(folder)
    claimed, others = claimed_and_others(features, named)
    if settings.only:
        unknown = sorted(set(settings.only) - {*claimed, *others})
        if unknown:
            raise ConfigError(
                f"only: {unknown[0]} is not a latent of this dictionary that fires; give others"
            )
        return list(dict.fromkeys(settings.only))
    match settings.latents:
        case "claimed":
            found = claimed
        case "named":
            found = [latent for latent in claimed if latent in named]
        case "top":
            found = firing_latents(features)
    if not found:
        raise ConfigError(
            f"latents: no latent of this run is {settings.latents}; use latents=top, or list latents with only"
        )
    return found[: settings.limit]


def _cases(run: TrainedRun, settings: ExplanationSettings, latents: Sequence[int]) -> list[Case]:
    context, seed = run.document_context, run.config.seed
    firings = read_firings(run.reader, run.view, latents, settings.tokens, seed, "excerpts")
    finder = ExcerptFinder(firings, context, settings.window, settings.seed, seed)
    families = token_families(context.documents, context.vocabulary, firings.document, firings.position)
    rules = read_rules(run.folder)
    cases = []
    for latent in latents:
        rule_holds = _rule_holds(rules.get(latent), families)
        excerpts = finder.find(latent, settings.shown, settings.shown_silent, settings.scored, rule_holds)
        question = author_question(excerpts, settings.reply_tokens) if excerpts.shown else None
        cases.append(
            Case(latent, excerpts, question, tuple(_tasks(latent, excerpts, settings)) if question else ())
        )
    if not any(case.question for case in cases):
        raise DataError("latents: none of them fires in documents of the find set; choose others")
    return cases


def _tasks(latent: int, excerpts: Excerpts, settings: ExplanationSettings) -> Iterator[Task]:
    """Yield all tasks; excerpts are not reused between detection and fuzzing if there are enough."""
    scored = settings.scored
    for excerpt in excerpts.scored[:scored]:
        yield Task("detection", excerpt, None, True)
    for excerpt in excerpts.scored_silent:
        yield Task("detection", excerpt, None, False)
    rotated = [*excerpts.scored[scored:], *excerpts.scored[:scored]]
    drawn = [
        (excerpt, decoy_marks(excerpt, (settings.seed, latent, excerpt.document))) for excerpt in rotated
    ]
    markable = [(excerpt, marks) for excerpt, marks in drawn if marks is not None][: 2 * scored]
    for index, (excerpt, marks) in enumerate(markable):
        truth = index % 2 == 0
        yield Task("fuzzing", excerpt, excerpt.fires if truth else marks, truth)


class _Client:
    """Sends the questions whose replies are not cached, and counts the tokens."""

    def __init__(
        self, files: ExplanationFolder, author: ChatModel, judge: ChatModel, settings: ExplanationSettings
    ) -> None:
        self.author, self.judge, self.settings = author, judge, settings
        self.cache = ReplyCache(files.replies)
        self.spent = 0
        """Tokens of the prompts and replies of this command."""

    def check_budget(self, cases: Sequence[Case]) -> None:
        """Log the number of prompts and tokens. Raises ResourceError above the limit."""
        # Of an explanation that is not written yet, only the maximum length is known.
        blank = "x" * 4 * self.settings.reply_tokens
        texts = {case.latent: self._cached_text(case) or blank for case in cases}
        author = self.cache.unknown(self.author, (case.question for case in cases if case.question))
        controls = _controls(list(texts), self.settings.seed)
        judged = [
            task.question(texts[source])
            for case in cases
            for source in dict.fromkeys((case.latent, controls.get(case.latent, case.latent)))
            for task in case.tasks
        ]
        new = [question for question in judged if self.cache.known(self.judge, question) is None]
        tokens = sum(self._max_tokens(self.author, question) for question in author)
        tokens += sum(self._max_tokens(self.judge, question) for question in new)
        logger.info(
            "explain: %d latents; at most %d prompts to %s and %d to %s, about %s tokens in total (limit %s); the other replies are cached",
            len(cases), len(author), self.author.name, len(new), self.judge.name, f"{tokens:,}", f"{self.settings.max_tokens:,}",
        )  # fmt: skip
        if tokens > self.settings.max_tokens:
            raise ResourceError(
                f"max_tokens: {len(author) + len(new)} prompts need about {tokens} tokens, the limit is {self.settings.max_tokens}; raise it, "
                "or explain fewer latents (limit), or score on fewer excerpts (scored)"
            )

    def explanations(self, cases: Sequence[Case]) -> dict[int, str]:
        """Return the explanations by latent; lines of a reply are joined, empty replies are omitted."""
        texts = {}
        for case in tqdm([case for case in cases if case.question], desc="explain", unit=" latents"):
            assert case.question is not None
            self._ask(self.author, case.question)
            if text := self._cached_text(case):
                texts[case.latent] = text
        return texts

    def rows(
        self, cases: Sequence[Case], texts: Mapping[int, str], confidence: float
    ) -> Iterator[dict[str, Any]]:
        """Yield the row of each latent in explanations.parquet."""
        controls = _controls(list(texts), self.settings.seed)
        for case in tqdm(cases, desc="score", unit=" latents"):
            text = texts.get(case.latent)
            row: dict[str, Any] = {
                "latent": case.latent, "text": text, "reason": _reason(case, text), "method": METHOD,
                "author": self.author.name, "judge": self.judge.name,
                "prompt_digest": key_of(self.author, case.question) if case.question else None,
                "n_shown": len(case.excerpts.shown), "n_shown_silent": len(case.excerpts.shown_silent),
                "control_latent": controls.get(case.latent),
            }  # fmt: skip
            rule_verdicts = [
                Verdict(task.truth, task.excerpt.rule_holds)
                for task in case.tasks
                if task.kind == "detection"
            ]
            row["detection_rule"] = balanced_accuracy(rule_verdicts, confidence).value
            asked = [(self.author, case.question)] if case.question else []
            for suffix, source in (("", case.latent), ("_control", controls.get(case.latent))):
                explanation = texts.get(source) if source is not None else None
                for kind in SCORE_KINDS:
                    tasks = [] if explanation is None else [task for task in case.tasks if task.kind == kind]
                    questions = [task.question(explanation) for task in tasks if explanation is not None]
                    replies = [self._ask(self.judge, question) for question in questions]
                    verdicts = [
                        Verdict(task.truth, verdict_of(reply))
                        for task, reply in zip(tasks, replies, strict=True)
                    ]
                    row |= _columns(kind + suffix, balanced_accuracy(verdicts, confidence))
                    asked += [(self.judge, question) for question in questions]
            replies = [
                reply
                for model, question in dict.fromkeys(asked)
                if (reply := self.cache.known(model, question))
            ]
            row["prompt_tokens"] = sum(reply.prompt_tokens for reply in replies)
            row["reply_tokens"] = sum(reply.reply_tokens for reply in replies)
            yield row

    def _cached_text(self, case: Case) -> str:
        reply = None if case.question is None else self.cache.known(self.author, case.question)
        return "" if reply is None else " ".join(reply.text.split())

    def _ask(self, model: ChatModel, question: Question) -> str:
        if (cached := self.cache.known(model, question)) is not None:
            return cached.text
        # The estimate of check_budget may have been too low.
        if self.spent + self._max_tokens(model, question) > self.settings.max_tokens:
            raise ResourceError(
                f"max_tokens: {self.spent} tokens are used, and the next prompt would exceed the limit of {self.settings.max_tokens}; raise it: "
                "replies so far are cached, so the same command resumes"
            )
        reply = self.cache.ask(model, question)
        self.spent += reply.prompt_tokens + reply.reply_tokens
        return reply.text

    def _max_tokens(self, model: ChatModel, question: Question) -> int:
        return model.tokens_of(question.prompt) + question.max_tokens


def _controls(latents: Sequence[int], seed: int) -> dict[int, int]:
    """Assign each latent another latent whose explanation serves as its control; empty for a single latent."""
    if len(latents) < 2:
        return {}
    order = np.random.default_rng(seed).permutation(sorted(latents)).tolist()
    return dict(zip(order, [*order[1:], order[0]], strict=True))


def _reason(case: Case, text: str | None) -> str | None:
    """Return why there is no explanation or no score; None if there are both."""
    if case.question is None:
        return "fires in no document of the find set"
    if text is None:
        return "the author's reply is empty"
    counts = len(case.excerpts.scored), len(case.excerpts.scored_silent)
    if min(counts) < MIN_VERDICTS:
        return f"too few excerpts of the claim set to score detection: it fires in {counts[0]} and is silent in {counts[1]} (fewer than {MIN_VERDICTS})"
    return None


def _columns(name: str, score: Score) -> dict[str, Any]:
    return {
        name: score.value, f"{name}_low": score.low, f"{name}_high": score.high, f"{name}_n": score.n,
        f"{name}_unparsed": score.unparsed,
    }  # fmt: skip


def _rule_holds(rule: RuleScore | None, families: Sequence[TokenFamily]) -> Bool[np.ndarray, " token"] | None:
    """Return whether a stored rule holds on each token of a table; its items are matched by text."""
    family = next((family for family in families if rule is not None and family.name == rule.family), None)
    if rule is None or family is None:
        return None
    items = set(rule.items)
    inside = np.array([text in items for text in family.texts], dtype=bool)
    return inside[family.key] ^ bool(rule.negated)


def _write(files: ExplanationFolder, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows, keeping those of other latents, authors and judges."""

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["latent"], row["author"], row["judge"]

    new = {key(row) for row in rows}
    kept = [row for row in read_rows(files.table, WRITTEN.schema(), "explain") if key(row) not in new]
    table = pa.Table.from_pylist(sorted([*kept, *rows], key=key), schema=WRITTEN.schema())
    write_parquet(files.table, table)
