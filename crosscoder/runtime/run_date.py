"""The date that chat templates print.

Some templates put today's date into a system message (`strftime_now`). A run keeps the date of its first day (`date` in manifest.json), so
that resuming it tomorrow renders the same texts. The time of day is midnight.
"""

from datetime import date, datetime, time
from functools import lru_cache
from string import ascii_letters

_FLAGS = "", "-", "_", "0", "^", "#", "E", "O"
"""What may stand between % and the letter of a directive of `strftime`."""

_PERCENT = "\ue002"

_date: date | None = None


def use_date(day: date) -> None:
    """Let chat templates print this date from now on, in this process."""
    global _date
    _date = day


def dated(template: str) -> str:
    """Return a chat template in which `strftime_now` prints the date of the run, in any format; without an open run, the template as it is.

    A macro of the template takes the place of the function, because transformers hands no functions to a template.
    """
    if _date is None or "strftime_now" not in template:
        return template
    # The line ends after the macro, so that the white space at the beginning of the template is treated as it was.
    return f"{_macro(_date)}\n{template}"


@lru_cache(maxsize=4)
def _macro(day: date) -> str:
    midnight = datetime.combine(day, time())
    directives = [f"%{flag}{letter}" for flag in _FLAGS for letter in ascii_letters]
    printed = {directive: midnight.strftime(directive) for directive in directives}
    pairs = [
        (directive, text) for directive, text in printed.items() if text != directive and "%" not in text
    ]
    pairs = [("%%", _PERCENT), *pairs, (_PERCENT, "%")]
    listed = ", ".join(f"({_quoted(directive)}, {_quoted(text)})" for directive, text in pairs)
    # A loop, because jinja takes long to compile hundreds of filters one inside another.
    return (
        "{% macro strftime_now(format) %}{% set shown = namespace(text=format) %}"
        f"{{% for directive, text in [{listed}] %}}"
        "{% set shown.text = shown.text | replace(directive, text) %}{% endfor %}{{ shown.text }}{% endmacro %}"
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t")
    return f"'{escaped}'"
