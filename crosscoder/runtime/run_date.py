"""The date that chat templates print.

Some templates put today's date into a system message (`strftime_now`). A run keeps the date of its first day (`date` in manifest.json), so
that resuming it tomorrow renders the same texts. The time of day is midnight.
"""

import re
from datetime import date, datetime, time

_CALL = re.compile(r"""strftime_now\(\s*("[^"\\]*"|'[^'\\]*')\s*\)""")

_date: date | None = None


def use_date(day: date) -> None:
    """Let chat templates print this date from now on, in this process."""
    global _date
    _date = day


def dated(template: str) -> str:
    """Return a chat template in which the date of the run stands for each call of `strftime_now` with a constant format; without an
    open run, the template as it is."""
    if _date is None:
        return template
    midnight = datetime.combine(_date, time())
    return _CALL.sub(lambda call: f"({_quoted(midnight.strftime(call[1][1:-1]))})", template)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
