"""Interrupts: Ctrl-C, and the SIGTERM that schedulers send before they reclaim a machine."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def treat_sigterm_as_interrupt() -> None:
    """Forward every SIGTERM to the current handler of Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


@contextmanager
def stop_between_steps() -> Iterator[Callable[[], bool]]:
    """Yield a function that reports whether Ctrl-C was pressed; a second Ctrl-C interrupts at once."""
    requested = False

    def request_stop(*_: object) -> None:
        nonlocal requested
        requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        previous = signal.signal(signal.SIGINT, request_stop)
    except ValueError:
        # Python handles signals in the main thread only; in another thread the caller handles Ctrl-C.
        yield lambda: False
        return
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGINT, previous)
