"""A call returns, raises, or is left to itself, and the next one is made all the same."""

import os
import threading

import pytest

from crosscoder.runtime.time_limits import LateError, within


class PanicError(BaseException):
    """As compiled code raises it: no Exception."""


def test_a_call_returns_what_it_returns_and_raises_what_it_raises() -> None:
    assert within(60.0, lambda: 3) == 3
    for error in (ValueError("no"), PanicError("no")):
        with pytest.raises(type(error), match="no"):
            within(60.0, lambda error=error: (_ for _ in ()).throw(error))
    assert within(60.0, lambda: threading.current_thread().daemon), "it must not keep the process from ending"


def test_after_a_late_call_the_next_one_is_made() -> None:
    go_on = threading.Event()
    try:
        for _ in range(3):
            with pytest.raises(LateError):
                within(0.05, go_on.wait)
            assert within(60.0, lambda: "next") == "next"
    finally:
        go_on.set()


def test_calls_of_several_threads_do_not_wait_for_each_other() -> None:
    meeting = threading.Barrier(3, timeout=60)
    passed: list[int] = []
    threads = [threading.Thread(target=lambda: passed.append(within(60.0, meeting.wait))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(passed) == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_makes_calls_too() -> None:
    within(60.0, lambda: None)
    child = os.fork()
    if child == 0:
        try:
            os._exit(within(60.0, lambda: 7))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
