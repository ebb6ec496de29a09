"""What is recorded of the process that works in a run: its command line, its place, and the versions of its libraries."""

import os
import shlex
import socket
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

_LIBRARIES = (
    "crosscoder", "jaxtyping", "numpy", "pandas", "peft", "pyarrow", "pydantic", "sae-lens", "safetensors", "tokenizers",
    "torch", "transformers", "wandb",
)  # fmt: skip


def command_line() -> str:
    """Return the command that a person typed to start this process."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def about_this_process() -> str:
    """Return what other processes are told about this one."""
    return f"process {os.getpid()} on {socket.gethostname()} ({command_line()}, since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC)"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a result can depend on."""
    found = {"python": sys.version.split()[0]}
    for library in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):  # e.g. wandb, which may be absent
            found[library] = metadata.version(library)
    return found
