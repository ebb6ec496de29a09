"""What a chat template must not call: whatever gives another text each time, so that no run could be repeated or resumed."""

import re
from collections.abc import Iterator
from functools import lru_cache

import jinja2
from jinja2 import nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import FormatError
from ..runtime.run_date import dated

_REMEDY = "so its text differs each time it is read, and no run on it could be repeated; edit chat_template in the tokenizer's files"

# The tag of transformers that marks what the model wrote; jinja alone does not know it.
_GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")

# How Python prints an object that has no text of its own: a method that was not called, a filter that was not made a list.
_ADDRESS = re.compile(r"<[^\n]{1,200}? at 0x[0-9A-Fa-f]{4,}>")


def reproducible(template: str, origin: str) -> str:
    """Return a chat template that gives the same text each time it is rendered: with the date of the run, and nothing drawn at random.

    Args:
        origin: What is rendered, for messages.

    Raises:
        FormatError: It draws something at random.
    """
    found = _random_call(template)
    if found is not None:
        raise FormatError(f"{origin}: the chat template calls {found}, {_REMEDY}")
    return dated(template)


def check_rendered(text: str, contents: Iterator[str], origin: str) -> None:
    """Check that a rendered chat shows no address in memory. Raises FormatError if it does."""
    found = _ADDRESS.search(text)
    if found is not None and not any(found[0] in content for content in contents):
        shown = found[0].partition(" at 0x")[0]
        raise FormatError(
            f"{origin}: the chat template prints the address of an object ({shown}>), {_REMEDY}"
        )


@lru_cache(maxsize=64)
def _random_call(template: str) -> str | None:
    """Return the first call of something random, with its line; None without one, or for a template that cannot be parsed."""
    environment = ImmutableSandboxedEnvironment(extensions=[loopcontrols])
    try:
        tree = environment.parse(_GENERATION.sub("", template))
    except (jinja2.TemplateError, RecursionError):
        return None  # rendering says what is wrong
    for one in tree.find_all((nodes.Filter, nodes.Name)):
        if isinstance(one, nodes.Name) and one.name == "lipsum" and one.ctx == "load":
            return f"lipsum (line {one.lineno}), which writes random words"
        if isinstance(one, nodes.Filter) and "random" in _filters(one):
            return f"the filter random (line {one.lineno})"
    return None


def _filters(call: nodes.Filter) -> list[str]:
    """Return the filters that a call of a filter applies: itself, and what `map` applies to each entry."""
    inside = [one.value for one in call.args if isinstance(one, nodes.Const)] if call.name == "map" else []
    return [call.name, *map(str, inside)]
