"""The trajectory of every latent over a chain of checkpoints; results for the whole chain are in the summary."""

import numpy as np

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from ..tables.analysis_files import AnalysisResults
from ..tables.read_columns import read_columns
from .section import Section

_COLUMNS = ("norm", "shift", "shift_share", "shift_share_low", "shift_share_high")


def trajectory_section(folder: RunFolder, results: AnalysisResults) -> Section:
    """Return the trajectories, one row per latent; empty for a run without snapshots.

    Raises:
        FormatError: trajectories.parquet is damaged or belongs to another chain than the summary.
    """
    path = folder.analysis / "trajectories.parquet"
    monitoring = results.summary.get("monitoring")
    if not monitoring or not path.is_file():
        return Section()
    n_latents, n_checkpoints = len(results.features), len(monitoring["checkpoints"])
    columns = read_columns(path, ("latent", "checkpoint", *_COLUMNS), "analyze")
    order = np.lexsort((columns["checkpoint"], columns["latent"]))
    found = columns["latent"][order] * n_checkpoints + columns["checkpoint"][order]
    if not np.array_equal(found, np.arange(n_latents * n_checkpoints)):
        raise FormatError(
            f"{path}: not one row for each of {n_latents} latents and {n_checkpoints} checkpoints; run crosscoder analyze again"
        )
    return Section(
        latent_arrays={
            f"trajectory_{name}": columns[name][order].astype(np.float32).reshape(n_latents, n_checkpoints)
            for name in _COLUMNS
        }
    )
