"""Interrupts: Ctrl-C, and the SIGTERM that schedulers send before they reclaim a machine."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def treat_sigterm_as_interrupt() -> None:
    """Handle every SIGTERM as Ctrl-C is handled at that moment, also where Ctrl-C itself is ignored, as behind `nohup … &`."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        handler(number, frame)
    else:
        signal.default_int_handler(number, frame)


class StopRequested(KeyboardInterrupt):
    """A wait between two steps ended because a stop was requested: what was done up to here can be saved."""


_requested = False


def require_no_stop() -> None:
    """Raise StopRequested if a stop was requested inside `stop_between_steps`; for waits that may be long."""
    if _requested:
        raise StopRequested


@contextmanager
def stop_between_steps() -> Iterator[Callable[[], bool]]:
    """Yield a function that reports whether Ctrl-C was pressed or SIGTERM came; a second Ctrl-C interrupts at once. A second SIGTERM does
    not, because a scheduler and the launcher under it may both send one."""
    global _requested
    previous = signal.getsignal(signal.SIGINT)

    def request_stop(number: int, frame: FrameType | None) -> None:
        global _requested
        if number == signal.SIGINT and previous is signal.SIG_IGN:
            return
        if _requested and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        _requested = True

    try:
        signal.signal(signal.SIGINT, request_stop)
    except ValueError:
        # Python handles signals in the main thread only; in another thread the caller handles Ctrl-C.
        yield lambda: False
        return
    try:
        yield lambda: _requested
    finally:
        signal.signal(signal.SIGINT, previous)
        _requested = False
