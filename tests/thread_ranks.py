"""Ranks as threads of this process, for tests of what ranks say to each other."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from crosscoder.runtime.process_group import ProcessGroup

Result = TypeVar("Result")


class ThreadGroup(ProcessGroup):
    """A group without `torch.distributed`, which knows one rank a process."""

    def broadcast_tensor(self, values: Tensor, source: int) -> None:
        found = self.broadcast(values.view(torch.uint8).tolist(), source)
        values.view(torch.uint8).copy_(
            torch.tensor(found, dtype=torch.uint8).view_as(values.view(torch.uint8))
        )


def on_ranks(size: int, work: Callable[[ThreadGroup], Result]) -> tuple[list[Result], HashStore]:
    """Return what the work returns on each rank, and the store that they used. Raises what it raises."""
    store = HashStore()
    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(work, ThreadGroup(rank, size, store=store)) for rank in range(size)]
        return [future.result(timeout=60) for future in futures], store
