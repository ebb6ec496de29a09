"""Runs jobs in parallel, each in a fresh process with its share of the threads."""

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
from .interrupts import treat_sigterm_as_interrupt

Result = TypeVar("Result")


def let_idle_threads_sleep() -> None:
    """Make the threads of OpenMP sleep while they wait for work, unless the environment says otherwise (`OMP_WAIT_POLICY`). Must be
    called before torch is imported, which loads OpenMP.

    By default a thread that waits spins for some milliseconds. Beside other work it spins on the core that the thread it waits for needs.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def run_in_processes(
    function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], workers: int, threads: int = 1
) -> Iterator[tuple[int, Result]]:
    """Run `function(*job)` for every job, at most `workers` at a time, and yield `(job number, result)` as jobs finish.

    The function must be importable from a module. An exception in a job is raised here, and no further job starts. An
    interrupt is forwarded to running jobs; a process whose parent is killed exits with it.

    Args:
        threads: Threads per process.

    Raises:
        ResourceError: A process died, usually because memory ran out.
    """
    # Fresh processes: a forked one inherits torch's threads in a state that hangs.
    with (
        _environment(TQDM_DISABLE="1", OMP_NUM_THREADS=str(threads)),
        ProcessPoolExecutor(workers, get_context("spawn"), initializer=_exit_with_parent) as pool,
    ):
        futures = {pool.submit(function, *job): number for number, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise ResourceError(
                f"one of {workers} processes died, usually because memory ran out; run fewer in parallel (setting or option "
                "`workers`); finished jobs are kept"
            ) from None
        except KeyboardInterrupt:
            for process in active_children():
                if process.pid is not None:
                    # Not SIGINT, which a process started behind `nohup … &` ignores.
                    os.kill(process.pid, signal.SIGTERM)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _exit_with_parent() -> None:
    """Exit this process when its parent exits: a killed run that is restarted must not compete with its old workers. SIGTERM, by
    which the parent forwards an interrupt, is handled as Ctrl-C is."""
    treat_sigterm_as_interrupt()
    parent = parent_process()
    assert parent is not None, "a worker process has a parent"

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="exit with parent").start()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables, which new processes inherit, while the body runs."""
    previous = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
