"""Busy processes beside a benchmark: as many as asked for, at work while the block runs, and gone after it."""

import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from training.bench.load import busy_processes


def _seconds_of_work(pid: int | None) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / 100


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc, which Linux has")
def test_as_many_are_at_work_as_asked_for_and_gone_afterwards() -> None:
    before = set(active_children())
    with busy_processes(2):
        busy = set(active_children()) - before
        assert len(busy) == 2
        worked = [_seconds_of_work(process.pid) for process in busy]
        for process, start in zip(busy, worked, strict=True):
            while _seconds_of_work(process.pid) < start + 0.05:
                time.sleep(0.01)
    assert set(active_children()) <= before


def test_they_end_with_an_error_in_the_block() -> None:
    before = set(active_children())
    with pytest.raises(RuntimeError, match="measured nothing"), busy_processes(1):
        raise RuntimeError("measured nothing")
    assert set(active_children()) <= before
