"""What generated answers are worth: a number each, from a pattern, a function of the user, or another model's judgment."""

import hashlib
import importlib.util
import json
import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, assert_never

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosscoder.behavior import EndpointJudge, Judged, LocalJudge, Pattern, UserFunction
from crosscoder.errors import ConfigError, DataError, ResourceError, did_you_mean

logger = logging.getLogger(__name__)

Scorer = Callable[[Sequence[str], Sequence[str]], list[float]]
"""From prompts and as many answers to a number for each answer."""

_JUDGE_ROWS = 16

_UNCLEAR_SHARE = 0.05
"""Of a judge's replies may be neither yes nor no; they count as no."""


def build_scorer(settings: Pattern | UserFunction | Judged, cache: Path) -> Scorer:
    """The scorer that these settings describe.

    Args:
        cache: File that a judge's replies are kept in, so that none is asked for twice.

    Raises:
        ConfigError: The function or the judge cannot be had.
    """
    match settings:
        case Pattern():
            expression = re.compile(settings.pattern, re.IGNORECASE if settings.ignore_case else 0)
            return lambda _, answers: [float(bool(expression.search(answer))) for answer in answers]
        case UserFunction():
            return _UserScorer(settings.file.expanduser(), settings.function)
        case Judged():
            return _Judge(settings, cache)
        case _:
            assert_never(settings)


class _UserScorer:
    """A function in a file of the user."""

    def __init__(self, file: Path, name: str) -> None:
        if not file.is_file() or file.suffix != ".py":
            raise ConfigError(f"metric.file: {str(file)!r} is no Python file; give the path of one")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None  # its name ends in .py
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._function, self._named = getattr(module, name, None), name
        if not callable(self._function):
            known = [key for key, value in vars(module).items() if callable(value)]
            raise ConfigError(f"metric.function: {file} has no function {name!r}{did_you_mean(name, known)}")

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        assert callable(self._function)
        found: Any = self._function(list(prompts), list(answers))
        values = [float(value) for value in found]
        if len(values) != len(answers) or not all(map(math.isfinite, values)):
            raise DataError(
                f"metric.function: {self._named!r} gave {len(values)} numbers for {len(answers)} answers, or one that is not "
                "finite; it has to return a finite number for each"
            )
        return values


class _Judge:
    """Another model that answers yes or no."""

    def __init__(self, settings: Judged, cache: Path) -> None:
        self._settings, self._cache = settings, cache
        self._known = _read_cache(cache)
        self._asked = 0
        judge = settings.judge
        self._reply = _LocalReplies(judge.model) if isinstance(judge, LocalJudge) else _EndpointReplies(judge)

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        fill = {"{prompt}": prompts, "{answer}": answers}
        questions = [
            re.sub(
                r"\{prompt\}|\{answer\}", lambda found, i=i: fill[found.group()][i], self._settings.question
            )
            for i in range(len(answers))
        ]
        replies = self._replies(questions)
        unclear = [reply for reply in replies if _yes(reply) is None]
        if len(unclear) > _UNCLEAR_SHARE * len(replies):
            raise DataError(
                f"metric.judge: {len(unclear)} of {len(replies)} replies are neither yes nor no, e.g. {unclear[0][:60]!r}; "
                "ask for one of them in the question, or take another judge"
            )
        if unclear:
            logger.warning(
                "%d of %d replies of the judge are neither yes nor no and count as no",
                len(unclear),
                len(replies),
            )
        return [float(_yes(reply) or False) for reply in replies]

    def _replies(self, questions: Sequence[str]) -> list[str]:
        judge = self._settings.judge.model_dump_json()
        keys = [
            hashlib.blake2b(f"{judge}\n{question}".encode(), digest_size=16).hexdigest()
            for question in questions
        ]
        new = list(
            dict.fromkeys(place for place in zip(keys, questions, strict=True) if place[0] not in self._known)
        )
        if isinstance(self._settings.judge, EndpointJudge) and new:
            limit = self._settings.judge.max_requests
            if self._asked + len(new) > limit:
                raise ResourceError(
                    f"metric.judge.max_requests: {self._asked + len(new)} questions are needed so far, the limit is {limit}; raise "
                    "it, or give fewer prompts"
                )
            logger.info(
                "judge: sending %d prompts with their answers to %s", len(new), self._settings.judge.url
            )
        for start in tqdm(range(0, len(new), _JUDGE_ROWS), desc="judge", unit="batch", leave=False):
            part = new[start : start + _JUDGE_ROWS]
            for (key, _), reply in zip(part, self._reply([question for _, question in part]), strict=True):
                self._known[key] = reply
                _append(self._cache, {"key": key, "reply": reply})
        self._asked += len(new)
        return [self._known[key] for key in keys]


class _LocalReplies:
    """Yes or no, whichever a local chat model is likelier to begin its answer with."""

    def __init__(self, name: str) -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            model: Any = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
        except (OSError, ValueError) as error:
            raise ConfigError(f"metric.judge.model: {name!r} cannot be loaded: {error}") from error
        if self._tokenizer.chat_template is None:
            raise ConfigError(f"metric.judge.model: {name!r} has no chat template; give a chat model")
        self._model = model.eval()
        self._words = {
            word: [
                self._tokenizer(form, add_special_tokens=False)["input_ids"][0]
                for form in (word, word.lower())
            ]
            for word in ("Yes", "No")
        }

    @torch.no_grad()
    def __call__(self, questions: Sequence[str]) -> list[str]:
        replies = []
        for question in questions:
            ids = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )["input_ids"]
            logits = self._model(input_ids=ids, use_cache=False).logits[0, -1].float()
            replies.append(max(self._words, key=lambda word: float(logits[self._words[word]].logsumexp(0))))
        return replies


class _EndpointReplies:
    """What a model behind an OpenAI-compatible endpoint says."""

    def __init__(self, settings: EndpointJudge) -> None:
        try:
            import openai
        except ImportError as error:
            raise ConfigError(
                "metric.judge: an endpoint needs the package openai; install crosscoder[judge]"
            ) from error
        variable = settings.key_variable
        if variable is not None and not os.environ.get(variable):
            raise ConfigError(
                f"metric.judge.key_variable: the environment has no {variable}; set it to the key"
            )
        key = os.environ[variable] if variable is not None else "none"
        self._errors, self._settings = openai.OpenAIError, settings
        self._client = openai.OpenAI(base_url=settings.url, api_key=key)

    def __call__(self, questions: Sequence[str]) -> list[str]:
        replies = []
        for question in questions:
            try:
                reply = self._client.chat.completions.create(
                    model=self._settings.model,
                    messages=[{"role": "user", "content": question}],
                    temperature=0,
                    max_tokens=8,
                )
            except self._errors as error:
                raise ResourceError(
                    f"metric.judge.url: {self._settings.url} gives no reply ({error}); replies so far are kept, so the same "
                    "command goes on"
                ) from error
            replies.append(reply.choices[0].message.content or "")
        return replies


def _yes(reply: str) -> bool | None:
    """None for what is neither."""
    found = re.match(r"\W*(yes|no)\b", reply, re.IGNORECASE)
    return None if found is None else found.group(1).lower() == "yes"


def _read_cache(path: Path) -> dict[str, str]:
    """Replies by their key. A line that was cut off by an interrupt is asked for again."""
    known: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                known[entry["key"]] = entry["reply"]
            except (json.JSONDecodeError, KeyError, TypeError):
                logger.warning("%s: a damaged line is left out, and the judge is asked again", path)
    return known


def _append(path: Path, entry: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
