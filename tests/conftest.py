"""Run every test with the same seeds, on one thread and offline."""

import os
import random
import signal
import time
import zlib
from collections.abc import Iterator

# Set before any test module imports transformers, wandb or torch, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# A background shell may start the tests with SIGINT ignored, and subprocesses inherit that. A handler set here is reset to the
# default in subprocesses.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from . import checking  # noqa: F401 (the Makefile names it, but jaxtyping imports only `tests`)
from .groups import Group, group_of

# The same examples every time, and no failures on a slow machine.
settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a slow machine run as many tests as it has time for, and others another day."""
    parser.addoption(
        "--until", metavar="SECONDS", type=float, help="start no test after this time, as of `date +%%s`"
    )
    parser.addoption(
        "--order", metavar="TEXT", default="", help="an order of the files, another with each text"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files by the option's text."""
    if text := str(config.getoption("order")):
        # A checksum, so that every worker has the same order. The tests of a file stay together, for they share fixtures.
        items.sort(key=lambda item: (zlib.crc32(f"{text} {item.path.name}".encode()), item.path.name))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what would begin too late."""
    until = item.config.getoption("until")
    if until is not None and time.time() > until:
        pytest.skip("no time left")


@pytest.fixture(autouse=True)
def fixed_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set seeds, use one thread, and configure wandb from the test's settings alone, without a server."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture(scope="module")
def no_flush() -> Iterator[None]:
    """For tests that are not about power cuts: flushing to disk takes most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Group]:
    """Two processes of one group."""
    with group_of(2) as group:
        yield group


@pytest.fixture(scope="session")
def four_ranks() -> Iterator[Group]:
    """Four processes of one group."""
    with group_of(4) as group:
        yield group
