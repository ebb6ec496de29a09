"""Scores of a run on a planted pair against the truth.

A latent matches the planted feature whose directions are nearest to its raw decoder rows, if the cosine of the concatenated rows of both
models exceeds 0.7; otherwise it matches none. Of a replaced or reweighted feature, the direction in one model alone will do. Each
planted feature counts once:

    precision   share of the latents with a label that match a feature of that kind, apart from labels that are true otherwise
    recall      share of the features of that kind that a latent with the label matches
    average precision   the same without a cutoff: latents that fired, ranked by the labeler's score, skipping latents
                        that match a feature ranked higher already

A label that claims a change is false if it holds neither of the feature that the latent matches nor of an element of change
whose directions the latent writes (`true_labels`).

Several labelers label one feature table: the rule, and the field's bins as baselines.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.dictionary.views import View
from crosscoder.planted import PlantedPair, PlantedTruth
from crosscoder.run.folder import RunFolder

from ..labels.rule import CLAIMED

CHANGES = tuple(dict.fromkeys((*CLAIMED, "replaced")))
"""Labels that claim a change, of the rule and of the baselines."""

SCORED = ("new", "lost", "rotated", "rescaled", "shared", "reweighted", "replaced")
"""Kinds of features that have a label."""

_WITHOUT_COMMON_SPACE = ("new", "lost")
COSINE = 0.7


@dataclass(frozen=True)
class Labeling:
    """The labels of one labeler."""

    labels: tuple[str, ...]
    scores: Mapping[str, np.ndarray]
    """For each kind that it ranks, a score per latent, higher for more of that kind; NaN: no score."""


def labelings(features: pd.DataFrame, reads: View) -> dict[str, Labeling]:
    """Return the labelings of this table: `rule`, and the baseline for its view."""
    rule = Labeling(tuple(features["label"]), _rule_scores(features))
    match reads:
        case "paired":
            return {"rule": rule, "norm_bins": norm_bins(features)}
        case "difference":
            return {"rule": rule, "beta_ratio": beta_ratio(features)}
        case "pooled":
            return {"rule": rule, "rate_bins": rate_bins(features)}
        case _:
            assert_never(reads)


def norm_bins(features: pd.DataFrame) -> Labeling:
    """Label by relative norm alone (Lindsey et al. 2024): above 0.9 new, below 0.1 lost, 0.3 to 0.7 shared; except dead latents."""
    relative = _column(features, "relative_norm")
    return Labeling(
        _binned(features, relative, ((-1.0, 0.1, "lost"), (0.3, 0.7, "shared"), (0.9, 2.0, "new"))),
        {"new": relative, "lost": 1 - relative},
    )


def rate_bins(features: pd.DataFrame) -> Labeling:
    """Label a shared-dictionary SAE by the same bins of the relative firing rate.

    Between these bins a latent fires in both models but more often in one: reweighted.
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
    """Label a diff-SAE: new if the reference holds less than `limit` of what the intervened model holds along the direction, lost for the
    reverse (Minder et al. 2025, the ratio of βs)."""
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
    """Rank in the spirit of `labels.rule.decide`: by norms and latent scaling for new and lost, by geometry for the others."""
    relative, cosine = _column(features, "relative_norm"), _column(features, "decoder_cosine")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.minimum(relative, 1 - relative) / np.maximum(relative, 1 - relative)
    scores = {"rotated": ratio - cosine, "rescaled": cosine - ratio, "shared": cosine + ratio}
    scores["reweighted"] = np.abs(_column(features, "relative_rate") - 0.5)
    for side, norm in (("new", relative), ("lost", 1 - relative)):
        nus = [np.abs(_column(features, f"{name}_{side}")) for name in ("nu_error", "nu_reconstruction")]
        # Not estimable is no evidence of absence: it counts as 1, as for a concept that is fully present.
        scores[side] = norm - sum(np.where(np.isnan(nu), 1.0, nu) for nu in nus)
    return scores


def _column(features: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as float64; NaN if the table lacks it."""
    if name not in features:
        return np.full(len(features), np.nan)
    return features[name].to_numpy(np.float64, na_value=np.nan)


# --- scores -----------------------------------------------------------------------------------------------------------


def score_labels(
    labeling: Labeling,
    matches: list[int],
    truth: PlantedTruth,
    alive: np.ndarray,
    true: Sequence[frozenset[str]],
) -> dict[str, dict[str, float | None]]:
    """Return precision, recall, F1 and average precision of each planted kind, and its number of labels.

    Precision is None without labels; a kind that was not planted has only its count. A label that is true of a latent without
    being the kind of its feature (`true`, see `true_labels`) counts neither for nor against.
    """
    result: dict[str, dict[str, float | None]] = {}
    for kind in SCORED:
        planted = truth.features_of(kind)
        beside = np.array(
            [kind in allowed and match not in planted for allowed, match in zip(true, matches, strict=True)],
            dtype=bool,
        )
        with_label = [latent for latent, label in enumerate(labeling.labels) if label == kind]
        labeled = [matches[latent] for latent in with_label if not beside[latent]]
        entry: dict[str, float | None] = {"count": float(len(with_label))}
        if planted and (truth.comparable or kind in _WITHOUT_COMMON_SPACE):
            correct = [match for match in labeled if match in planted]
            precision = len(correct) / len(labeled) if labeled else None
            recall = len(set(correct)) / len(planted)
            f1 = 2 * precision * recall / (precision + recall) if precision else 0.0
            score = labeling.scores.get(kind)
            entry |= {
                "precision": precision,
                "recall": recall,
                "f1": f1,
                "average_precision": None
                if score is None
                else average_precision(score, matches, planted, alive & ~beside),
            }
        result[kind] = entry
    return result


def average_precision(
    score: np.ndarray, matches: list[int], planted: set[int], alive: np.ndarray
) -> float | None:
    """Return the mean over planted features of the precision at the rank where each is first matched; 0 for a feature that is not.

    None if no latent has a score. Ties keep their order in the dictionary.
    """
    usable = np.flatnonzero(alive & ~np.isnan(score))
    if not len(usable):
        return None
    matched: set[int] = set()
    rank, total = 0, 0.0
    for latent in usable[np.argsort(-score[usable], kind="stable")]:
        feature = matches[latent]
        if feature in matched:
            continue
        rank += 1
        if feature in planted:
            matched.add(feature)
            total += len(matched) / rank
    return total / len(planted)


def confusion(labels: Iterable[str], matches: list[int], truth: PlantedTruth) -> dict[str, dict[str, int]]:
    """Return the number of latents with each label, by the kind of the feature they match (`none`: no match)."""
    counts: dict[str, dict[str, int]] = {}
    for label, feature in zip(labels, matches, strict=True):
        row = counts.setdefault("none" if feature < 0 else truth.kinds[feature], {})
        row[label] = row.get(label, 0) + 1
    return counts


def found_features(labels: Iterable[str], matches: list[int], truth: PlantedTruth) -> list[int]:
    """Return the changed features that a latent with the right label matches."""
    return sorted(
        {
            feature
            for label, feature in zip(labels, matches, strict=True)
            if feature >= 0 and label in CHANGES and truth.kinds[feature] == label
        }
    )


def true_labels(
    decoder: tuple[Float[Tensor, "latent _"], ...],
    matches: list[int],
    truth: PlantedTruth,
    reads: View,
) -> list[frozenset[str]]:
    """Return, for each latent, the labels that claim nothing false about it.

    Those of the feature that it matches (`PlantedTruth.true_labels`), and those of every element of change whose directions hold
    more than `COSINE` of what the latent writes.
    """
    of_feature = {feature: truth.true_labels(feature) for feature in set(matches) if feature >= 0}
    near = truth.alignments(decoder, reads) > COSINE
    return [
        of_feature.get(feature, frozenset()).union(
            *(element.true_of_latents for element, within in zip(truth.elements, row, strict=True) if within)
        )
        for feature, row in zip(matches, near.tolist(), strict=True)
    ]


def false_changes(labels: Iterable[str], true: Iterable[frozenset[str]]) -> dict[str, int]:
    """Return the number of false labels of each kind of change; kinds without one are left out."""
    wrong = Counter(
        label
        for label, allowed in zip(labels, true, strict=True)
        if label in CHANGES and label not in allowed
    )
    return {label: wrong[label] for label in CHANGES if wrong[label]}


def geometry_errors(
    decoder: tuple[Float[Tensor, "latent d_model"], Float[Tensor, "latent d_model"]],
    truth: PlantedTruth,
    alive: np.ndarray,
) -> dict[str, float | None]:
    """Return the median absolute error of the angle of rotated features (degrees) and of the factor of rescaled ones.

    Uses the nearest latent of each feature, with any label; None if no feature of the kind was found.
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
    """Return the MCC: the mean over features of the cosine with the nearest latent that fired; features may share a latent.

    For a diff-SAE, over the changed features. None if no latent fired or nothing changed.
    """
    counted = truth.changed if reads == "difference" else torch.ones(len(truth.kinds), dtype=torch.bool)
    cosines = truth.cosines(decoder, reads)[torch.from_numpy(alive)][:, counted]
    return float(cosines.amax(dim=0).mean()) if cosines.numel() else None


def score_table(
    features: pd.DataFrame, decoder: tuple[Float[Tensor, "latent _"], ...], truth: PlantedTruth, reads: View
) -> dict[str, Any]:
    """Return all scores of a feature table and its dictionary as plain JSON values.

    Args:
        features: One row per latent, in the dictionary's order.
        decoder: Raw decoder rows, one tensor per model of the dictionary.
    """
    matches = truth.matches(decoder, reads, COSINE)
    alive = features["n_tokens"].to_numpy() > 0
    true = true_labels(decoder, matches, truth, reads)
    labelers = {}
    for name, labeling in labelings(features, reads).items():
        wrong = false_changes(labeling.labels, true)
        kinds = score_labels(labeling, matches, truth, alive, true)
        labelers[name] = {
            "kinds": kinds,
            "mean_f1": _mean(kinds[kind].get("f1") for kind in ("new", "lost")),
            "claimed": sum(label in ("new", "lost") for label in labeling.labels),
            "false": sum(wrong.get(label, 0) for label in ("new", "lost")),
            "changes": sum(label in CHANGES for label in labeling.labels),
            "false_changes": sum(wrong.values()),
            "false_by_label": wrong,
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
    """Return all scores of a finished run on a planted pair: `score_table`, variance explained and its ceiling, and L0."""
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
