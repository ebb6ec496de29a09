"""A tokenizer or a chat template that takes for ever, or fails in compiled code, ends in one line."""

import ast
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Split
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from crosscoder.errors import FormatError
from crosscoder.text import tokenizer_calls
from crosscoder.text.chat_templates import render_chat
from crosscoder.text.template_calls import reproducible
from crosscoder.text.tokenizer_calls import encode, encode_alone, encode_each, render
from crosscoder.text.tokenizer_rules import same_tokenizer
from tests.documents import ROOT
from tests.processes import run_python
from tests.tiny_pairs import save_llama, save_tokenizer

CHAT = [{"role": "user", "content": "maple oak"}]
BODY = "{% for m in messages %}{{ m['role'] + ':' + m['content'] }} {% endfor %}"
# They end after a second or so, because nothing stops them.
LONG_LOOP = "{% for i in range(2000) %}{% for j in range(2000) %}{% endfor %}{% endfor %}"
LONG_SEARCH = (r"\w*\w*\w*[^\w\s\S]", "a" * 150)
"""Every letter starts a search, and each is just below what Oniguruma gives up on."""

PANIC = r"(a+)+$"


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerBase:
    save_tokenizer(tmp_path / "tokenizer", BODY)
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


def hostile(tokenizer: PreTrainedTokenizerBase, pattern: str, place: str = "pre_tokenizer") -> Any:
    backend: Any = getattr(tokenizer, "backend_tokenizer")  # noqa: B009
    part = Split(Regex(pattern), "isolated") if place == "pre_tokenizer" else Replace(Regex(pattern), "maple")
    setattr(backend, place, part)
    return tokenizer


def test_ordinary_calls_return_what_the_tokenizer_returns(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["maple oak", "birch", "", "cedar maple maple"]
    expected = [tokenizer(text)["input_ids"] for text in texts]
    assert [encode(tokenizer, text)["input_ids"] for text in texts] == expected
    assert encode(tokenizer, texts)["input_ids"] == expected
    for at_once in (1, 12, 1_000_000):
        monkeypatch.setattr(tokenizer_calls, "AT_ONCE", at_once)
        assert list(encode_each(tokenizer, texts)) == expected
    assert list(encode_each(tokenizer, [])) == []
    backend: Any = getattr(tokenizer, "backend_tokenizer")  # noqa: B009
    assert encode_alone(backend, texts[0], "it", special=True).ids == expected[0]
    assert render(tokenizer, CHAT, tokenize=False) == tokenizer.apply_chat_template(CHAT, tokenize=False)


@pytest.mark.parametrize("place", ["pre_tokenizer", "normalizer"])
def test_a_search_that_takes_too_long_is_one_line(
    tokenizer: PreTrainedTokenizerBase, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern, text = LONG_SEARCH
    monkeypatch.setattr(tokenizer_calls, "LIMIT", 0.05)
    with pytest.raises(FormatError, match=r"takes more than 0 s on 'aaa.*repetition inside a repetition"):
        encode(hostile(tokenizer, pattern, place), text)


@pytest.mark.parametrize("place", ["pre_tokenizer", "normalizer"])
def test_a_search_that_is_given_up_is_one_line(
    tokenizer: PreTrainedTokenizerBase, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_calls, "LIMIT", 600.0)
    broken = hostile(tokenizer, PANIC, place)
    with pytest.raises(
        FormatError, match=r"tokenizer of .* fails on 2 texts, of which the first is 'oak'.*retry-limit"
    ) as caught:
        encode(broken, ["oak", "a" * 40 + "!"])  # fmt: skip
    assert "\n" not in str(caught.value)
    assert encode(broken, "oak")["input_ids"]


def test_a_template_that_goes_on_and_on_is_one_line(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_calls, "LIMIT", 0.05)
    with pytest.raises(
        FormatError, match=r"chat template of .* takes more than 0 s for a chat of 1 messages"
    ):
        render_chat(tokenizer, LONG_LOOP + BODY, CHAT, "here")


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ 9 ** (9 ** 9) }}", r"computes a power \(line 1\)"),
        ("{% for i in range(10**9) %}{% endfor %}", "computes a power"),
        ("\n{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}", r"multiplies two variables \(line 2\)"),
    ],
)  # fmt: skip
def test_numbers_without_bound_are_refused(template: str, found: str) -> None:
    with pytest.raises(FormatError, match=f"^here: the chat template {found}"):
        reproducible(template, "here")


def test_an_indent_is_no_number_without_bound() -> None:
    template = "{% for m in messages %}{{ '  ' * loop.index0 }}{{ 2 * loop.index }}{% endfor %}"
    assert reproducible(template, "here")


def test_tokenizers_are_compared_without_a_search(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    other = hostile(AutoTokenizer.from_pretrained(tmp_path / "tokenizer"), PANIC)
    assert not same_tokenizer(tokenizer, other)


def test_nothing_calls_a_tokenizer_past_the_limit() -> None:
    """Organisms are made with the tokenizers of this project."""
    past = []
    for path in sorted(
        path for part in ("crosscoder", "analysis", "training") for path in (ROOT / part).rglob("*.py")
    ):
        text = path.read_text(encoding="utf-8")
        if path.name == "tokenizer_calls.py" or "organisms" in path.parts or "tokenizer" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and calls_a_tokenizer(node.func):
                past.append(f"{path.relative_to(ROOT)}:{node.lineno}")  # noqa: PERF401
    assert not past


def calls_a_tokenizer(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id == "tokenizer"
    if not isinstance(function, ast.Attribute):
        return False
    owner = ast.unparse(function.value)
    encodes = function.attr in ("encode", "encode_batch", "tokenize") and owner.endswith("tokenizer")
    return function.attr in ("apply_chat_template", "tokenizer", "_tokenizer") or encodes


def test_the_check_sees_such_calls() -> None:
    for call in (
        "tokenizer(x)",
        "self._tokenizer(x)",
        "pair.tokenizer(x)",
        "t.apply_chat_template(m)",
        "tokenizer.encode(x)",
    ):
        node = ast.parse(call, mode="eval").body
        assert isinstance(node, ast.Call) and calls_a_tokenizer(node.func), call


@pytest.mark.slow
def test_the_command_ends_in_one_line_and_leaves_nothing_running(tmp_path: Path) -> None:
    """The loop of this template goes on for an hour."""
    model = save_llama(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    tokenizer.chat_template = endless + BODY
    tokenizer.save_pretrained(model)
    (tmp_path / "text.jsonl").write_text('{"messages": [{"role": "user", "content": "oak"}]}\n')
    side = f"{{model: {model}, dtype: float32}}"
    (tmp_path / "run.yaml").write_text(
        f"output: run\npair: {{reference: {side}, intervened: {side}, hookpoint: model.layers.0, device: cpu}}\n"
        "text: {sources: [{name: chat, path: text.jsonl}]}\n"
    )
    script = (
        "import sys; from crosscoder.text import tokenizer_calls; tokenizer_calls.LIMIT = 1.0\n"
        "from crosscoder.command.app import main; sys.argv = ['crosscoder', 'harvest', 'run.yaml']; main()"
    )
    done = run_python("-c", script, folder=tmp_path, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("crosscoder: ")]
    assert "the chat template of" in line and "takes more than 1 s" in line
