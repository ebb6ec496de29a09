"""The nearest latents on the page."""

import numpy as np

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from ..tables.analysis_files import AnalysisResults
from ..tables.columns import NEIGHBORS_KEPT
from ..tables.read_columns import read_columns
from .section import Section


def neighbor_section(folder: RunFolder, results: AnalysisResults) -> Section:
    """Return the nearest latents of each latent; empty for a run analyzed by an earlier release.

    Raises:
        FormatError: The file is damaged or belongs to another dictionary.
    """
    if not folder.neighbors.is_file():
        return Section()
    n_latents = len(results.features)
    columns = read_columns(folder.neighbors, ("latent", "rank", "neighbor", "cosine"), "analyze")
    largest = max(
        (int(columns[name].max()) for name in ("latent", "neighbor") if len(columns[name])), default=0
    )
    if largest >= n_latents or (len(columns["rank"]) and columns["rank"].max() >= NEIGHBORS_KEPT):
        raise FormatError(
            f"{folder.neighbors}: does not belong to this dictionary of {n_latents} latents; run crosscoder analyze again"
        )
    found, cosine = by_latent(columns, n_latents)
    return Section(latent_arrays={"neighbors": found, "neighbor_cosines": cosine})


def by_latent(columns: dict[str, np.ndarray], n_latents: int) -> tuple[np.ndarray, np.ndarray]:
    """Return neighbors and cosines `[latent, rank]` from the columns of the table; -1 and NaN for missing ranks."""
    found = np.full((n_latents, NEIGHBORS_KEPT), -1, dtype=np.int32)
    cosine = np.full((n_latents, NEIGHBORS_KEPT), np.nan, dtype=np.float32)
    index = columns["latent"], columns["rank"]
    found[index], cosine[index] = columns["neighbor"], columns["cosine"]
    return found, cosine
