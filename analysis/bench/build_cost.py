"""Time and memory that building the page takes, in a process that does nothing else and imports no more than it needs."""

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from crosscoder.run.folder import RunFolder
from crosscoder.runtime.processes import run_in_processes

from ..browser.build import write_page
from ..report.content import build_report
from ..tables.analysis_files import load_results


@dataclass(frozen=True)
class Build:
    """Of one page."""

    seconds: float

    peak_bytes: int
    """Most memory that the process held, Python and its libraries included."""

    held_bytes: int
    """Of that, once the table of latents was read, and no example yet."""


def measured_build(folder: RunFolder) -> Build:
    """Build the page of a run in a fresh process."""
    ((_, build),) = run_in_processes(_build, [(folder.path,)], workers=1)
    return build


def _build(path: Path) -> Build:
    folder = RunFolder(path)
    load_results(folder)
    held = _peak_bytes()
    begin = time.perf_counter()
    write_page(folder, build_report(load_results(folder), folder))
    return Build(time.perf_counter() - begin, _peak_bytes(), held)


def _peak_bytes() -> int:
    """Of this process. On Linux `ru_maxrss` begins with what the process held that started this one, so the kernel's own
    count of this address space is read there."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii")
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
