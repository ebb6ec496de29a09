"""What `analyze` wrote, read back and checked: the one source of the report and of the page."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from .columns import EXAMPLES, LOGITS
from .histogram_rows import HistogramRows
from .latent_rows import read_rows, rows_in_order

SCHEMA_VERSION = 1

# In the order in which they are told: what changed first, what did not last.
LABELS = ("new", "lost", "rotated", "rescaled", "reweighted", "shared", "undetermined", "dead")

# The id of a token where activations came without their text; a row number is its display text.
UNKNOWN_TOKEN = -1

SAME_DIRECTION = 0.7
"""Two directions are the same above this cosine, in `seed_stability` (decoder rows, all models side by side) and for
`difference_cosine`. Seeds of one recipe agree far above it or far below; the field's studies put it between 0.7 and 0.9."""

# The leanest set that report and page stand on; further columns are shown as they come.
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
TEXT_COLUMNS = ("label", "evidence", "reason", "observation", "explanation")
EXAMPLE_COLUMNS = tuple(EXAMPLES.schema().names)
LOGIT_COLUMNS = tuple(LOGITS.schema().names)


@dataclass(frozen=True)
class AnalysisResults:
    """The files of RUN/analysis. Small ones are held, large ones are read for the latents that are asked for."""

    path: Path
    features: pd.DataFrame
    summary: dict[str, Any]
    manifest: dict[str, Any]
    histograms: HistogramRows
    examples_path: Path
    logits_path: Path

    @property
    def has_norms(self) -> bool:
        """Whether each model has a decoder norm: a dictionary of pooled tokens or of the difference has none."""
        return bool(self.features["relative_norm"].notna().any())

    @property
    def has_common_space(self) -> bool:
        """Whether labels can be given by norms, directions and latent scaling: not where the models differ in width and no linear map
        leads between them, so that a direction of one has no place in the other."""
        return bool(self.features[["decoder_cosine", "nu_error"]].notna().to_numpy().any())

    @property
    def labels_undefined(self) -> bool:
        """Whether no latent of a crosscoder can be labeled, because its models share no space."""
        return self.has_norms and not self.has_common_space

    @property
    def has_logits(self) -> bool:
        """Whether directions were read as tokens: activations from files come without the models for it."""
        return pq.read_metadata(self.logits_path).num_rows > 0

    def examples(self, latents: Iterable[int] | None = None) -> pa.Table:
        """Examples of these latents (None: of all), strongest first, then by quantile."""
        table = read_rows(self.examples_path, EXAMPLE_COLUMNS, _listed(latents))
        return table.sort_by([("latent", "ascending"), ("quantile", "descending"), ("rank", "ascending")])

    def logits(self, latents: Iterable[int] | None = None) -> pa.Table:
        """Logit tables of these latents (None: of all), by latent, model, side and rank."""
        table = read_rows(self.logits_path, LOGIT_COLUMNS, _listed(latents))
        return table.sort_by([(name, "ascending") for name in ("latent", "model", "side", "rank")])

    def histograms_in_order(self, size: int) -> Iterator[pa.Table]:
        """Histograms of the first `size` latents, of the next, and so on."""
        return self.histograms.in_order(len(self.features), size)

    def examples_in_order(self, size: int) -> Iterator[pa.Table]:
        """Examples of the first `size` latents, of the next, and so on, each as they are in the file; little is held at a time."""
        return rows_in_order(self.examples_path, EXAMPLE_COLUMNS, len(self.features), size)

    def logits_in_order(self, size: int) -> Iterator[pa.Table]:
        """Logit tables of the first `size` latents, of the next, and so on, each by latent, model, side and rank."""
        return rows_in_order(self.logits_path, LOGIT_COLUMNS, len(self.features), size)


def load_results(folder: RunFolder) -> AnalysisResults:
    """Read RUN/analysis.

    Raises `FormatError` where a file is missing, unreadable, of another version or without a column that is needed.
    """
    summary = _read_json(folder.summary)
    if summary.get("schema_version") != SCHEMA_VERSION:
        raise FormatError(
            f"{folder.summary}: schema_version {summary.get('schema_version')!r}, this release reads {SCHEMA_VERSION}; "
            f"run crosscoder analyze again"
        )
    features = read_rows(folder.features, FEATURE_COLUMNS).to_pandas()
    features = features.sort_values("latent", ignore_index=True)
    for name in features.columns.difference(TEXT_COLUMNS):
        features[name] = pd.to_numeric(features[name])
    if features["latent"].tolist() != list(range(len(features))):
        raise FormatError(
            f"{folder.features}: holds {len(features)} rows that are not latents 0 to {len(features) - 1}, one each; "
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
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}: not JSON ({error}); run crosscoder analyze again") from error
    if not isinstance(content, dict):
        raise FormatError(
            f"{path}: holds {type(content).__name__}, not an object; run crosscoder analyze again"
        )
    return content
