"""Other work on the same machine, for `crosscoder bench --beside`."""

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch

_WIDTH = 1024


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Keep `number` processes of one thread each busy with matrix products while the block runs."""
    context = get_context("spawn")
    processes, ready = [], []
    try:
        for _ in range(number):
            here, there = context.Pipe()
            process = context.Process(target=_multiply, args=(there,), daemon=True)
            process.start()
            processes.append(process)
            ready.append(here)
        for connection in ready:
            connection.recv()
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _multiply(ready: Connection) -> None:
    torch.set_num_threads(1)
    factor = torch.randn(_WIDTH, _WIDTH, generator=torch.Generator().manual_seed(0)) / _WIDTH**0.5
    product = factor
    ready.send(True)
    while True:
        product = torch.nn.functional.normalize(product @ factor)
