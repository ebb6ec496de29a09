"""Work on several cores: jobs side by side, each in a fresh process with its share of the threads."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, connection, get_context, parent_process
from typing import Any, TypeVar

from ..errors import ResourceError

Result = TypeVar("Result")


def side_by_side(
    function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], workers: int, threads: int = 1
) -> Iterator[tuple[int, Result]]:
    """`function(*job)` for every job, at most `workers` at a time; its number and result, in the order in which they end.

    A new process has to find the function in a module. What a job raises is raised here, and no further job is begun. An
    interrupt is passed on to jobs that run; a process whose parent is killed ends with it.

    Args:
        threads: Of each process.

    Raises:
        ResourceError: A process died, as it does when memory is short.
    """
    # Fresh processes: a forked one inherits torch's threads in a state that hangs.
    with (
        _environment(TQDM_DISABLE="1", OMP_NUM_THREADS=str(threads)),
        ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent) as pool,
    ):
        futures = {pool.submit(function, *job): number for number, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise ResourceError(
                f"one of {workers} processes died, as happens when memory is short; let fewer work side by side "
                "(setting or option `workers`); what is finished stays"
            ) from None
        except KeyboardInterrupt:
            for process in active_children():
                if process.pid is not None:
                    os.kill(process.pid, signal.SIGINT)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let this process end when its parent does: a killed run that is started again must not meet what it left behind."""
    parent = parent_process()
    assert parent is not None, "a process that was started for some jobs has a parent"

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="end with parent").start()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables that new processes inherit, for as long as the body runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
