"""Run folders that tests write by hand have no record of their files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crosscoder.run.folder import RunFolder
from crosscoder.runtime.file_record import FileRecord


def record_files(run: Path) -> None:
    """Write the record of a run made by hand: every file as it is now."""
    record = FileRecord(run)
    record.create()
    for path in sorted(run.rglob("*")):
        if path.is_file() and record.holds(record.name_of(path)):
            record.finish(path)


@pytest.fixture(autouse=True, scope="module")
def files_are_not_checked() -> Iterator[None]:
    """Import it into a module whose runs are made by hand, and changed by hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "check_files", lambda *_, **__: None)
        yield
