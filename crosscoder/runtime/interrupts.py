"""How a command is asked to stop: by Ctrl-C, or by SIGTERM, which schedulers send before they take a machine away."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def take_sigterm_for_ctrl_c() -> None:
    """From here on a SIGTERM does what Ctrl-C does, whatever that is at the time."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


@contextmanager
def stop_between_steps() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request that is honored after the step; a second one interrupts at once."""
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:
        # Signals can be handled in the main thread only; elsewhere Ctrl-C is the caller's.
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
