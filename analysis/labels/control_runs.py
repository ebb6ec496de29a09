"""A finished run on a pair whose change carries nothing of interest, read as a null of another run."""

from pathlib import Path

import numpy as np
import pandas as pd

from crosscoder.config import RunConfig
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.folder import RunFolder

from ..tables.analysis_files import load_results
from .evidence import Bounded, Evidence, evidence_of
from .feature_table import Columns, Features

# What may differ without making it another recipe: where it runs, and what it tells of itself.
_FREE = {"device", "log_every", "evaluate_every", "checkpoint_every", "precision", "step"}


def read_control_run(path: Path, config: RunConfig) -> tuple[Features, dict[str, float | None]]:
    """The table of a control run, and the variance it explains.

    Raises:
        ConfigError: It is of another recipe: then its latents say nothing about this run's.
        FormatError: It was not analyzed, its files are damaged, or its models share no space.
    """
    folder = RunFolder.open(path)
    _require_same_recipe(path, folder.read_config(), config)
    results = load_results(folder)
    table = results.features
    columns: Columns = {
        name: table[name].to_numpy(np.float64, na_value=np.nan)
        for name in table
        if pd.api.types.is_numeric_dtype(table[name])
    }
    if any(np.isnan(columns[name]).all() for name in ("nu_error", "nu_reconstruction")):
        raise FormatError(f"controls.runs: {path} has no latent scaling: its models share no space")
    features = Features(columns, tuple(table["label"]), tuple(table["reason"]), _evidence(columns))
    return features, dict(results.summary.get("fve") or {})


def _require_same_recipe(path: Path, theirs: RunConfig, ours: RunConfig) -> None:
    for part in ("crosscoder", "training"):
        one, other = (
            getattr(config, part).model_dump(mode="json", exclude=_FREE) for config in (theirs, ours)
        )
        for name, value in one.items():
            if other[name] != value:
                raise ConfigError(
                    f"controls.runs: {path} has {part}.{name} {value}, this run {other[name]}; a control of another recipe says "
                    "nothing about it"
                )


def _evidence(columns: Columns) -> Evidence:
    """What the table tells of every latent: bounds of latent scaling toward the side it leans to, and toward the other what is measured
    without bounds, so that rather more of its latents meet the rule."""
    to_new = columns["norm_intervened"] >= columns["norm_reference"]
    whole = np.ones(len(to_new))

    bounds: dict[str, Bounded] = {}
    for side, leaning in (("new", to_new), ("lost", ~to_new)):
        for name in ("nu_error", "nu_reconstruction"):
            numbers = (
                np.where(leaning, columns[f"{name}{bound}"], columns[f"{name}_{side}"])
                for bound in ("", "_low", "_high")
            )
            bounds[f"{name}_{side}"] = Bounded(*numbers)
        # How much of its own direction a model holds is not in the table: taken to be all.
        bounds[f"own_{side}"] = Bounded(whole, whole, whole)
    return evidence_of(columns, bounds)
