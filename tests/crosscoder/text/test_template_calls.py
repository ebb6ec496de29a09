"""A chat template gives the same text on every day and in every call, or is refused in one line."""

from datetime import date, datetime
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from crosscoder.config import ContextSource
from crosscoder.errors import FormatError
from crosscoder.language_models.context import Context
from crosscoder.runtime import run_date
from crosscoder.text.chat_templates import render_chat
from crosscoder.text.template_calls import reproducible
from tests.tiny_pairs import save_tokenizer

BODY = "{% for m in messages %}{{ m['role'] + ':' + m['content'] }} {% endfor %}"
CHAT = [{"role": "user", "content": "maple oak"}, {"role": "assistant", "content": "birch"}]

DATED = {
    "a constant": "{{ strftime_now('%d %b %Y') }}",
    "a variable": "{% set form = '%d' %}{{ strftime_now(form + ' %b %Y') }}",
    "by name": "{{ strftime_now(format='%d %b %Y') }}",
    "another name": "{% set now = strftime_now %}{{ now('%d %b ' ~ '%Y') }}",
    "a macro": "{% macro today(form) %}{{ strftime_now(form) }}{% endmacro %}{{ today('%d %b %Y') }}",
    "in a loop": "{% for part in ['%d', '%b', '%Y'] %}{{ strftime_now(part) }}{{ '' if loop.last else ' ' }}{% endfor %}",
    "in two calls": "{{ strftime_now('%d') ~ ' ' ~ strftime_now('%b' + ' %Y') }}",
    "white space": "   {%- set form = '%d %b %Y' %}\n{{- strftime_now(form) }}",
    "percent signs": "{{ strftime_now('%-d %b %Y%%d').replace('%d', '') }}",
    "after a test": "{% if strftime_now is defined %}{{ strftime_now(\"%d %b \" + '%Y') }}{% endif %}",
}

RANDOM = {
    "filter": "{{ ['a', 'b'] | random }}",
    "filter in a filter": "{{ [['a', 'b']] | map('random') | join }}",
    "filter in a branch": "{% if false %}\n{{ 'ab' | random | upper }}{% endif %}",
    "words": "{{ lipsum(n=1) }}",
    "words by another name": "{% set write = lipsum %}{{ write() }}",
    "in a marked answer": "{% generation %}{{ 'ab' | random }}{% endgeneration %}",
}

ADDRESSES = {
    "a method that is not called": "{{ messages[0].items }}",
    "a filter that is no list": "{{ messages | map(attribute='role') }}",
    "a function": "{{ raise_exception }}",
    "an object of jinja": "{{ joiner }}{{ cycler('a').next }}",
}


@pytest.fixture
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreTrainedTokenizerBase:
    monkeypatch.setattr(run_date, "_date", date(2024, 2, 29))
    save_tokenizer(tmp_path / "tokenizer", BODY)
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


@pytest.mark.parametrize("name", DATED)
def test_the_date_of_the_run_in_any_format(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    template = DATED[name] + " " + BODY
    assert render_chat(tokenizer, template, CHAT, "here").text.startswith("29 Feb 2024 user:maple")
    source = ContextSource.model_validate({"context": CHAT})
    ids = Context.encode(source, tokenizer, template).token_ids
    assert str(tokenizer.decode(ids.tolist())).startswith("29 Feb 2024 user:maple")


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_template_is_refused(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    template = RANDOM[name] + BODY
    with pytest.raises(
        FormatError, match=r"^here: the chat template calls (the filter random|lipsum) \(line \d\)"
    ):
        render_chat(tokenizer, template, CHAT, "here")
    with pytest.raises(FormatError, match=r"^pair.intervened.context: the chat template calls "):
        Context.encode(ContextSource.model_validate({"context": CHAT}), tokenizer, template)


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_template_that_prints_an_address_is_refused(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    with pytest.raises(FormatError, match=r"^here: the chat template prints the address of an object \(<"):
        render_chat(tokenizer, ADDRESSES[name] + BODY, CHAT, "here")


def test_what_a_user_wrote_may_look_like_either(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = [{"role": "user", "content": "<function f at 0x7f00aa11bb22> and {{ 'ab' | random }}"}]
    assert chat[0]["content"] in render_chat(tokenizer, BODY, chat, "here").text


@pytest.mark.parametrize(
    "template",
    [
        BODY,
        "{% set random = 'a' %}{{ random }}{{ messages[0]['random'] }}",
        "{{ 'random' }}{{ 'lipsum' }}",
        "{% set lipsum = 'a' %}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% endfor %}",
        "{% broken",
    ],
)
def test_other_templates_are_not_refused(template: str) -> None:
    reproducible(template, "here")


@pytest.mark.parametrize(
    "form", ["%d %B %y", "%A, %-d. %m %Y", "%j %U %H:%M:%S.%f %p", "100%% %%d %d%", "%c|%x|%X|%D|%F", "none"]
)
def test_the_macro_prints_what_strftime_prints(form: str, tokenizer: PreTrainedTokenizerBase) -> None:
    template = "{% set form = '" + form + "' %}" + "{{ strftime_now(form) }}|" + BODY
    expected = datetime(2024, 2, 29).strftime(form)
    assert render_chat(tokenizer, template, CHAT, "here").text.startswith(f"{expected}|")


@pytest.mark.parametrize(
    "beginning",
    [
        "",
        "\n",
        "\n\n",
        "  ",
        "  {% if true %}\n  x{% endif %}",
        "{# a #}\n",
        " {%- if true %} y{% endif %}\n ",
    ],
)
def test_the_macro_changes_no_white_space(beginning: str, tokenizer: PreTrainedTokenizerBase) -> None:
    constant = render_chat(tokenizer, f"{beginning}29 Feb " + BODY, CHAT, "here").text
    dated = render_chat(tokenizer, beginning + "{{ strftime_now('%d %b') }} " + BODY, CHAT, "here").text
    assert dated == constant
