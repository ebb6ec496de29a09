"""Jobs in parallel processes: their results, their errors, and that none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crosscoder.errors import ConfigError, ResourceError
from crosscoder.runtime.processes import let_idle_threads_sleep, run_in_processes

ROOT = Path(__file__).parents[3]


def told(number: int) -> tuple[int, str | None, int]:
    return number, os.environ.get("OMP_NUM_THREADS"), os.getpid()


def failing(number: int) -> int:
    if number == 1:
        raise ConfigError("training.lr: too high")
    return number


def dying(number: int) -> int:
    os._exit(3)


def endless(place: str) -> None:
    (Path(place) / f"{os.getpid()}").touch()
    time.sleep(600)


def test_every_job_runs_in_another_process_with_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    before = dict(os.environ)
    results = dict(run_in_processes(told, [(3,), (4,), (5,)], workers=2, threads=7))
    assert {number: result[:2] for number, result in results.items()} == {
        0: (3, "7"),
        1: (4, "7"),
        2: (5, "7"),
    }
    assert os.getpid() not in {result[2] for result in results.values()}
    assert dict(os.environ) == before


def test_idle_threads_sleep_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that it is removed again at the end.
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    let_idle_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    del os.environ["OMP_WAIT_POLICY"]
    let_idle_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"


def test_the_command_sets_the_policy_before_it_loads_torch() -> None:
    program = (
        "import os, sys\n"
        "import crosscoder.command.app as command\n"
        "command.app = lambda **_: print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])\n"
        "command.main()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["False", "passive"]


def test_an_exception_in_a_job_is_raised_in_the_parent() -> None:
    with pytest.raises(ConfigError, match=r"^training\.lr: too high$"):
        list(run_in_processes(failing, [(1,)], workers=1))


def test_a_dead_process_is_reported_in_one_line() -> None:
    with pytest.raises(ResourceError, match="died, usually because memory ran out"):
        list(run_in_processes(dying, [(0,), (1,)], workers=2))


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_no_job_outlives_its_parent(tmp_path: Path, sign: signal.Signals) -> None:
    program = (
        "from tests.crosscoder.runtime.test_processes import *\n"
        f"list(run_in_processes(endless, [({str(tmp_path)!r},)] * 2, workers=2))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.iterdir())) < 2:
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = [int(path.name) for path in tmp_path.iterdir()]
    parent.send_signal(sign)
    parent.wait(timeout=60)
    while any(_alive(child) for child in children):
        assert time.monotonic() < deadline, "a job went on without its parent"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    """Whether the process is running; a zombie is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
