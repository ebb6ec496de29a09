"""Time and memory of building the page, measured in a fresh process that imports only what it needs."""

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
    """Cost of building one page."""

    seconds: float

    peak_bytes: int
    """Peak memory of the process, including Python and its libraries."""

    held_bytes: int
    """Peak memory after reading the feature table, before any example."""


def measured_build(folder: RunFolder) -> Build:
    """Build the page of a run in a fresh process, and measure it."""
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
    """Return the peak memory of this process. On Linux `ru_maxrss` starts at that of the parent process, so VmHWM is read instead."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii")
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
