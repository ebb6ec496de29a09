"""What ranks say to each other, with threads as ranks, and how a process knows which rank it is."""

import signal
import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

import crosscoder.runtime.process_group as process_group_module
from crosscoder.errors import ConfigError, ResourceError
from crosscoder.runtime.interrupts import StopRequested, stop_between_steps
from crosscoder.runtime.process_group import ProcessGroup, begin, process_group
from tests.thread_ranks import ThreadGroup, on_ranks

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=8)
@given(st.lists(VALUES, min_size=2, max_size=4))
def test_every_rank_learns_the_values_of_all_and_nothing_stays_behind(values: list[Any]) -> None:
    def work(group: ThreadGroup) -> tuple[list[Any], Any, list[Any]]:
        gathered = group.gather(values[group.rank])
        sent = group.broadcast(values[group.rank], source=len(values) - 1)
        group.barrier()
        return gathered, sent, group.gather(group.rank)

    found, store = on_ranks(len(values), work)
    assert found == [(values, values[-1], list(range(len(values))))] * len(values)
    assert store.num_keys() == 0


@settings(deadline=None, max_examples=8)
@given(st.integers(2, 4), st.integers(0, 9), st.integers(0, 9))
def test_each_item_is_claimed_once(size: int, n_first: int, n_second: int) -> None:
    found, _ = on_ranks(size, lambda group: (list(group.claims(n_first)), list(group.claims(n_second))))
    assert sorted(number for first, _ in found for number in first) == list(range(n_first))
    assert sorted(number for _, second in found for number in second) == list(range(n_second))


def test_a_process_that_no_launcher_started_is_a_group_of_one() -> None:
    with begin({"RANK": "3"}) as group, begin(TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}) as same:
        assert group is same is process_group()
        assert (group.rank, group.size, group.local_size) == (0, 1, 1)
        assert group.gather({"a": (1, 2)}) == [{"a": [1, 2]}], "as between processes"
        assert group.broadcast((1, 2)) == [1, 2]
        assert list(group.claims(3)) == [0, 1, 2]
        assert group.any(True) and not group.any(False)
        values = torch.arange(3.0)
        group.broadcast_tensor(values, 0)
        assert values.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MASTER_ADDR": None}, "RANK and WORLD_SIZE are set, but not MASTER_ADDR; start the command with torchrun"),
        ({"RANK": "2"}, "torchrun: RANK is 2 and WORLD_SIZE is 2, but RANK counts from 0 to WORLD_SIZE - 1"),
        ({"RANK": None}, "torchrun: RANK is not set; start the command with torchrun, or unset the variables"),
        ({"WORLD_SIZE": "two"}, "torchrun: WORLD_SIZE is 'two', which is not a whole number"),
    ],
)  # fmt: skip
def test_incomplete_variables_are_named(changes: dict[str, str | None], said: str) -> None:
    variables = {name: value for name, value in (TORCHRUN | changes).items() if value is not None}
    with pytest.raises(ConfigError, match=said), begin(variables):
        pass


def test_a_stop_ends_a_wait_for_other_ranks() -> None:
    group = ProcessGroup(0, 2, store=HashStore())
    with stop_between_steps() as stopping:
        threading.Timer(0.1, lambda: signal.raise_signal(signal.SIGINT)).start()
        with pytest.raises(StopRequested):
            group.gather("here")
        assert stopping()
    # A wait after it is not ended by that stop.
    other = ProcessGroup(0, 2, store=HashStore())
    threading.Timer(0.1, lambda: signal.raise_signal(signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt) as error:
        other.gather("here")
    assert error.type is KeyboardInterrupt


def test_a_group_that_ended_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group_module, "_UNTIL_STOPPED", 0.1)

    class Gone(HashStore):
        def check(self, keys: list[str]) -> bool:
            raise RuntimeError("Connection reset by peer")

    said = r"torchrun: rank 1 of 3 lost the others, which have ended \(Connection reset by peer\); run the same command again"
    with pytest.raises(ResourceError, match=said):
        ProcessGroup(1, 3, store=Gone()).gather(None)
    # The stop that torchrun sends in that case has precedence, so that a training saves what it has.
    monkeypatch.setattr(process_group_module, "_UNTIL_STOPPED", 60)
    threading.Timer(0.1, lambda: signal.raise_signal(signal.SIGINT)).start()
    with stop_between_steps(), pytest.raises(StopRequested):
        ProcessGroup(1, 3, store=Gone()).gather(None)
