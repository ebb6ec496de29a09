"""SIGTERM is handled as Ctrl-C is, also where Ctrl-C is ignored."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import signal, sys, time
from crosscoder.runtime.interrupts import stop_between_steps, treat_sigterm_as_interrupt
if sys.argv[1] == "ignored":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
treat_sigterm_as_interrupt()
try:
    if sys.argv[2] == "training":
        with stop_between_steps() as stopping:
            print("ready", flush=True)
            while not stopping():
                time.sleep(0.01)
        print("saved", flush=True)
    else:
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("ctrl_c", ["handled", "ignored"])
@pytest.mark.parametrize(("during", "end"), [("training", "saved\n"), ("analysis", "interrupted\n")])
def test_sigterm_ends_the_work(ctrl_c: str, during: str, end: str) -> None:
    """A shell script that starts `nohup crosscoder run … &` starts it with SIGINT ignored."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, ctrl_c, during],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if ctrl_c == "ignored":
            process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == end
