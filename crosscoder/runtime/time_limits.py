"""Calls with a limit on their time, where what is called may never return and cannot be stopped: compiled code, or a template's loops.

A call runs in a thread of its own. One that is late is left to itself: its thread does not keep the process from ending.
"""

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class LateError(Exception):
    """A call took longer than it may."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call returns, or raise what it raises.

    Raises:
        LateError: It takes longer.
    """
    worker = getattr(_own, "worker", None)
    if worker is None:
        worker = _own.worker = _Worker()
    try:
        return worker.result(call, seconds)
    except LateError:
        del _own.worker
        raise


class _Worker:
    """A thread that makes one call after the other."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], SimpleQueue[tuple[bool, Any]]]] = SimpleQueue()
        threading.Thread(target=self._serve, name="calls with a time limit", daemon=True).start()

    def result(self, call: Callable[[], T], seconds: float) -> T:
        answer: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
        self._calls.put((call, answer))
        try:
            returned, value = answer.get(timeout=seconds)
        except Empty:
            raise LateError from None
        if not returned:
            raise value
        return value

    def _serve(self) -> None:
        while True:
            call, answer = self._calls.get()
            try:
                answer.put((True, call()))
            except BaseException as error:  # noqa: BLE001
                # Handed to the caller, who raises it.
                answer.put((False, error))


_own = threading.local()


def _forget() -> None:
    """A forked process has no thread but the one that forked."""
    global _own
    _own = threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
