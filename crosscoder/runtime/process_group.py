"""The processes that torchrun started for one command: which of them this one is, and how they talk.

Small values travel as JSON through the store of the launcher, so that nothing is unpickled, no wait has a time limit, and Ctrl-C ends one.
Tensors travel through `torch.distributed` (gloo for those in main memory, nccl for those on a GPU), which `begin` starts.

A process that no launcher started is a group of one, in which each of these calls returns at once.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ..errors import ConfigError, ResourceError, first_line
from .device import take_gpu
from .interrupts import require_no_stop
from .parts import launched_as, local_rank, local_size

_WAIT = timedelta(days=7)
"""Longest wait in an operation on tensors: another rank may be at work alone meanwhile. torchrun ends a group that lost a rank at once."""

_UNTIL_STOPPED = 5.0
"""Seconds in which torchrun stops the other ranks once one has ended."""

_PAUSES = (0.0005, 0.05)
"""Seconds between two looks into the store, at first and at most."""


class ProcessGroup:
    """The ranks of one command. Every rank has to make the same calls, in the same order."""

    def __init__(self, rank: int = 0, size: int = 1, local_size: int = 1, store: Store | None = None) -> None:
        self.rank, self.size = rank, size
        self.local_size = local_size
        """Ranks on this machine."""
        self._store, self._n_calls = store, 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in the order of ranks; each gives one that JSON can hold."""
        name = self._next_call()
        if self._store is None:
            return [_through_json(value)]
        self._store.set(f"{name}/{self.rank}", json.dumps(value))
        found = [json.loads(self._get(f"{name}/{rank}")) for rank in range(self.size)]
        self._forget(name, range(self.size), readers=self.size)
        return found

    def broadcast(self, value: Any = None, source: int = 0) -> Any:
        """Return the value of the rank `source`, one that JSON can hold; those of others are ignored. `source` does not wait."""
        name = self._next_call()
        if self._store is None:
            return _through_json(value)
        if self.rank == source:
            self._store.set(f"{name}/{source}", json.dumps(value))
            return _through_json(value)
        found = json.loads(self._get(f"{name}/{source}"))
        self._forget(name, (source,), readers=self.size - 1)
        return found

    def claims(self, n_items: int) -> Iterator[int]:
        """Yield numbers below `n_items`, each to one rank alone: the next free one whenever a rank asks."""
        return self._claims(n_items, self._next_call())

    def _claims(self, n_items: int, name: str) -> Iterator[int]:
        if self._store is None:
            yield from range(n_items)
            return
        while (number := self._store.add(name, 1) - 1) < n_items:
            yield number

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank, by an all-reduce that costs little at every step: for interrupts, say."""
        if self._store is None:
            return flag
        found = torch.tensor(int(flag))
        with self.complaint():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return bool(found)

    def broadcast_tensor(self, values: Shaped[Tensor, "*shape"], source: int) -> None:
        """Replace a tensor in main memory by that of the rank `source`, which has the same shape and precision."""
        if self._store is not None and values.numel():
            with self.complaint():
                distributed.broadcast(_bytes_of(values), source)

    def spread(self, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the named tensors of rank 0 on every rank; the others give None. They are in main memory, and have any shape and precision."""
        told = {name: (list(value.shape), str(value.dtype)) for name, value in (tensors or {}).items()}
        told = self.broadcast(told)
        if tensors is None:
            found = {name: _empty(*shape) for name, shape in told.items()}
        else:
            found = {name: value.contiguous() for name, value in tensors.items()}
        for value in found.values():
            self.broadcast_tensor(value, 0)
        return found

    def collect(
        self, tensors: Mapping[str, Tensor], take: Callable[[dict[str, Tensor]], object] | None = None
    ) -> None:
        """Send named tensors to rank 0, which calls `take` with those of each other rank, in the order of ranks.

        They are in main memory, and have any shape and precision. Rank 0 holds those of one rank at a time; its own are not sent.
        """
        told = {name: (list(value.shape), str(value.dtype)) for name, value in tensors.items()}
        # Which waits until every rank is here, so that no exchange of tensors takes long.
        for rank, shapes in enumerate(self.gather(told)):
            if rank == self.rank != 0:
                for value in tensors.values():
                    self._send(value, 0)
            elif rank and self.rank == 0:
                empty = {name: _empty(*shape) for name, shape in shapes.items()}
                received = {name: self._receive(value, rank) for name, value in empty.items()}
                if take is not None:
                    take(received)

    def _send(self, values: Shaped[Tensor, "..."], to: int) -> None:
        if values.numel():
            with self.complaint():
                distributed.send(_bytes_of(values.contiguous()), to)

    def _receive(self, values: Shaped[Tensor, "..."], source: int) -> Shaped[Tensor, "..."]:
        """Fill a tensor with what another rank sends, and return it."""
        if values.numel():
            with self.complaint():
                distributed.recv(_bytes_of(values), source)
        return values

    def _next_call(self) -> str:
        self._n_calls += 1
        return f"call/{self._n_calls}"

    def _get(self, key: str) -> bytes:
        """Return a value once another rank has set it. It looks again and again, because a wait of the store cannot be interrupted."""
        assert self._store is not None
        pause, most = _PAUSES
        with self.complaint():
            while not self._store.check([key]):
                require_no_stop()
                time.sleep(pause)
                pause = min(1.5 * pause, most)
            return self._store.get(key)

    @contextmanager
    def complaint(self) -> Iterator[None]:
        """Say in one line that a rank is lost. torchrun stops the others a moment later; a stop between two steps loses nothing, so it has
        precedence."""
        try:
            yield
        except RuntimeError as error:
            deadline = time.monotonic() + _UNTIL_STOPPED
            while time.monotonic() < deadline:
                require_no_stop()
                time.sleep(_PAUSES[1])
            raise ResourceError(
                f"torchrun: rank {self.rank} of {self.size} lost the others, which have ended ({first_line(error)}); run the same command again "
                "to continue"
            ) from None

    def _forget(self, name: str, ranks: Iterable[int], readers: int) -> None:
        """Remove the values of a call if this rank is the last that reads them."""
        assert self._store is not None
        if self._store.add(f"{name}/read", 1) == readers:
            for rank in ranks:
                self._store.delete_key(f"{name}/{rank}")
            self._store.delete_key(f"{name}/read")


_current = ProcessGroup()


def process_group() -> ProcessGroup:
    """Return the group that this process is in."""
    return _current


@contextmanager
def begin(variables: Mapping[str, str]) -> Iterator[ProcessGroup]:
    """Join the group that the variables of torchrun describe, inside the block; a group of one if they describe none.

    With GPUs, the current one becomes that of LOCAL_RANK.

    Raises:
        ConfigError: The variables are incomplete, or this torch cannot do it.
        ResourceError: The other ranks do not answer.
    """
    global _current
    part = launched_as(variables)
    if part is None or part.of == 1:
        yield _current
        return
    if not distributed.is_available():
        raise ConfigError(
            "torchrun: this torch has no torch.distributed; start one process, without torchrun"
        )
    backend = "gloo"
    take_gpu(local_rank(variables))
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
    store = _started(backend)
    before = _current
    _current = ProcessGroup(part.number - 1, part.of, local_size(variables), PrefixStore("crosscoder", store))
    try:
        yield _current
    finally:
        _current = before
        distributed.destroy_process_group()


def _started(backend: str) -> Store:
    """Start `torch.distributed` and return its store."""
    try:
        store, rank, size = next(rendezvous("env://", timeout=timedelta(minutes=10)))
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_WAIT)
    except (RuntimeError, ValueError, OSError) as error:
        raise ResourceError(
            f"torchrun: the ranks do not find each other ({error}); on several machines, give torchrun --rdzv-endpoint HOST:PORT of one of them"
        ) from error
    return store


def _through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _bytes_of(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, " byte"]:
    """Return a view of a tensor, because gloo does not know every precision."""
    return values.view(-1).view(torch.uint8)


def _empty(shape: list[int], dtype: str) -> Shaped[Tensor, "..."]:
    return torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
