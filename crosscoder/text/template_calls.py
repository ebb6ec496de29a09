"""What a chat template must not do: give another text each time, so that no run could be repeated or resumed, or compute numbers without bound."""

import re
from collections.abc import Iterator
from functools import lru_cache

import jinja2
from jinja2 import nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import FormatError
from ..runtime.run_date import dated

_DIFFERS = "so its text differs each time it is read, and no run on it could be repeated"

# The tag of transformers that marks what the model wrote; jinja alone does not know it.
_GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")

# How Python prints an object that has no text of its own: a method that was not called, a filter that was not made a list.
_ADDRESS = re.compile(r"<[^\n]{1,200}? at 0x[0-9A-Fa-f]{4,}>")


def reproducible(template: str, origin: str) -> str:
    """Return a chat template that gives the same text each time it is rendered: with the date of the run, and nothing drawn at random.

    Args:
        origin: What is rendered, for messages.

    Raises:
        FormatError: It draws something at random, or computes powers or products of variables.
    """
    found = _refused_call(template)
    if found is not None:
        raise FormatError(f"{origin}: the chat template {found}; edit chat_template in the tokenizer's files")
    return dated(template)


def check_rendered(text: str, contents: Iterator[str], origin: str) -> None:
    """Check that a rendered chat shows no address in memory. Raises FormatError if it does."""
    found = _ADDRESS.search(text)
    if found is not None and not any(found[0] in content for content in contents):
        shown = found[0].partition(" at 0x")[0]
        raise FormatError(
            f"{origin}: the chat template prints the address of an object ({shown}>), {_DIFFERS}; edit chat_template in the tokenizer's files"
        )


@lru_cache(maxsize=64)
def _refused_call(template: str) -> str | None:
    """Return what a template may not do, with its line; None without it, or for a template that cannot be parsed.

    A power, or products in a loop, have billions of digits after few steps, and nothing ends their computation.
    """
    environment = ImmutableSandboxedEnvironment(extensions=[loopcontrols])
    try:
        tree = environment.parse(_GENERATION.sub("", template))
    except (jinja2.TemplateError, RecursionError):
        return None  # rendering says what is wrong
    for one in tree.find_all((nodes.Filter, nodes.Name, nodes.Pow, nodes.Mul)):
        place = f"(line {one.lineno})"
        if isinstance(one, nodes.Name) and one.name == "lipsum" and one.ctx == "load":
            return f"calls lipsum {place}, which writes random words, {_DIFFERS}"
        if isinstance(one, nodes.Filter) and "random" in _filters(one):
            return f"calls the filter random {place}, {_DIFFERS}"
        if isinstance(one, nodes.Pow):
            return f"computes a power {place}, which can have any number of digits"
        if (
            isinstance(one, nodes.Mul)
            and not isinstance(one.left, nodes.Const)
            and not isinstance(one.right, nodes.Const)
        ):
            return f"multiplies two variables {place}, which can give any number of digits"
    return None


def _filters(call: nodes.Filter) -> list[str]:
    """Return the filters that a call of a filter applies: itself, and what `map` applies to each entry."""
    inside = [one.value for one in call.args if isinstance(one, nodes.Const)] if call.name == "map" else []
    return [call.name, *map(str, inside)]
