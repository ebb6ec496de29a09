"""How much of the time of a training went by in waiting for tokens, so that one knows what to make faster."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class WaitingTime:
    """Wall time of a loop, and the part of it in which the loop waited for data."""

    def __init__(self) -> None:
        self.waited = 0.0
        """Seconds spent waiting."""
        self._begin: float | None = None

    @contextmanager
    def for_data(self) -> Iterator[None]:
        """Time spent inside counts as waiting; the loop's time begins with the first call."""
        begin = time.perf_counter()
        if self._begin is None:
            self._begin = begin
        yield
        self.waited += time.perf_counter() - begin

    def seconds(self) -> float:
        """Wall time since the first wait."""
        return 0.0 if self._begin is None else time.perf_counter() - self._begin

    def share(self) -> float:
        """The part of the wall time that was waited."""
        seconds = self.seconds()
        return self.waited / seconds if seconds else 0.0
