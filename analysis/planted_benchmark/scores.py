"""How well a run on a planted pair found what was planted.

A latent is the planted feature whose directions its raw decoder rows are nearest to, where the cosine (both models end to
end) exceeds 0.7; else it is none. Each planted feature counts once:

    precision   share of the latents with a label that are a feature of that kind
    recall      share of the features of that kind that a latent with the label is
    average precision   the same without a cut: latents that fired, ranked by the labeler's score; a latent that is a
                        feature already met higher up is passed over

Several labelers read one table of features: our rule, and the bins of the field as baselines.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from crosscoder.dictionary.inputs import View
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.planted import PlantedPair, PlantedTruth
from crosscoder.run.folder import RunFolder

from ..labels.rule import CLAIMED

SCORED = ("new", "lost", "rotated", "rescaled", "shared", "reweighted")
"""Kinds that a label exists for."""

_WITHOUT_COMMON_SPACE = ("new", "lost")
COSINE = 0.7


@dataclass(frozen=True)
class Labeling:
    """What one labeler says of every latent."""

    labels: tuple[str, ...]
    scores: Mapping[str, np.ndarray]
    """For each kind it ranks: a score per latent, NaN where it has none. The larger, the more of that kind."""


def labelings(features: pd.DataFrame, reads: View) -> dict[str, Labeling]:
    """Every labeler that can read this table: `rule`, and a baseline of the field for each way of reading."""
    ours = Labeling(tuple(features["label"]), _rule_scores(features))
    match reads:
        case "paired":
            return {"rule": ours, "norm_bins": norm_bins(features)}
        case "difference":
            return {"rule": ours, "beta_ratio": beta_ratio(features)}
        case "pooled":
            return {"rule": ours, "rate_bins": rate_bins(features)}
        case _:
            assert_never(reads)


def norm_bins(features: pd.DataFrame) -> Labeling:
    """Relative norm alone (Lindsey et al. 2024): above 0.9 new, below 0.1 lost, 0.3 to 0.7 shared. Dead latents left out."""
    relative = _column(features, "relative_norm")
    return Labeling(
        _binned(features, relative, ((-1.0, 0.1, "lost"), (0.3, 0.7, "shared"), (0.9, 2.0, "new"))),
        {"new": relative, "lost": 1 - relative},
    )


def rate_bins(features: pd.DataFrame) -> Labeling:
    """The same bins of how often each model makes a latent fire, for a dictionary that encodes each model alone.

    Between the bins it fires in both models, more often in one: reweighted.
    """
    reference, intervened = (_column(features, f"density_{side}") for side in ("reference", "intervened"))
    with np.errstate(invalid="ignore"):
        relative = intervened / (reference + intervened)
    bins = (
        (-1.0, 0.1, "lost"), (0.1, 0.3, "reweighted"), (0.3, 0.7, "shared"), (0.7, 0.9, "reweighted"), (0.9, 2.0, "new"),
    )  # fmt: skip
    middle = np.abs(relative - 0.5)
    scores = {"new": relative, "lost": 1 - relative, "reweighted": np.where(middle < 0.4, middle, -middle)}
    return Labeling(_binned(features, relative, bins), scores)


def beta_ratio(features: pd.DataFrame, limit: float = 0.2) -> Labeling:
    """For a diff-SAE: new where the reference holds less than `limit` of what the intervened model holds along a latent's
    direction, lost the other way around (Minder et al. 2025, the ratio of βs)."""
    ratios = {side: np.abs(_column(features, f"nu_error_{side}")) for side in ("new", "lost")}
    alive = features["n_tokens"].to_numpy() > 0
    labels = tuple(
        next((side for side in ("new", "lost") if fires and ratios[side][latent] < limit), "undetermined")
        for latent, fires in enumerate(alive)
    )
    return Labeling(labels, {side: -ratio for side, ratio in ratios.items()})


def _binned(
    features: pd.DataFrame, values: np.ndarray, bins: Iterable[tuple[float, float, str]]
) -> tuple[str, ...]:
    labels = np.full(len(values), "undetermined", dtype=object)
    for low, high, label in bins:
        labels[(values > low) & (values < high)] = label
    labels[features["n_tokens"].to_numpy() == 0] = "dead"
    return tuple(labels)


def _rule_scores(features: pd.DataFrame) -> dict[str, np.ndarray]:
    """A ranking in the sense of `labels.decide`: norms and latent scaling for new and lost, geometry for the others."""
    relative, cosine = _column(features, "relative_norm"), _column(features, "decoder_cosine")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.minimum(relative, 1 - relative) / np.maximum(relative, 1 - relative)
    scores = {"rotated": ratio - cosine, "rescaled": cosine - ratio, "shared": cosine + ratio}
    scores["reweighted"] = np.abs(_column(features, "relative_rate") - 0.5)
    for side, lean in (("new", relative), ("lost", 1 - relative)):
        doubt = [np.abs(_column(features, f"{name}_{side}")) for name in ("nu_error", "nu_reconstruction")]
        # Not estimable is no evidence: as much against it as a concept that is fully there.
        scores[side] = lean - sum(np.where(np.isnan(one), 1.0, one) for one in doubt)
    return scores


def _column(features: pd.DataFrame, name: str) -> np.ndarray:
    """A column as float64, NaN where the table lacks it."""
    if name not in features:
        return np.full(len(features), np.nan)
    return features[name].to_numpy(np.float64, na_value=np.nan)


# --- scores -----------------------------------------------------------------------------------------------------------


def score_labels(
    labeling: Labeling, matches: list[int], truth: PlantedTruth, alive: np.ndarray
) -> dict[str, dict[str, float | None]]:
    """Precision, recall, F1 and average precision of each kind that was planted, and how many latents have its label.

    Precision is None without a label; a kind that was not planted has its count alone.
    """
    result: dict[str, dict[str, float | None]] = {}
    for kind in SCORED:
        planted = truth.features_of(kind)
        labeled = [matches[latent] for latent, label in enumerate(labeling.labels) if label == kind]
        entry: dict[str, float | None] = {"count": float(len(labeled))}
        if planted and (truth.comparable or kind in _WITHOUT_COMMON_SPACE):
            right = [match for match in labeled if match in planted]
            precision = len(right) / len(labeled) if labeled else None
            recall = len(set(right)) / len(planted)
            f1 = 2 * precision * recall / (precision + recall) if precision else 0.0
            score = labeling.scores.get(kind)
            entry |= {
                "precision": precision,
                "recall": recall,
                "f1": f1,
                "average_precision": None
                if score is None
                else average_precision(score, matches, planted, alive),
            }
        result[kind] = entry
    return result


def average_precision(
    score: np.ndarray, matches: list[int], planted: set[int], alive: np.ndarray
) -> float | None:
    """Mean over the planted features of the precision at the rank where each is met; one that is not met counts zero.

    None where no latent has a score. Latents of equal score keep their order in the dictionary.
    """
    usable = np.flatnonzero(alive & ~np.isnan(score))
    if not len(usable):
        return None
    met: set[int] = set()
    rank, total = 0, 0.0
    for latent in usable[np.argsort(-score[usable], kind="stable")]:
        feature = matches[latent]
        if feature in met:
            continue
        rank += 1
        if feature in planted:
            met.add(feature)
            total += len(met) / rank
    return total / len(planted)


def confusion(labels: Iterable[str], matches: list[int], truth: PlantedTruth) -> dict[str, dict[str, int]]:
    """How many latents have each label, by the kind of the feature they are (`none` for those that are none)."""
    counts: dict[str, dict[str, int]] = {}
    for label, feature in zip(labels, matches, strict=True):
        row = counts.setdefault("none" if feature < 0 else truth.kinds[feature], {})
        row[label] = row.get(label, 0) + 1
    return counts


def found_features(labels: Iterable[str], matches: list[int], truth: PlantedTruth) -> list[int]:
    """The changed features that a latent with the right label is."""
    return sorted(
        {
            feature
            for label, feature in zip(labels, matches, strict=True)
            if feature >= 0 and label in CLAIMED and truth.kinds[feature] == label
        }
    )


def false_claims(labels: Iterable[str], matches: list[int], truth: PlantedTruth) -> int:
    """Latents labeled new or lost that are not a feature of that kind; over those labeled, the realized false-discovery share."""
    return sum(
        label in ("new", "lost") and (feature < 0 or truth.kinds[feature] != label)
        for label, feature in zip(labels, matches, strict=True)
    )


def geometry_errors(
    decoder: tuple[Float[Tensor, "latent d_model"], Float[Tensor, "latent d_model"]],
    truth: PlantedTruth,
    alive: np.ndarray,
) -> dict[str, float | None]:
    """Median absolute error of the angle of rotated features (degrees) and of the factor of rescaled ones.

    Over the nearest latent of each feature, whatever its label; None where no feature of the kind was found.
    """
    cosines = truth.cosines(decoder)
    cosines[~torch.from_numpy(alive)] = -1
    nearest = cosines.max(dim=0)
    reference, intervened = (rows[nearest.indices].double() for rows in decoder)
    angle = cosine_similarity(reference, intervened).clamp(-1, 1).acos().rad2deg()
    factor = intervened.norm(dim=1) / reference.norm(dim=1)
    errors = {}
    for name, kind, error in (
        ("angle", "rotated", (angle - truth.angles).abs()),
        ("factor", "rescaled", (factor - truth.factors).abs()),
    ):
        usable = error[truth.is_kind(kind) & (nearest.values > COSINE)]
        errors[name] = float(usable.median()) if len(usable) and truth.comparable else None
    return errors


def mean_max_cosine(
    decoder: tuple[Float[Tensor, "latent _"], ...], truth: PlantedTruth, reads: View, alive: np.ndarray
) -> float | None:
    """MCC: mean over the features of the cosine with their nearest latent that fired; two features may share one.

    Of a dictionary of the difference, over the features that changed. None where no latent fired or nothing changed.
    """
    wanted = truth.changed if reads == "difference" else torch.ones(len(truth.kinds), dtype=torch.bool)
    cosines = truth.cosines(decoder, reads)[torch.from_numpy(alive)][:, wanted]
    return float(cosines.amax(dim=0).mean()) if cosines.numel() else None


def score_table(
    features: pd.DataFrame, decoder: tuple[Float[Tensor, "latent _"], ...], truth: PlantedTruth, reads: View
) -> dict[str, Any]:
    """All scores of a table of features and its dictionary; plain JSON values.

    Args:
        features: The table, one row a latent in the dictionary's order.
        decoder: Its raw decoder rows, one tensor for each model on the dictionary's axis.
    """
    matches = truth.matches(decoder, reads, COSINE)
    alive = features["n_tokens"].to_numpy() > 0
    labelers = {}
    for name, labeling in labelings(features, reads).items():
        kinds = score_labels(labeling, matches, truth, alive)
        labelers[name] = {
            "kinds": kinds,
            "mean_f1": _mean(kinds[kind].get("f1") for kind in ("new", "lost")),
            "claimed": sum(label in ("new", "lost") for label in labeling.labels),
            "false": false_claims(labeling.labels, matches, truth),
            "confusion": confusion(labeling.labels, matches, truth),
            "found": found_features(labeling.labels, matches, truth),
        }
    errors = (
        geometry_errors((decoder[0], decoder[1]), truth, alive)
        if reads == "paired" and truth.comparable
        else {"angle": None, "factor": None}
    )
    return {
        "labelers": labelers,
        "errors": errors,
        "mcc": mean_max_cosine(decoder, truth, reads, alive),
        "alive": int(alive.sum()),
    }


def score_run(folder: RunFolder, pair: PlantedPair) -> dict[str, Any]:
    """All scores of a finished run on a planted pair: those of `score_table`, variance explained and its ceiling, L0."""
    features = pd.read_parquet(folder.features)
    config = folder.read_config()
    crosscoder = load_crosscoder(folder.crosscoder)
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    decoder = tuple(rows.detach() for rows in crosscoder.raw_decoder())
    return score_table(features, decoder, pair.truth, config.crosscoder.reads) | {
        "fve": summary["fve"],
        "noise_ceiling": pair.noise_ceiling(),
        "l0": summary["l0"],
        "true_l0": pair.truth.l0(config.crosscoder.reads),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else None
