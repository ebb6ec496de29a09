"""The summary of an analysis: what was compared, how well the dictionary rebuilds it, and how many latents of each label."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from crosscoder.config import BatchTopK, FileActivations, LabelRule, RunConfig, TopK
from crosscoder.config.model_names import MODEL_NAMES

from ..latents.dictionary_view import DictionaryView, PairedView
from ..latents.statistics import Statistics
from .controls import Controls
from .counts import limit_curves
from .false_discovery import FAMILIES, Candidacy, candidacy, q_values
from .feature_table import Features
from .rule import LABELS, Label, held_back

SCHEMA_VERSION = 1
_BINS = 50


def make_summary(
    view: DictionaryView,
    statistics: Statistics,
    features: Features,
    config: RunConfig,
    manifest: dict[str, Any],
    controls: Controls,
) -> dict[str, Any]:
    """summary.json; every number a plain JSON value, null where it does not exist."""
    columns = features.columns
    alive = columns["n_tokens"] > 0
    counts = Counter(features.labels)
    sparsity = config.crosscoder.sparsity
    labels = np.array([LABELS.index(label) for label in features.labels])
    rule, expected = config.analysis.rule, {}
    if features.evidence is not None:
        observed = candidacy(columns, features.evidence, rule)
        expected = expected_false(observed, labels, controls.candidacies(rule))
    return {
        "schema_version": SCHEMA_VERSION,
        "reads": view.reads,
        "models": _models(config, manifest),
        "hookpoint": config.pair.hookpoint if config.pair else None,
        "n_tokens": statistics.n_tokens,
        "n_documents": statistics.n_documents,
        "sources": {
            name: {
                "documents": int(statistics.source_documents[i]),
                "tokens": int(statistics.source_tokens[i]),
            }
            for i, name in enumerate(statistics.source_names)
        },
        "n_latents": view.n_latents,
        "alive": int(alive.sum()),
        "dead_share": float(1 - alive.mean()),
        "l0": statistics.l0,
        "l0_target": sparsity.k if isinstance(sparsity, BatchTopK | TopK) else sparsity.target_l0,
        "fve": dict(statistics.fve),
        "relative_difference": statistics.relative_difference,
        "cosine": statistics.cosine,
        "frame": _frame(view),
        "ce": manifest.get("evaluation", {}).get("ce"),
        "counts": {
            label: {
                "count": counts[label],
                "low": features.count_intervals[label].low if label in features.count_intervals else None,
                "high": features.count_intervals[label].high if label in features.count_intervals else None,
                "expected_false": expected.get(label),
            }
            for label in LABELS
        },
        "controls": controls.summary(),
        "limits": _limits(features, rule, controls),
        "shift": _shift(statistics),
        "relative_norm_histogram": _histogram(columns.get("relative_norm"), alive, (0.0, 1.0)),
        "cosine_histogram": _histogram(columns.get("decoder_cosine"), alive, (-1.0, 1.0)),
        "rule": rule.model_dump(mode="json"),
        "files": {
            "features": "features.parquet",
            "examples": "examples.parquet",
            "logits": "logits.parquet",
            "histograms": "histograms.parquet",
        },
    }


def _frame(view: DictionaryView) -> dict[str, float] | None:
    """Of the maps that lead between two models without a common space; None where they share one, or there are none."""
    if not isinstance(view, PairedView) or view.linear_map is None:
        return None
    return {
        **dict(zip(MODEL_NAMES, view.linear_map.explained_variance, strict=True)),
        "agreement": view.agreement,
    }


def expected_false(
    observed: Candidacy, labels: Int[np.ndarray, " latent"], nulls: Sequence[Candidacy]
) -> dict[Label, float]:
    """For each label that claims a change, the mean number of latents in the nulls that the rule gives it and that have at least the
    least effect of a latent here that bears a label of its family; 0 where none does. Empty without nulls.

    Args:
        labels: Of the latents here, indices into `LABELS`.
    """
    found: dict[Label, float] = {}
    for family in FAMILIES if nulls else ():
        claimed = observed._replace(label=labels).of(family)
        least = float(observed.effect[claimed].min()) if claimed.any() else np.inf
        for label in family:
            counts = [float(null.weight[null.of([label]) & (null.effect >= least)].sum()) for null in nulls]
            found[label] = float(np.mean(counts))
    return found


def _limits(features: Features, rule: LabelRule, controls: Controls) -> list[dict[str, Any]] | None:
    """How many latents are new and lost, and would be in the nulls, as each limit of the rule moves alone; None where no rule is."""
    evidence = features.evidence
    if evidence is None:
        return None
    counted, false = bool(controls.candidacies(rule)), dict[LabelRule, float]()

    def labels_by(moved: LabelRule) -> np.ndarray:
        observed, nulls = candidacy(features.columns, evidence, moved), controls.candidacies(moved)
        labels = held_back(observed.label, q_values(observed, nulls), moved)
        expected = expected_false(observed, labels, nulls)
        false[moved] = expected.get("new", 0.0) + expected.get("lost", 0.0)
        return labels

    return [
        curve._asdict()
        | {
            "expected_false": [false[rule.model_copy(update={curve.limit: value})] for value in curve.values]
            if counted
            else None
        }
        for curve in limit_curves(rule, labels_by)
    ]


def _models(config: RunConfig, manifest: dict[str, Any]) -> dict[str, Any]:
    if isinstance(config.activations, FileActivations):
        return {
            side: {"model": getattr(config.activations, side).name} for side in ("reference", "intervened")
        }
    pair = manifest.get("pair", {})
    return {side: pair.get(side, {}) for side in ("reference", "intervened")}


def _shift(statistics: Statistics) -> dict[str, float | None]:
    """How E‖x^intervened - x^reference‖² divides into latents, bias and error; null where there is no shift.

    x^intervened - x^reference = Σ_j f_j δ_j + b_δ + e_δ, each part projected onto the whole (methods of attribution by an
    exact sum), so that the three shares add up to 1.
    """
    square = float(statistics.totals["shift/square"].sum()) if "shift/square" in statistics.totals else 0.0
    if square == 0:
        return {"latents": None, "bias": None, "error": None}
    return {
        "latents": float(statistics.sums["shift"].sum()) / square,
        "bias": float(statistics.totals["shift/bias"].sum()) / square,
        "error": float(statistics.totals["shift/error"].sum()) / square,
    }


def _histogram(
    values: np.ndarray | None, alive: np.ndarray, bounds: tuple[float, float]
) -> dict[str, list[float]] | None:
    """Over the latents that fired; None where the quantity does not exist."""
    if values is None or not np.isfinite(values).any():
        return None
    shown = values[alive & np.isfinite(values)]
    counts, edges = np.histogram(shown, bins=_BINS, range=bounds)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
