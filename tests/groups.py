"""Processes of one group, as torchrun starts them, that run functions of tests together."""

import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, cast

TIMEOUT = 240
"""Seconds after which a group counts as stuck."""


class Group:
    """Some processes of one group. They are started once, because that takes longer than most tests."""

    def __init__(self, size: int) -> None:
        self.size = size
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = get_context("spawn")
        self._ends: list[Any] = []
        self.processes = []
        for rank in range(size):
            here, there = context.Pipe()
            variables = {
                "RANK": rank,
                "WORLD_SIZE": size,
                "LOCAL_RANK": rank,
                "MASTER_PORT": port,
                "MASTER_ADDR": "127.0.0.1",
            }
            process = context.Process(
                target=_serve,
                args=(there, {key: str(value) for key, value in variables.items()}),
                daemon=True,
            )
            process.start()
            there.close()
            self._ends.append(here)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Run `function(*arguments)` in every process, and return the results in the order of ranks. The function must be importable."""
        for end in self._ends:
            end.send((function, arguments))
        results: list[Any] = [None] * self.size
        missing = dict(zip(self._ends, range(self.size), strict=True))
        while missing:
            ready = wait(list(missing), TIMEOUT)
            assert ready, f"ranks {sorted(missing.values())} do not answer"
            for end in ready:
                succeeded, result = cast(Connection, end).recv()
                assert succeeded, result
                results[missing.pop(cast(Any, end))] = result
        return results

    def end(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()
            process.join()


@contextmanager
def group_of(size: int) -> Iterator[Group]:
    """Yield a group that ends with the block."""
    group = Group(size)
    try:
        yield group
    finally:
        group.end()


def _serve(end: Connection, variables: dict[str, str]) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    os.environ |= variables
    import torch

    from crosscoder.runtime.process_group import begin

    torch.set_num_threads(1)
    with begin(variables):
        while True:
            function, arguments = end.recv()
            torch.manual_seed(0)
            try:
                answer = True, function(*arguments)
            except BaseException:  # noqa: BLE001 (the test reports it)
                answer = False, traceback.format_exc()
            end.send(answer)
