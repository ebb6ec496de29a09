"""Regular expressions that a user or a file names, with a limit on their time.

Expressions such as (a+)+$ take a time that doubles with each letter of some texts, and `re` cannot be stopped. So a process of its own
searches, and is ended when it takes too long. What an expression means is what it means to `re`. Expressions that repeat nothing
are searched for here, because they are fast on every text. Only whether the beginning of a text excludes a match is asked of `regex`, because `re`
cannot tell.
"""

import atexit
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import regex

from ..config.messages import why_no_expression
from ..errors import DataError, FormatError

LIMIT = 5.0
"""Seconds for one text. Ordinary expressions take less than a millisecond."""

_MOST_ALTERNATIVES = 12
"""Without repetition, an expression tries at most 2 to this power ways at each letter of a text."""

_ITEM = r"(?:\\[wWsSdD]|\\u[0-9a-fA-F]{4}|\\[^\w]|[^\\\[\]&|~-])"
_PART = rf"(?:{_ITEM}(?<![(){{}}$])|\[\^?(?:{_ITEM}(?:-{_ITEM})?)+\]|-|&|~|\((?!\?)|\(\?(?::|!|=|<!)|\)|\{{\d+(?:,\d*)?\}})"
_OPENING = re.compile(rf"(?:\^|\\A)(?![*+?{{]){_PART}*")
"""Expressions for how a text begins, without alternatives, that `regex` and `re` read alike. `regex` decides $, \\b and the like at the end of a
beginning, where more text may follow, so they are none of these."""

_SHOWN = 60

Span = tuple[int, int]
"""Start and end of a match in a text."""


class Expression:
    """A regular expression of a user or a file."""

    def __init__(self, pattern: str, named_in: str, *, ignore_case: bool = False) -> None:
        """
        Args:
            named_in: The setting or file that names it, for messages.

        Raises:
            FormatError: It is no regular expression.
        """
        self._pattern, self._named_in = pattern, named_in
        self._flags = re.IGNORECASE if ignore_case else 0
        reason = why_no_expression(pattern)
        if reason is not None:
            raise FormatError(
                f"{named_in}: {_short(pattern)} is no regular expression ({reason}); give another"
            )
        self._compiled = re.compile(pattern, self._flags)
        self._is_fast = repeats_nothing(pattern)
        self._partial = _compiled_for_beginnings(pattern, self._flags)

    def find(self, text: str) -> Span | None:
        """Return where the first match is; None without one. Raises as `find_each`."""
        return self.find_each([text])[0]

    def is_in(self, text: str) -> bool:
        """Whether a text has a match. Raises as `find_each`."""
        return self.find(text) is not None

    def excludes(self, beginning: str) -> bool:
        """Whether it has no match in any text that begins so, the beginning itself included; False where that cannot be told, or not soon."""
        if self._partial is None:
            return False
        try:
            return self._partial.search(beginning, partial=True, timeout=LIMIT) is None
        except TimeoutError:
            self._partial = None
            return False

    def find_each(self, texts: Sequence[str]) -> list[Span | None]:
        """Return where the first match in each text is.

        Raises:
            DataError: It takes too long on one of them.
        """
        if self._is_fast:
            matches = (self._compiled.search(text) for text in texts)
            return [None if match is None else match.span() for match in matches]
        found = _searcher.find_each(self._pattern, self._flags, texts) if texts else []
        if len(found) < len(texts):
            raise DataError(
                f"{self._named_in}: the regular expression {_short(self._pattern)} takes more than {LIMIT:g} s on the text "
                f"{_short(texts[len(found)])}; write it without a repetition inside a repetition"
            )
        return found


def _compiled_for_beginnings(pattern: str, flags: int) -> "regex.Pattern[str] | None":
    """Return an expression for the library that can search beginnings of texts; None if it is not for openings, or could find something else than `re`."""
    if not _OPENING.fullmatch(pattern):
        return None
    try:
        return regex.compile(pattern, (regex.IGNORECASE if flags & re.IGNORECASE else 0) | regex.VERSION0)
    except regex.error:
        return None


def repeats_nothing(pattern: str) -> bool:
    """Whether an expression has no repetition and few alternatives, and so is fast on every text."""
    # (?: and its like are no repetition.
    unrepeated = not re.search(r"[*+?{]", pattern.replace("(?", "("))
    return unrepeated and pattern.count("|") <= _MOST_ALTERNATIVES


class _Searcher:
    """The process that searches; it is started when it is needed, and again after it was ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._deadline = 0.0

    def find_each(self, pattern: str, flags: int, texts: Sequence[str]) -> list[Span | None]:
        """Return a result for each text, up to the first that takes too long."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            done = threading.Event()
            self._deadline = time.monotonic() + LIMIT
            guard = threading.Thread(target=self._end_when_late, args=(process, done), daemon=True)
            guard.start()
            found: list[Span | None] = []
            try:
                request = {"pattern": pattern, "flags": flags, "texts": list(texts)}
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                for _ in texts:
                    line = process.stdout.readline()
                    if not line:
                        break
                    start, _, end = line.strip().partition(" ")
                    found.append(None if start == "-" else (int(start), int(end)))
                    self._deadline = time.monotonic() + LIMIT
            finally:
                done.set()
                guard.join()
                if len(found) < len(texts):
                    self.end()
            return found

    def end(self) -> None:
        """End the process, if there is one."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.communicate()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.end()
            script = Path(__file__).with_name("expression_process.py")
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="ascii",
            )
        return self._process

    def _end_when_late(self, process: subprocess.Popen[str], done: threading.Event) -> None:
        while not done.wait(max(0.01, self._deadline - time.monotonic())):
            if time.monotonic() > self._deadline:
                process.kill()
                return


_searcher = _Searcher()
atexit.register(_searcher.end)


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
