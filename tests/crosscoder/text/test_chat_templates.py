"""Chats that templates rewrite, divide, refuse or leave out in part."""

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from crosscoder.config import TextConfig, TokenPolicy
from crosscoder.errors import FormatError
from crosscoder.runtime import run_date
from crosscoder.text.chat_templates import UnrenderableChatError, render_chat
from crosscoder.text.documents import Documents, tokenize
from crosscoder.text.token_alignment import TextReader
from tests.tiny_pairs import CHAT_TEMPLATE, save_tokenizer, save_word_tokenizer

LAST_PART = (
    "{% for m in messages %}[{{ m.role }}] {% if m.role == 'assistant' and '</think>' in m.content %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
)
"""Drops what stands before </think>."""

ADDS_THINKING = (
    "{% for m in messages %}[{{ m.role }}] {% if m.role == 'assistant' %}{% set content = m.content %}{% set reason = '' %}"
    "{% if '</think>' in content %}{% set reason = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last %}<think>\n{{ reason.strip('\n') }}\n</think>\n\n{{ content }}{% else %}{{ content }}{% endif %}"
    "{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
)
"""Drops the thinking of earlier answers, and writes <think> into the last one even if it has no thinking."""

RENDERS_TOOLS = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}{% for m in messages %}[{{ m.role }}] "
    "{% if m.content is not none %}{{ m.content }}{% endif %}{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} "
    "{{ call.function.arguments | tojson }}</call>{% endfor %}<|end|>{% endfor %}"
)
ARGUMENTS_AS_TEXT = RENDERS_TOOLS.replace(
    "call.function.arguments | tojson", "'(' + call.function.arguments + ')'"
)
CALLS_IF_NULL = (
    "{% for m in messages %}{% if m.content is not defined or m.content is none %}{% for call in m.tool_calls %}<call>{{ call.function.name }}</call>{% endfor %}"
    "{% else %}{{ '[' + m.content + ']' }}{% endif %}{% endfor %}"
)
THREE_ROLES = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('system is not first') }}{% endif %}"
    "{% if m.role in ('system', 'user', 'assistant') %}[{{ m.role }}] {{ m.content }}<|end|>{% endif %}{% endfor %}"
)
"""Says nothing of a role that it does not know, as many templates do."""

USER = {"role": "user", "content": "oak?"}
PLAIN = {"role": "assistant", "content": "a rose"}
THOUGHT = {"role": "assistant", "content": "<think>\nis it pine?\n</think>\n\nit is <b>elm</b>"}
CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"at": "fern"}}}],
}
RESULT = {"role": "tool", "content": "green"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def contents(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: list[Any], tools: Any = None
) -> list[str]:
    chat = render_chat(tokenizer, template, messages, "a file, line 1", tools)
    options: Any = {
        "chat_template": template,
        "tokenize": False,
        "add_generation_prompt": False,
        "tools": tools,
    }
    if not any("tool_calls" in message for message in messages):
        assert chat.text == tokenizer.apply_chat_template(messages, **options)
    assert tokenizer.decode(chat.token_ids) == chat.text
    return [chat.text[start:end] for start, end in chat.spans]


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        (CHAT_TEMPLATE, [USER, THOUGHT], ["oak?", THOUGHT["content"]]),
        (LAST_PART, [USER, THOUGHT], ["oak?", "it is <b>elm</b>"]),
        (LAST_PART, [USER, THOUGHT, USER, PLAIN], ["oak?", "it is <b>elm</b>", "oak?", "a rose"]),
        (LAST_PART, [USER, THOUGHT, USER, THOUGHT], ["oak?", "it is <b>elm</b>"] * 2),
        (ADDS_THINKING, [USER, PLAIN], ["oak?", "a rose"]),
        (ADDS_THINKING, [USER, THOUGHT], ["oak?", "is it pine?", "it is ", "elm"]),
        (ADDS_THINKING, [USER, THOUGHT, USER, THOUGHT], ["oak?", "it is ", "elm", "oak?", "is it pine?", "it is ", "elm"]),
        (ADDS_THINKING, [USER, THOUGHT, USER, PLAIN], ["oak?", "it is <b>elm</b>", "oak?", "a rose"]),
        (RENDERS_TOOLS, [USER, CALLED, RESULT], ["oak?", "green"]),
        (RENDERS_TOOLS, [USER, CALLED | {"content": "I look."}, RESULT, PLAIN], ["oak?", "I look.", "green", "a rose"]),
        (ARGUMENTS_AS_TEXT, [USER, CALLED, RESULT], ["oak?", "green"]),
        (CALLS_IF_NULL, [USER, CALLED, RESULT], ["oak?", "green"]),
        (THREE_ROLES, [{"role": "system", "content": "Be brief."}, USER, PLAIN], ["Be brief.", "oak?", "a rose"]),
        (THREE_ROLES, [USER, {"role": "tool", "content": " "}, PLAIN], ["oak?", "a rose"]),
    ],
)  # fmt: skip
def test_contents_are_found_in_what_a_template_makes_of_them(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: list[Any], expected: list[str]
) -> None:
    assert contents(tokenizer, template, messages) == expected


def test_tool_calls_are_rendered_with_their_arguments(tokenizer: PreTrainedTokenizerBase) -> None:
    for template in (RENDERS_TOOLS, ARGUMENTS_AS_TEXT):
        assert '"at": "fern"' in render_chat(tokenizer, template, [USER, CALLED], "here").text
    assert "look" in render_chat(tokenizer, RENDERS_TOOLS, [USER], "here", [TOOL]).text


@pytest.mark.parametrize(
    ("template", "messages", "tools", "said", "reason"),
    [
        (THREE_ROLES, [USER, RESULT, PLAIN], None, "leaves out message 1 (role 'tool')", "with messages that"),
        (THREE_ROLES, [USER, CALLED, PLAIN], None, "leaves out tools or tool calls", "with messages that"),
        (CHAT_TEMPLATE, [USER, PLAIN], [TOOL], "leaves out tools or tool calls", "with messages that"),
        (THREE_ROLES, [USER, {"role": "system", "content": "x"}, PLAIN], None, "refuses these messages (system is not first)", "refused"),
        ("{{ messages[9].content }}", [USER], None, "refuses these messages", "refused"),
        ("{{ messages[0].content + messages[0].number }}", [USER | {"number": 3}], None, "refuses these messages", "refused"),
        ("{{ messages[0].name }}{{ messages[0].content }}", [USER | {"name": "\ue0007\ue001"}], None, "cannot be found", "rewritten"),
        ("{{ messages[0].content | length }}", [USER], None, "cannot be found in the text", "rewritten"),
        ("{{ messages[0].content | reverse }}", [USER], None, "cannot be found in the text", "rewritten"),
    ],
)  # fmt: skip
def test_nothing_of_a_chat_is_lost_in_silence(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: list[Any], tools: Any, said: str, reason: str
) -> None:
    with pytest.raises(UnrenderableChatError) as caught:
        render_chat(tokenizer, template, messages, "a file, line 1", tools)
    assert str(caught.value).startswith("a file, line 1: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.reason.startswith(reason)


def test_a_template_gets_the_date_of_the_run_on_every_day(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    dated = "{% if strftime_now is defined %}today is {{ strftime_now('%d %b %Y') }}{% endif %}" + THREE_ROLES
    chats = [[USER | {"content": f"oak {n}?"}, PLAIN] for n in range(3)]
    digests = set()
    monkeypatch.setattr(run_date, "_date", date(2025, 1, 1))
    for year in (2024, 2031):

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None, year: int = year) -> Any:
                return datetime(year, 5, 5, tzinfo=tz)

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
        # The positive control: without this, the text is of another day.
        plain: Any = tokenizer.apply_chat_template([USER], chat_template=dated, tokenize=False)
        assert str(year) in plain
        digests.add(documents_of(tmp_path, tokenizer, chats, dated).digest())
    assert len(digests) == 1
    assert render_chat(tokenizer, dated, [USER], "here").text.startswith("today is 01 Jan 2025")


def documents_of(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, chats: list[Any], template: str, readers: Any = None
) -> Documents:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    config = TextConfig.model_validate({"sources": [{"path": path, "name": "chats"}]})
    return tokenize(config, TokenPolicy(), tokenizer, template, 0, readers)


def test_a_few_chats_that_do_not_fit_are_left_out_and_counted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    good = [[USER | {"content": f"oak {n}?"}, PLAIN] for n in range(6)]
    system = {"role": "system", "content": "x"}
    chats = [*good[:2], [USER, RESULT], *good[2:4], [USER, system], [USER, CALLED], *good[4:]]
    documents = documents_of(tmp_path, tokenizer, chats, THREE_ROLES)
    assert documents.digest() == documents_of(tmp_path, tokenizer, good, THREE_ROLES).digest()
    documents = documents_of(tmp_path, tokenizer, chats, THREE_ROLES)
    assert documents.readings[0]["left_out"] == {
        "with messages that the chat template leaves out": 2,
        "refused by the chat template": 1,
    }
    assert "text.sources, 'chats': left out 3 of 9 documents (2 × with messages that" in caplog.text
    assert "chats.jsonl, line 3: the chat template leaves out message 1 (role 'tool')" in caplog.text
    with pytest.raises(FormatError, match=r"line 3: .* \(3 of the 6 documents of 'chats' cannot be used\)$"):
        documents_of(tmp_path, tokenizer, chats[:4] + chats[5:7], THREE_ROLES)


def test_chats_that_two_templates_render_differently_are_left_out(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    save_word_tokenizer(tmp_path / "words")
    words = AutoTokenizer.from_pretrained(tmp_path / "words")
    plain = "{% for m in messages %}{{ m.role }} : {{ m.content }} ; {% endfor %}"
    readers = (TextReader(tokenizer, LAST_PART, "one"), TextReader(words, plain, "other"))
    good = [
        [USER | {"content": "oak " * (n + 1)}, {"role": "assistant", "content": "rose elm"}] for n in range(4)
    ]
    documents = documents_of(tmp_path, tokenizer, [*good, [USER, THOUGHT]], LAST_PART, readers)
    assert documents.n_documents == 4
    assert documents.readings[0]["left_out"] == {"rendered differently by the two chat templates": 1}
