"""What the page holds of the latents nearest to each."""

import numpy as np

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from ..tables.analysis_files import AnalysisResults
from ..tables.columns import NEIGHBORS_KEPT
from ..tables.read_columns import read_columns
from .section import Section


def neighbor_section(folder: RunFolder, results: AnalysisResults) -> Section:
    """Nothing for a run that an earlier release analyzed. Raises `FormatError` where the file is damaged or of another dictionary."""
    if not folder.neighbors.is_file():
        return Section()
    n_latents = len(results.features)
    columns = read_columns(folder.neighbors, ("latent", "rank", "neighbor", "cosine"), "analyze")
    largest = max(
        (int(columns[name].max()) for name in ("latent", "neighbor") if len(columns[name])), default=0
    )
    if largest >= n_latents or (len(columns["rank"]) and columns["rank"].max() >= NEIGHBORS_KEPT):
        raise FormatError(
            f"{folder.neighbors}: not of this dictionary of {n_latents} latents; run crosscoder analyze again"
        )
    found, cosine = by_latent(columns, n_latents)
    return Section(per_latent={"neighbors": found, "neighbor_cosines": cosine})


def by_latent(columns: dict[str, np.ndarray], n_latents: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbors and cosines `[latent, rank]` from the columns of the table; -1 and NaN where there is none."""
    found = np.full((n_latents, NEIGHBORS_KEPT), -1, dtype=np.int32)
    cosine = np.full((n_latents, NEIGHBORS_KEPT), np.nan, dtype=np.float32)
    place = columns["latent"], columns["rank"]
    found[place], cosine[place] = columns["neighbor"], columns["cosine"]
    return found, cosine
