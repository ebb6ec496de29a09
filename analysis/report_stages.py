"""The stages that write what people read, from the files of a run alone, as the command calls them: `report` and `browse`.

Nothing here imports torch or transformers: they would take ten times as long to load as a page of a small run takes to write, and
more memory than that of a large one.
"""

from pathlib import Path

from crosscoder.config.requirements import Requirements
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import wandb_run

from .browser.build import write_page
from .report import Report, read_report, write_report
from .report import unmet as missed
from .wandb_panels import log_page, log_report


def report(folder: RunFolder) -> Report:
    """Write RUN/report; the report as data."""
    written = write_report(folder)
    with wandb_run(folder, folder.read_config()) as wandb:
        log_report(wandb, folder)
    return written


def unmet(folder: RunFolder, requirements: Requirements) -> list[str]:
    """A line for every requirement that the run does not fulfill, by its report."""
    return missed(requirements, read_report(folder).desiderata)


def browse(folder: RunFolder, written: Report | None = None) -> Path:
    """Write RUN/browser; the page to open.

    Args:
        written: The report that was just written. Left out, the report is written first: the page says what the report says, and links
            to it.
    """
    page = write_page(folder, written or write_report(folder))
    with wandb_run(folder, folder.read_config()) as wandb:
        log_page(wandb, folder)
    return page
