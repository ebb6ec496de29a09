"""Verbs under torchrun: rank 0 does what the verb does without it, and the other ranks take the shares of the work that it announces."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..runtime.parts import launched_as
from .packages import module

logger = logging.getLogger(__name__)

_WORK = ("training.rank_work", "analysis.rank_work")
"""The modules of the tasks that ranks share. Each has a `Helper`, which carries out its `TASKS`."""


def rank_and_size() -> tuple[int, int]:
    """Return the rank of this process and the number of ranks that torchrun started; (0, 1) without it.

    Raises:
        ConfigError: The variables of torchrun are incomplete.
    """
    part = launched_as(os.environ)
    return (0, 1) if part is None else (part.number - 1, part.of)


def lead_or_assist(verb: Callable[[], None]) -> None:
    """Carry out a verb on rank 0, and on the others what it announces until it ends."""
    rank, size = rank_and_size()
    if size == 1:
        verb()
        return
    if rank:
        # Before tqdm is imported, which reads it once: one progress bar is enough.
        os.environ["TQDM_DISABLE"] = "1"
        _log_as(rank)
    with module("crosscoder.runtime.process_group").begin(os.environ):
        if rank:
            _assist()
            return
        logger.info(
            "torchrun: %d ranks share the harvest, the dictionaries, what analyze reads, and the behaviors of a run; rank 0 does the rest "
            "while the others wait",
            size,
        )
        try:
            verb()
        finally:
            # Without the store, the others have ended, and what the verb raised says more.
            with suppress(RuntimeError):
                module("crosscoder.run.rank_tasks").announce_end()


def _assist() -> None:
    """Take shares of the tasks that rank 0 announces, until it announces the end."""
    tasks, helpers = module("crosscoder.run.rank_tasks"), {}
    while (task := tasks.next_task()) is not None:
        _helper_for(task["name"], helpers).carry_out(task)


def _helper_for(name: str, helpers: dict[str, Any]) -> Any:
    """Return the helper that carries out the task `name`. `helpers` keeps them; one is made when it is first needed, because its package
    takes seconds to import."""
    for work in _WORK:
        helpers[work] = helpers.get(work) or module(work).Helper()
        if name in helpers[work].TASKS:
            return helpers[work]
    raise ValueError(f"no task {name!r}")


def _log_as(rank: int) -> None:
    """Begin the lines of the log with the rank."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s %(levelname)s rank {rank}: %(message)s", datefmt="%H:%M:%S")
        )
