"""One latent of a run: label and evidence, numbers with intervals, examples, and logit-lens tokens."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32

from ..tables.analysis_files import TEXT_COLUMNS, AnalysisResults
from ..tables.columns import FEATURES
from .markup import examples_html, latent_html
from .records import LatentRecord, Number


@dataclass(frozen=True)
class Example:
    """A place where a latent fires, with its context."""

    latent: int
    rank: int
    """Rank by peak value, from 0 for the largest."""
    quantile: float | None
    """Quantile of the peak among the latent's peaks, 1 for the largest; None for one of the strongest examples."""
    document: int
    source: str
    position: int
    """Position of the peak in the document."""
    peak: float
    """Largest value of the latent in the document."""
    start: int
    """Position of the first token shown."""
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    special: tuple[bool, ...]
    template: tuple[bool, ...]
    values: Float32[np.ndarray, " token"]
    """Value of the latent on each token."""
    reference: Float32[np.ndarray, " token"]
    """Norm of its contribution to the reference, in units of the model's activations."""
    intervened: Float32[np.ndarray, " token"]
    """Norm of its contribution to the intervened model."""

    @property
    def table(self) -> pd.DataFrame:
        """One row per token, by position in the document."""
        positions = pd.RangeIndex(self.start, self.start + len(self.tokens), name="position")
        columns = ("tokens", "token_ids", "values", "reference", "intervened", "special", "template")
        return pd.DataFrame({name: list(getattr(self, name)) for name in columns}, index=positions)

    def __repr__(self) -> str:
        return f"Example(latent={self.latent}, document={self.document}, position={self.position}, peak={self.peak:.3g})"

    def _repr_html_(self) -> str:
        return examples_html([self], max_context=None)


class Latent:
    """The results of a run on one latent."""

    def __init__(self, latent: int, results: AnalysisResults) -> None:
        self.latent = latent
        """Its number in the dictionary."""
        self._results = results
        table: Any = results.features
        self._row: dict[str, Any] = table.iloc[latent].to_dict()

    @property
    def label(self) -> str:
        """Label by the rule."""
        return str(self._row["label"])

    @property
    def evidence(self) -> str:
        """observed, associated or causal: the strongest evidence from any behavior."""
        return str(self._row["evidence"])

    @property
    def reason(self) -> str:
        """Reason for the label, with the deciding numbers."""
        return str(self._row["reason"] or "")

    @property
    def explanation(self) -> str:
        """Sentences on where it fires, what it writes and how certain its label is, built from the measurements."""
        return str(self._row["explanation"] or "")

    @cached_property
    def numbers(self) -> dict[str, Number]:
        """Numbers by column name of features.parquet, with intervals if measured."""
        plain = {
            name: _plain(value) for name, value in self._row.items() if name not in ("latent", *TEXT_COLUMNS)
        }
        bounds = {f"{name}{end}" for name in plain for end in ("_low", "_high")}
        return {
            name: Number(value, plain.get(f"{name}_low"), plain.get(f"{name}_high"))
            for name, value in plain.items()
            if name not in bounds
        }

    @property
    def table(self) -> pd.DataFrame:
        """`numbers` with the meaning of each, one per row."""
        rows = {
            name: {**number._asdict(), "meaning": _meaning(name)} for name, number in self.numbers.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """The strongest examples, then those spread over the quantiles of its values."""
        rows = self._results.examples([self.latent]).to_pylist()
        examples = [_example(row) for row in rows]
        return tuple(
            sorted(examples, key=lambda one: (one.quantile is not None, -(one.quantile or 0), one.rank))
        )

    @cached_property
    def histogram(self) -> pd.DataFrame:
        """Histogram of its values: held-out tokens per bin `[from, to)`, one column per text source.

        All sources have the same bins, so rows can be summed. A column's sum divided by the tokens of its source is
        `density/SOURCE`. Runs without histograms.parquet have one column, `all`. Empty if the latent never fires.
        """
        found = self._results.histograms.of(self.latent)
        if found is None:
            return pd.DataFrame(index=pd.IntervalIndex([], closed="left", name="value"))
        bins = pd.IntervalIndex.from_breaks(found.edges, closed="left", name="value")
        counts = {"all" if source is None else source: counts for source, counts in found.counts.items()}
        return pd.DataFrame(counts, index=bins)

    @cached_property
    def logits(self) -> dict[str, pd.DataFrame]:
        """Logit-lens tables by model (`reference`, `intervened`, `difference`, if measured): the top and bottom tokens.

        Where `readable` is false, the list is no better than those of random directions: the direction does not read as tokens.
        """
        table: Any = self._results.logits([self.latent]).to_pandas().astype({"token": "str"})
        columns = ["side", "rank", "token", "token_id", "value", "alignment", "q_value", "readable"]
        # Top before bottom.
        table = table.sort_values(["side", "rank"], ascending=[False, True])
        return {
            model: table.loc[table["model"] == model, columns].reset_index(drop=True)
            for model in ("reference", "intervened", "difference")
            if (table["model"] == model).any()
        }

    def __repr__(self) -> str:
        share = self.numbers["shift_share"].value
        of_shift = "" if share is None else f", {share:.1%} of the shift"
        return f"Latent({self.latent}: {self.label}, {self.evidence}{of_shift})"

    def _repr_html_(self) -> str:
        return latent_html(
            LatentRecord(
                self.latent,
                self.label,
                self.evidence,
                self.reason,
                self.explanation,
                self.numbers,
                self.examples,
                self.logits,
            )
        )


def _plain(value: Any) -> Any:
    """Convert to a Python number, or None if null."""
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value


def _meaning(name: str) -> str:
    try:
        return FEATURES.column(name).meaning
    except ValueError:
        # A table of a later release may have more columns.
        return ""


def _example(row: dict[str, Any]) -> Example:
    names = ("latent", "rank", "quantile", "document", "source", "position", "peak", "start")
    fields: dict[str, Any] = {name: row[name] for name in names}
    fields |= {name: tuple(row[name]) for name in ("tokens", "token_ids", "special", "template")}
    for name in ("values", "reference", "intervened"):
        fields[name] = np.array(row[name], dtype=np.float32)
    return Example(**fields)
