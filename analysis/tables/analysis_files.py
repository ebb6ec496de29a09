"""Reads and checks the files that `analyze` wrote, for the report and the page."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.json_text import json_of

from .columns import EXAMPLES, LOGITS
from .histogram_rows import HistogramRows
from .latent_rows import read_rows, rows_in_order

SCHEMA_VERSION = 1

# In the order in which they are shown: changed latents first.
LABELS = ("new", "lost", "replaced", "rotated", "rescaled", "reweighted", "shared", "undetermined", "dead")

# Token id if the activations came without text; the display text is then a row number.
UNKNOWN_TOKEN = -1

SAME_DIRECTION = 0.7
"""Cosine above which two directions are the same, for `difference_cosine`; published studies use 0.7 to 0.9."""

# The columns that the report and the page require; any others are shown as they are.
FEATURE_COLUMNS = (
    "latent",
    "label",
    "evidence",
    "reason",
    "relative_norm",
    "norm_reference",
    "norm_intervened",
    "decoder_cosine",
    "nu_error",
    "nu_reconstruction",
    "density",
    "n_tokens",
    "n_documents",
    "template_share",
    "mean_activation",
    "max_activation",
    "shift_share",
    "twin",
    "twin_cosine",
    "explanation",
)
TEXT_COLUMNS = ("label", "candidate", "evidence", "reason", "observation", "explanation")
EXAMPLE_COLUMNS = tuple(EXAMPLES.schema().names)
LOGIT_COLUMNS = tuple(LOGITS.schema().names)


@dataclass(frozen=True)
class AnalysisResults:
    """The files of RUN/analysis. Small files are in memory; large ones are read for the requested latents."""

    path: Path
    features: pd.DataFrame
    summary: dict[str, Any]
    manifest: dict[str, Any]
    histograms: HistogramRows
    examples_path: Path
    logits_path: Path

    @property
    def has_norms(self) -> bool:
        """Whether each model has a decoder norm; false for a shared-dictionary SAE and a diff-SAE."""
        return bool(self.features["relative_norm"].notna().any())

    @property
    def has_common_space(self) -> bool:
        """Whether directions of the two models can be compared: they share a space, or a linear map connects them."""
        return bool(self.features[["decoder_cosine", "nu_error"]].notna().to_numpy().any())

    @property
    def labels_undefined(self) -> bool:
        """Whether no latent can be labeled because the models of a crosscoder share no space and no linear map connects them."""
        return self.has_norms and not self.has_common_space

    @property
    def has_logits(self) -> bool:
        """Whether there are logit tables; they need the models, so not if the activations came from files."""
        return pq.read_metadata(self.logits_path).num_rows > 0

    def examples(self, latents: Iterable[int] | None = None) -> pa.Table:
        """Return the examples of these latents (None: of all), strongest first, then by quantile."""
        table = read_rows(self.examples_path, EXAMPLE_COLUMNS, _listed(latents))
        return table.sort_by([("latent", "ascending"), ("quantile", "descending"), ("rank", "ascending")])

    def logits(self, latents: Iterable[int] | None = None) -> pa.Table:
        """Return the logit tables of these latents (None: of all), sorted by latent, model, side and rank."""
        table = read_rows(self.logits_path, LOGIT_COLUMNS, _listed(latents))
        return table.sort_by([(name, "ascending") for name in ("latent", "model", "side", "rank")])

    def histograms_in_order(self, size: int) -> Iterator[pa.Table]:
        """Yield the histograms of `size` latents at a time."""
        return self.histograms.in_order(len(self.features), size)

    def examples_in_order(self, size: int) -> Iterator[pa.Table]:
        """Yield the examples of `size` latents at a time, in the order of the file, in little memory."""
        return rows_in_order(self.examples_path, EXAMPLE_COLUMNS, len(self.features), size)

    def logits_in_order(self, size: int) -> Iterator[pa.Table]:
        """Yield the logit tables of `size` latents at a time, sorted by latent, model, side and rank."""
        return rows_in_order(self.logits_path, LOGIT_COLUMNS, len(self.features), size)


def load_results(folder: RunFolder) -> AnalysisResults:
    """Read RUN/analysis.

    Raises:
        FormatError: A file is missing, unreadable, of another version, or lacks a required column.
    """
    summary = _read_json(folder.summary)
    if summary.get("schema_version") != SCHEMA_VERSION:
        raise FormatError(
            f"{folder.summary}: schema_version is {summary.get('schema_version')!r}, but this release reads {SCHEMA_VERSION}; "
            f"run crosscoder analyze again"
        )
    features = read_rows(folder.features, FEATURE_COLUMNS).to_pandas()
    features = features.sort_values("latent", ignore_index=True)
    for name in features.columns.difference(TEXT_COLUMNS):
        features[name] = pd.to_numeric(features[name])
    if features["latent"].tolist() != list(range(len(features))):
        raise FormatError(
            f"{folder.features}: its {len(features)} rows are not one row for each latent 0 to {len(features) - 1}; "
            "run crosscoder analyze again"
        )
    return AnalysisResults(
        path=folder.analysis,
        features=features,
        summary=summary,
        manifest=folder.read_manifest(),
        histograms=HistogramRows(folder),
        examples_path=folder.examples,
        logits_path=folder.logits,
    )


def _listed(latents: Iterable[int] | None) -> list[int] | None:
    return None if latents is None else [int(latent) for latent in latents]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FormatError(f"{path}: not found; run crosscoder analyze first")
    try:
        content = json_of(path)
    except ValueError as error:
        raise FormatError(f"{path}: not JSON ({error}); run crosscoder analyze again") from error
    if not isinstance(content, dict):
        raise FormatError(
            f"{path}: holds a JSON {type(content).__name__}, not an object; run crosscoder analyze again"
        )
    return content
