"""The summary of an analysis: the models, the reconstruction quality, and the number of latents with each label."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from crosscoder.config import BatchTopK, FileActivations, LabelRule, RunConfig, TopK
from crosscoder.config.model_names import MODEL_NAMES
from crosscoder.config.open_settings import chosen

from ..latents.dictionary_view import DictionaryView, PairedView
from ..latents.statistics import Statistics
from .controls import Controls
from .counts import limit_curves
from .false_discovery import FAMILIES, Candidates, candidates_of, count_bound, q_values
from .feature_table import Features
from .rule import LABELS, ClaimSupport, Label, held_back

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
    """Return the content of summary.json: plain JSON values, null for what was not measured."""
    columns = features.columns
    alive = columns["n_tokens"] > 0
    counts = Counter(features.labels)
    labels = np.array([LABELS.index(label) for label in features.labels])
    rule, expected = config.analysis.rule, dict[Label, ExpectedFalse]()
    if features.evidence is not None:
        observed = candidates_of(columns, features.evidence, rule)
        expected = expected_false(observed, labels, controls.null_candidates(rule), rule.confidence)
    candidates = Counter(features.candidates)
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
        "l0_target": l0_target(config),
        "fve": dict(statistics.fve),
        "relative_difference": statistics.relative_difference,
        "cosine": statistics.cosine,
        "frame": _linear_map(view),
        "ce": manifest.get("evaluation", {}).get("ce"),
        "counts": {
            label: {
                "count": counts[label],
                "low": features.count_intervals[label].low if label in features.count_intervals else None,
                "high": features.count_intervals[label].high if label in features.count_intervals else None,
                "candidates": candidates[label],
                "expected_false": expected[label].number if label in expected else None,
                "expected_false_high": expected[label].high if label in expected else None,
            }
            for label in LABELS
        },
        "controls": controls.summary(),
        "withheld": features.withheld,
        # No number of labels is stated of a run that labels nothing, at any limit.
        "limits": None if features.withheld else _limits(features, rule, controls),
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


def l0_target(config: RunConfig) -> float | None:
    """Return the number of latents per token that the settings ask for; None for a loaded dictionary that states none."""
    sparsity = config.crosscoder.sparsity
    if isinstance(sparsity, BatchTopK | TopK):
        return float(chosen(sparsity.k, "crosscoder.sparsity.k"))
    return sparsity.target_l0


def _linear_map(view: DictionaryView) -> dict[str, float] | None:
    """Return how well the linear map connects models that share no space; None if they share one or no map was used."""
    if not isinstance(view, PairedView) or view.linear_map is None:
        return None
    return {
        **dict(zip(MODEL_NAMES, view.linear_map.explained_variance, strict=True)),
        "agreement": view.agreement,
    }


class ExpectedFalse(NamedTuple):
    """How many false labels the nulls that were tried lead to expect."""

    number: float
    """The number in the null that has most."""
    high: float
    """Upper confidence bound of that number as a Poisson mean, because a null is one draw."""


def expected_false(
    observed: Candidates,
    labels: Int[np.ndarray, " latent"],
    nulls: Sequence[Candidates],
    confidence: float,
) -> dict[Label, ExpectedFalse]:
    """Return the expected number of false positives of each label that claims a change, before replication; empty without nulls.

    It is the number of null latents with the label whose effect is at least the smallest effect of an observed latent labeled in the
    same family; 0 if there is no such latent.

    Args:
        labels: Labels of the observed latents, as indices into `LABELS`.
    """
    found: dict[Label, ExpectedFalse] = {}
    for family in FAMILIES if nulls else ():
        claimed = observed._replace(label=labels).in_family(family)
        smallest = float(observed.effect[claimed].min()) if claimed.any() else np.inf
        for label in family:
            counts = [
                float(null.weight[null.in_family([label]) & (null.effect >= smallest)].sum())
                for null in nulls
            ]
            found[label] = ExpectedFalse(max(counts), count_bound(max(counts), confidence))
    return found


def _limits(features: Features, rule: LabelRule, controls: Controls) -> list[dict[str, Any]] | None:
    """Return the numbers of new and lost latents, and of those expected by chance, as each limit varies alone; None without evidence."""
    evidence = features.evidence
    if evidence is None:
        return None
    has_nulls, false = bool(controls.null_candidates(rule)), dict[LabelRule, float]()

    def labels_by(changed: LabelRule) -> np.ndarray:
        observed, nulls = (
            candidates_of(features.columns, evidence, changed),
            controls.null_candidates(changed),
        )
        again = features.replication.share(observed.label, changed)
        support = ClaimSupport(q_values(observed, nulls), again, features.columns["span_residual"])
        labels = held_back(observed.label, support, changed)
        expected = expected_false(observed, labels, nulls, changed.confidence)
        false[changed] = sum(expected[label].number for label in ("new", "lost") if label in expected)
        return labels

    return [
        curve._asdict()
        | {
            "expected_false": [false[rule.model_copy(update={curve.limit: value})] for value in curve.values]
            if has_nulls
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
    """Return the shares of E‖x^intervened - x^reference‖² that latents, bias and error explain; None if the models are identical.

    x^intervened - x^reference = Σ_j f_j δ_j + b_δ + e_δ. Each term is projected onto the difference, so the three shares add up to 1.
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
    """Return the histogram over latents that fired; None if the quantity was not measured."""
    if values is None or not np.isfinite(values).any():
        return None
    shown = values[alive & np.isfinite(values)]
    counts, edges = np.histogram(shown, bins=_BINS, range=bounds)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
