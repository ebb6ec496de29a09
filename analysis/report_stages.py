"""The stages `report` and `browse`, which need only the files of a run.

Nothing here imports torch or transformers: loading them takes ten times as long as writing the page of a small run, and more memory than
the page of a large one.
"""

import logging
from pathlib import Path

from crosscoder.config.requirements import Requirements
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import wandb_run

from .browser.build import write_page
from .report import Report, write_report
from .report import unmet as unmet_requirements
from .wandb_panels import log_page, log_report

logger = logging.getLogger(__name__)


def report(folder: RunFolder) -> Report:
    """Write RUN/report, and return the report."""
    written = write_report(folder)
    if written.why_withheld is not None:
        # Findings need no labels, so the report may open with one; that nothing is labeled must not go unseen.
        logger.warning("report: %s", written.why_withheld)
    if written.summary[0].text != written.why_withheld:
        logger.info("report: %s", written.summary[0].text)
    with wandb_run(folder, folder.read_config()) as wandb:
        log_report(wandb, folder)
    return written


def unmet(written: Report, requirements: Requirements) -> list[str]:
    """Return one line per requirement that the report does not meet."""
    return unmet_requirements(requirements, written.desiderata)


def browse(folder: RunFolder, written: Report | None = None) -> Path:
    """Write RUN/browser, and return the path of the page.

    Args:
        written: The current report; default: write it first, because the page shows it and links to it.
    """
    page = write_page(folder, written or write_report(folder))
    with wandb_run(folder, folder.read_config()) as wandb:
        log_page(wandb, folder)
    return page
