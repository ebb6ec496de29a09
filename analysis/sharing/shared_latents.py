"""What other tools show of a latent, collected from the tables of a run: one record per latent and model.

Examples quote the texts of the run, and so do explanations, so both are left out unless they are asked for. The tokens of logit tables
are entries of the vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosscoder.config.model_names import MODEL_NAMES

from ..tables.analysis_files import AnalysisResults

CHUNK = 512
"""Latents read at a time."""


@dataclass(frozen=True)
class Logits:
    """Tokens of a logit table, the most extreme first."""

    tokens: list[str]
    values: list[float]


@dataclass(frozen=True)
class SharedLatent:
    """A latent as one model has it."""

    index: int
    row: dict[str, Any]
    """Its row of features.parquet."""

    top: Logits
    bottom: Logits
    edges: list[float]
    """Edges of the histogram of its values where it fires; empty if it never fires."""

    counts: list[int]
    examples: list[dict[str, Any]]
    """Rows of examples.parquet; empty unless examples are shared."""

    with_text: bool
    """Whether what quotes the texts of the run may be shared."""

    @property
    def description(self) -> str:
        """The label with its reason, or the explanation if there is one and it may be shared: it quotes the texts of the run."""
        labeled = f"{self.row['label']}: {self.row['reason']}"
        return (self.with_text and str(self.row["explanation"] or "")) or labeled

    @property
    def density(self) -> float:
        """Share of held-out tokens on which it fires."""
        return _number(self.row["density"])

    @property
    def largest(self) -> float:
        """Largest value on held-out tokens; 0 if it never fires."""
        return _number(self.row["max_activation"])


def shared_latents(results: AnalysisResults, model: str, with_examples: bool) -> Iterator[SharedLatent]:
    """Yield every latent of a run as `model` has it, in order, in little memory."""
    features = results.features
    streams = zip(
        results.examples_in_order(CHUNK),
        results.logits_in_order(CHUNK),
        results.histograms_in_order(CHUNK),
        strict=True,
    )
    begin = 0
    for examples, logits, histograms in streams:
        shown = _by_latent(examples.to_pylist() if with_examples else [])
        written = _by_latent(logits.to_pylist())
        counted = _by_latent(histograms.to_pylist())
        for row in features.iloc[begin : begin + CHUNK].to_dict("records"):
            index = int(row["latent"])
            listed = [entry for entry in written.get(index, []) if entry["model"] == model]
            edges, counts = _histogram(counted.get(index, []))
            yield SharedLatent(
                index=index,
                row={str(name): value for name, value in row.items()},
                top=_logits(listed, "top"),
                bottom=_logits(listed, "bottom"),
                edges=edges,
                counts=counts,
                examples=shown.get(index, []),
                with_text=with_examples,
            )
        begin += CHUNK


def models_of(results: AnalysisResults) -> tuple[str, ...]:
    """Return the models that the latents are shared for: both, or the intervened one alone for a diff-SAE, whose directions it adds to."""
    return MODEL_NAMES[1:] if results.summary.get("reads") == "difference" else MODEL_NAMES


def example_groups(latent: SharedLatent) -> list[tuple[str, float | None, list[dict[str, Any]]]]:
    """Return the examples of a latent in groups, each with a name and its quantile: the strongest, then those of each quantile."""
    strongest = [row for row in latent.examples if _is_missing(row["quantile"])]
    groups: list[tuple[str, float | None, list[dict[str, Any]]]] = (
        [("Top activations", None, strongest)] if strongest else []
    )
    sampled = sorted(
        {row["quantile"] for row in latent.examples if not _is_missing(row["quantile"])}, reverse=True
    )
    for quantile in sampled:
        rows = [row for row in latent.examples if row["quantile"] == quantile]
        groups.append((f"Quantile {quantile:.3f}", float(quantile), rows))
    return groups


def _by_latent(rows: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(int(row["latent"]), []).append(row)
    return found


def _logits(rows: list[dict[str, Any]], side: str) -> Logits:
    listed = sorted((row for row in rows if row["side"] == side), key=lambda row: row["rank"])
    return Logits([row["token"] for row in listed], [float(row["value"]) for row in listed])


def _histogram(rows: list[dict[str, Any]]) -> tuple[list[float], list[int]]:
    """Return edges and counts over all text sources."""
    if not rows:
        return [], []
    counts = np.zeros(max(len(row["counts"]) for row in rows), dtype=np.int64)
    for row in rows:
        counts[: len(row["counts"])] += np.asarray(row["counts"], dtype=np.int64)
    edges = np.arange(len(counts) + 1) * rows[0]["width"]
    return edges.tolist(), counts.tolist()


def _is_missing(value: float | None) -> bool:
    return value is None or bool(np.isnan(value))


def _number(value: float | None) -> float:
    return 0.0 if _is_missing(value) else float(value or 0.0)
