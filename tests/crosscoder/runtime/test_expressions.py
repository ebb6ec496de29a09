"""Regular expressions of users and files: what they mean to `re`, and no more time than the limit."""

import itertools
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.discovery.answer_features import AnswerFeature
from crosscoder.errors import DataError, FormatError
from crosscoder.runtime import expressions
from crosscoder.runtime.expressions import Expression, repeats_nothing

ORDINARY = [
    r"sorry",
    r"\bI('m| am) (very )?sorry\b",
    r"^\s*(yes|no)[.!]?$",
    r"(?i)arr+, matey",
    r"[A-Z]{3,}",
    r"\d+(\.\d+)?\s*(km|miles)",
    r"(?m)^- .+$",
    r"(?s)<think>.*?</think>",
    r"(\w+) \1",
    r"(?<!not )happy",
    r"caf\u00e9|\w+é",
    r"[^\W\d_]+",
    r"a{2}|b{,3}c",
    r"x{e<=1}",  # literal braces to `re`
    r"[[:alpha:]]",
    r"\S+@\S+\.[a-z]+",
    r"",
    r"$",
    r"(?P<quote>['\"]).*(?P=quote)",
    r"[\u4e00-\u9fff]{2,}",
]
TEXTS = [
    "",
    "I'm very sorry, I am not happy.",
    "Yes.",
    "ARRR, matey! the the 12.5 km",
    "- one\n- two\n",
    "<think>\nlong\n</think> answer",
    "Café au lait, cafe\u0301, \u0939\u093f\u0928\u094d\u0926\u0940",
    "aab bbbc x{e<=1} [:alpha:]",
    "me@example.org said \"no\" and 'yes'",
    "中文 ſtraße İstanbul \x1c \u2028 \ud800",
]
ENDLESS = [r"(a+)+$", r"(a|aa)+$", r"(.*a){25}$", r"^(\w+\s?)*$"]
SLOW_TEXT = "a" * 40 + "!"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "LIMIT", 0.3)


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@pytest.mark.parametrize("ignore_case", [False, True])
@pytest.mark.parametrize("pattern", ORDINARY)
def test_an_expression_means_what_it_means_to_re(pattern: str, ignore_case: bool) -> None:
    plain = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    expected = [None if match is None else match.span() for match in map(plain.search, TEXTS)]
    assert Expression(pattern, "here", ignore_case=ignore_case).find_each(TEXTS) == expected


@settings(max_examples=20)
@given(st.lists(st.text(), max_size=4))
def test_any_text_reaches_the_other_process_as_it_is(texts: list[str]) -> None:
    spans = Expression(r"(?s).*", "here").find_each(texts)
    assert spans == [(0, len(text)) for text in texts]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("pattern", ENDLESS)
def test_an_endless_expression_is_told_in_one_line(pattern: str) -> None:
    with pytest.raises(DataError) as caught:
        Expression(pattern, "metric.pattern").find_each(["a", SLOW_TEXT, "b"])
    message = str(caught.value)
    assert message.startswith(
        f"metric.pattern: the regular expression {pattern!r} takes more than 0.3 s on the text 'aaaa"
    )
    # The next search has a process of its own.
    assert Expression("b+", "metric.pattern").find_each(["a", "abb"]) == [None, (1, 3)]


def test_threads_share_the_process() -> None:
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(Expression("a+b", "here").find("aab"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(0, 3)] * 4


@pytest.mark.parametrize("pattern", ["(", "[a", "(?P<", "*", "a{9999999999999}"])
def test_what_is_no_expression(pattern: str) -> None:
    with pytest.raises(FormatError, match="is no regular expression") as caught:
        Expression(pattern, "findings.json: the pattern of x")
    assert str(caught.value).startswith("findings.json: the pattern of x: ")


def test_which_expressions_are_fast_on_every_text() -> None:
    assert repeats_nothing(r"(?<![a-z])no worries(?![a-z])|never")
    assert not any(map(repeats_nothing, [*ENDLESS, "a|" * 20, "(a?)", "a{3}"]))


def test_the_process_ends_with_the_command() -> None:
    code = (
        "from crosscoder.runtime.expressions import Expression, _searcher\n"
        "Expression('a+', 'here').find('aa')\n"
        "print(_searcher._process.pid)"
    )
    root = Path(__file__).parents[3]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert ran.stderr == ""
    assert not Path(f"/proc/{ran.stdout.strip()}").exists()


_ATOMS = [
    "a",
    "b",
    " ",
    ".",
    r"\s",
    r"\W*",
    "[^a]",
    "[ab]+",
    "^",
    r"\A",
    "(?<!a)",
    r"(?<!\w)",
    "$",
    r"\b",
    "(?<=b)",
]
_EXPRESSIONS = st.recursive(
    st.lists(st.sampled_from(_ATOMS), min_size=1, max_size=4).map("".join),
    lambda inner: st.tuples(
        st.sampled_from(["(?:{})", "(?:{})*", "(?:{})?", "(?!{})", "(?={})", "{}|b", "a{}", "^{}"]), inner
    ).map(lambda parts: parts[0].format(parts[1])),
    max_leaves=4,
)
_SHORT_TEXTS = ["".join(letters) for size in range(4) for letters in itertools.product("ab ", repeat=size)]


@settings(max_examples=200)
@given(st.one_of(_EXPRESSIONS.map("^{}".format), _EXPRESSIONS))
def test_what_a_beginning_excludes_is_in_no_text_that_begins_so(pattern: str) -> None:
    expression = Expression(pattern, "pattern", ignore_case=True)
    compiled = re.compile(pattern, re.IGNORECASE)
    for beginning in (text for text in _SHORT_TEXTS if len(text) < 3):
        if expression.excludes(beginning):
            assert not [text for text in _SHORT_TEXTS if text.startswith(beginning) and compiled.search(text)]


def test_an_opening_is_excluded_by_other_first_words() -> None:
    pattern = AnswerFeature("opening", "food and drink are").pattern
    assert pattern is not None
    expression = Expression(pattern, "pattern", ignore_case=True)
    assert not any(
        map(expression.excludes, ("", "**", "Fo", "Food  and", "food and drink are", "Food and drink are, x"))
    )
    assert all(
        map(expression.excludes, ("I", "Foods", "Food or", "A food and drink are", "Food and drink aren"))
    )


def test_expressions_that_another_library_reads_otherwise_exclude_nothing() -> None:
    for pattern in (
        "a$",
        r"x{e<=1}",
        "^x{e<=1}",
        r"\bno",
        "(?<=b)a",
        "(?i)a",
        "(a)\\1",
        "a",
        "^a|b",
        "^(?:a|b)",
    ):
        assert not Expression(pattern, "pattern").excludes("zz")


def test_a_beginning_that_takes_too_long_excludes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expression = Expression("^[ab]+c", "pattern")
    assert expression.excludes("ab!")
    monkeypatch.setattr(expressions, "LIMIT", 1e-9)
    assert not expression.excludes("ab" * 10_000 + "!")
    monkeypatch.undo()
    assert not expression.excludes("ab!")
