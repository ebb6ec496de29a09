"""A process of its own that searches texts for regular expressions, so that it can be ended. `expressions` starts it as a script.

It reads a request as one line of JSON, and answers each text with a line: start and end of the first match, or - without one.
"""

import json
import re
import signal
import sys

_LONGEST = 60
"""Seconds after which it ends by itself, in case that nobody is left to end it."""


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command that started it
    for line in sys.stdin:
        request = json.loads(line)
        expression = re.compile(request["pattern"], request["flags"])
        for text in request["texts"]:
            if hasattr(signal, "alarm"):
                signal.alarm(_LONGEST)
            found = expression.search(text)
            sys.stdout.write("-\n" if found is None else f"{found.start()} {found.end()}\n")
            sys.stdout.flush()
        if hasattr(signal, "alarm"):
            signal.alarm(0)


if __name__ == "__main__":
    _serve()
