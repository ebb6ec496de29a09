"""Control runs: finished runs on pairs whose change is of no interest, used as nulls of another run."""

from pathlib import Path

import numpy as np
import pandas as pd

from crosscoder.config import RunConfig
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.folder import RunFolder

from ..tables.analysis_files import load_results
from .evidence import Estimate, Evidence, evidence_of
from .feature_table import Features
from .latent_measures import Columns

# Settings that may differ between a run and its control run: they affect speed, logging and precision.
_MAY_DIFFER = {"device", "log_every", "evaluate_every", "checkpoint_every", "precision", "step"}


def read_control_run(path: Path, config: RunConfig) -> tuple[Features, dict[str, float | None]]:
    """Return the feature table of a control run, and the fraction of variance it explains.

    Raises:
        ConfigError: It was trained with other settings, so its latents are no null for this run's.
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
        raise FormatError(f"controls.runs: {path} has no latent scaling, because its models share no space")
    features = Features(columns, tuple(table["label"]), tuple(table["reason"]), _evidence(columns))
    return features, dict(results.summary.get("fve") or {})


def _require_same_recipe(path: Path, theirs: RunConfig, ours: RunConfig) -> None:
    for part in ("crosscoder", "training"):
        one, other = (
            getattr(config, part).model_dump(mode="json", exclude=_MAY_DIFFER) for config in (theirs, ours)
        )
        for name, value in one.items():
            if other[name] != value:
                raise ConfigError(
                    f"controls.runs: {path} has {part}.{name} {value}, this run {other[name]}; a control run must have the same "
                    "dictionary and training settings"
                )


def _evidence(columns: Columns) -> Evidence:
    """Return the evidence that the table holds on every latent.

    Toward the model with the smaller norm the table has latent scaling without intervals. The value then serves as both bounds, so slightly
    more latents of the control meet the rule.
    """
    intervened_stronger = columns["norm_intervened"] >= columns["norm_reference"]
    ones = np.ones(len(intervened_stronger))

    estimates: dict[str, Estimate] = {}
    for side, toward_stronger in (("new", intervened_stronger), ("lost", ~intervened_stronger)):
        for name in ("nu_error", "nu_reconstruction"):
            numbers = (
                np.where(toward_stronger, columns[f"{name}{bound}"], columns[f"{name}_{side}"])
                for bound in ("", "_low", "_high")
            )
            estimates[f"{name}_{side}"] = Estimate(*numbers)
        # The table does not record β of a model along its own direction; assume 1.
        estimates[f"own_beta_{side}"] = Estimate(ones, ones, ones)
    return evidence_of(columns, estimates)
