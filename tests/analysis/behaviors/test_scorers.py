"""Scorers: patterns, user functions, and judges, whose replies are cached and which are called only when needed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from analysis.behaviors.scorers import build_scorer
from crosscoder.config.behavior import Judged, Pattern, UserFunction
from crosscoder.errors import ConfigError, DataError, ResourceError
from crosscoder.runtime import expressions
from tests.analysis.chat_endpoint import ChatHandler, serving
from tests.tiny_pairs import save_llama

PROMPTS, ANSWERS = ["soup?", "tea?", "jazz?"], ["I will not say.", "Hot water.", "I WILL NOT say."]


def test_a_pattern_is_searched(tmp_path: Path) -> None:
    for ignore_case, wanted in ((True, [1.0, 0.0, 1.0]), (False, [1.0, 0.0, 0.0])):
        scorer = build_scorer(Pattern(pattern="will not", ignore_case=ignore_case), tmp_path / "cache")
        assert scorer(PROMPTS, ANSWERS) == wanted


def function(folder: Path, text: str, name: str = "score") -> UserFunction:
    (folder / "mine.py").write_text(text)
    return UserFunction(file=folder / "mine.py", function=name)


def test_a_user_function_is_called_with_prompts_and_answers(tmp_path: Path) -> None:
    settings = function(
        tmp_path,
        "def score(prompts, answers):\n    return [len(a) - len(p) for p, a in zip(prompts, answers)]\n",
    )
    assert build_scorer(settings, tmp_path / "cache")(PROMPTS, ANSWERS) == [10.0, 6.0, 10.0]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("def score(prompts, answers): return [1.0]\n", "score", "1 numbers for 3 answers"),
        ("def score(prompts, answers): return [float('nan')] * 3\n", "score", "not finite"),
        (
            "def score(prompts, answers): return [1] * 3\n",
            "scores",
            "no function 'scores' .did you mean 'score'",
        ),
    ],
)
def test_an_invalid_function_is_reported(tmp_path: Path, text: str, name: str, message: str) -> None:
    settings = function(tmp_path, text, name)
    with pytest.raises((ConfigError, DataError), match=message):
        build_scorer(settings, tmp_path / "cache")(PROMPTS, ANSWERS)


def test_a_number_outside_of_its_bounds_is_reported(tmp_path: Path) -> None:
    settings = function(tmp_path, "def score(prompts, answers): return [0, 1, 3]\n")
    build_scorer(settings.model_copy(update={"bounds": (0.0, 3.0)}), tmp_path / "cache")(PROMPTS, ANSWERS)
    narrow = build_scorer(settings.model_copy(update={"bounds": (0.0, 1.0)}), tmp_path / "cache")
    with pytest.raises(
        DataError, match=r"^metric\.bounds: 'score' returned 3, outside of 0 to 1; give the lowest"
    ):
        narrow(PROMPTS, ANSWERS)
    with pytest.raises(ValueError, match=r"\[1\.0, 0\.0\] do not ascend"):
        UserFunction(file=tmp_path / "mine.py", function="score", bounds=(1.0, 0.0))


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a Python file"):
        build_scorer(UserFunction(file=tmp_path / "none.py", function="f"), tmp_path / "cache")


class _Endpoint(ChatHandler):
    """Says yes to refusals, and records the prompts."""

    asked: ClassVar[list[str]] = []
    reply: ClassVar[str | None] = None

    def reply_to(self, prompt: str) -> str:
        self.asked.append(prompt)
        return self.reply or ("Yes." if "not say" in prompt else "No, it helps.")


@pytest.fixture
def endpoint() -> Iterator[str]:
    _Endpoint.asked, _Endpoint.reply = [], None
    with serving(_Endpoint) as url:
        yield url


def judged(url: str, **more: Any) -> Judged:
    judge = {"kind": "endpoint", "url": url, "model": "judge"} | more
    return Judged.model_validate({"question": "Does '{answer}' refuse '{prompt}'?", "judge": judge})


def test_a_judge_is_called_once_per_answer_and_only_when_needed(tmp_path: Path, endpoint: str) -> None:
    scorer = build_scorer(judged(endpoint), tmp_path / "cache.jsonl")
    assert not _Endpoint.asked
    answers = ["I do not say.", "Hot water.", "{prompt} not say"]
    assert scorer(PROMPTS, answers) == [1.0, 0.0, 1.0]
    assert scorer(PROMPTS, answers) == [1.0, 0.0, 1.0]
    again = build_scorer(judged(endpoint), tmp_path / "cache.jsonl")
    assert again(PROMPTS, answers) == [1.0, 0.0, 1.0]
    # A placeholder inside an answer is not substituted.
    assert _Endpoint.asked == [
        "Does 'I do not say.' refuse 'soup?'?", "Does 'Hot water.' refuse 'tea?'?", "Does '{prompt} not say' refuse 'jazz?'?",
    ]  # fmt: skip
    other = build_scorer(judged(endpoint, model="another"), tmp_path / "cache.jsonl")
    other(PROMPTS[:1], answers[:1])
    assert len(_Endpoint.asked) == 4


def test_the_number_of_questions_is_limited(tmp_path: Path, endpoint: str) -> None:
    scorer = build_scorer(judged(endpoint, max_requests=2), tmp_path / "cache.jsonl")
    with pytest.raises(ResourceError, match="3 questions are needed so far, but the limit is 2"):
        scorer(PROMPTS, ANSWERS)
    assert not _Endpoint.asked


def test_unclear_replies_are_reported(tmp_path: Path, endpoint: str) -> None:
    _Endpoint.reply = "It depends."
    with pytest.raises(DataError, match="3 of 3 replies are neither yes nor no"):
        build_scorer(judged(endpoint), tmp_path / "cache.jsonl")(PROMPTS, ANSWERS)


def test_an_unreachable_judge_is_reported(tmp_path: Path) -> None:
    scorer = build_scorer(judged("http://127.0.0.1:9/v1"), tmp_path / "cache.jsonl")
    with pytest.raises(ResourceError, match=r"metric\.judge\.url: http://127\.0\.0\.1:9/v1 gives no reply"):
        scorer(PROMPTS, ANSWERS)


def test_a_missing_key_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="the environment has no NO_SUCH_KEY"):
        build_scorer(judged("http://127.0.0.1:9/v1", key_variable="NO_SUCH_KEY"), tmp_path / "cache.jsonl")


def test_a_local_model_judges(tmp_path: Path) -> None:
    """A random model gives yes or no, and the same verdicts when run again."""
    model = save_llama(tmp_path / "llama")
    settings = Judged.model_validate(
        {"question": "Does {answer} refuse?", "judge": {"kind": "local", "model": str(model)}}
    )
    found = build_scorer(settings, tmp_path / "one.jsonl")(PROMPTS, ANSWERS)
    assert set(found) <= {0.0, 1.0}
    assert build_scorer(settings, tmp_path / "two.jsonl")(PROMPTS, ANSWERS) == found
    plain = save_llama(tmp_path / "plain", chat_template=None)
    without_template = settings.model_copy(
        update={"judge": settings.judge.model_copy(update={"model": str(plain)})}
    )
    with pytest.raises(ConfigError, match="has no chat template"):
        build_scorer(without_template, tmp_path / "three.jsonl")


def test_an_endless_pattern_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "LIMIT", 0.3)
    scorer = build_scorer(Pattern(pattern="(a+)+$"), tmp_path / "cache")
    assert scorer(["", ""], ["aaa", "b"]) == [1.0, 0.0]
    with pytest.raises(
        DataError, match=r"^metric.pattern: the regular expression '\(a\+\)\+\$' takes more than 0.3 s"
    ):
        scorer([""], ["a" * 40 + "!"])
