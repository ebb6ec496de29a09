"""The scorer on hand-made tables."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis.planted_benchmark.scores import (
    Labeling,
    average_precision,
    beta_ratio,
    confusion,
    found_features,
    geometry_errors,
    mean_max_cosine,
    norm_bins,
    rate_bins,
    score_labels,
    score_table,
)
from crosscoder.planted import SMALL, PlantedPair, PlantedTruth
from crosscoder.planted.regimes import regime_named

PAIR = PlantedPair(counts=SMALL)
TRUTH = PAIR.truth


def table(labels: list[str], decoder: tuple[Tensor, Tensor]) -> pd.DataFrame:
    """The feature table of an ideal analysis."""
    reference, intervened = (rows.norm(dim=1).double().numpy() for rows in decoder)
    with np.errstate(divide="ignore"):
        ratio = intervened / reference
        inverse = reference / intervened
    return pd.DataFrame(
        {
            "label": labels,
            "n_tokens": 100,
            "relative_norm": intervened / (reference + intervened),
            "decoder_cosine": torch.cosine_similarity(*decoder).double().numpy(),
            "nu_error_new": inverse,
            "nu_error_lost": ratio,
            "nu_reconstruction_new": 0.0,
            "nu_reconstruction_lost": 0.0,
        }
    )


def perfect() -> tuple[pd.DataFrame, tuple[Tensor, Tensor]]:
    decoder = TRUTH.reference, TRUTH.intervened
    return table(list(TRUTH.kinds), decoder), decoder


def test_perfect_labels_score_one_under_any_order_of_latents() -> None:
    features, decoder = perfect()
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    for shuffle in (torch.arange(len(features)), order):
        shuffled = features.iloc[shuffle.tolist()].reset_index(drop=True)
        rows = decoder[0][shuffle], decoder[1][shuffle]
        scores = score_table(shuffled, rows, TRUTH, "paired")
        rule = scores["labelers"]["rule"]
        assert rule["mean_f1"] == 1
        for kind in SMALL:
            entry = rule["kinds"][kind]
            assert entry == {
                "count": SMALL[kind], "precision": 1, "recall": 1, "f1": 1, "average_precision": pytest.approx(1),
            }  # fmt: skip
        assert rule["found"] == list(range(8, 20))
        assert rule["confusion"] == {kind: {kind: count} for kind, count in SMALL.items()}
        assert scores["mcc"] == pytest.approx(1)
        assert scores["errors"]["angle"] == pytest.approx(0, abs=1e-3)
        assert scores["errors"]["factor"] == pytest.approx(0, abs=1e-5)
        assert scores["labelers"]["norm_bins"]["mean_f1"] == 1


def test_wrong_labels_count_against() -> None:
    """A shared feature labeled new, a new one missed, two latents on one feature: precision 3/4, recall 2/3."""
    features, decoder = perfect()
    new = sorted(TRUTH.features_of("new"))
    labels = list(TRUTH.kinds)
    labels[0], labels[new[0]] = "new", "undetermined"
    rows = tuple(torch.cat([side, side[new[1] : new[1] + 1]]) for side in decoder)
    features = table([*labels, "new"], (rows[0], rows[1]))
    entry = score_table(features, rows, TRUTH, "paired")["labelers"]["rule"]["kinds"]["new"]
    assert entry["count"] == 4
    assert score_table(features, rows, TRUTH, "paired")["labelers"]["rule"]["false"] == 1
    assert entry["precision"] == 3 / 4
    assert entry["recall"] == 2 / 3
    assert entry["f1"] == pytest.approx(2 * 0.75 * (2 / 3) / (0.75 + 2 / 3))


def test_a_latent_that_matches_no_feature_counts_against() -> None:
    random = torch.randn(4, 48, generator=torch.Generator().manual_seed(1))
    features, decoder = perfect()
    rows = torch.cat([decoder[0], random]), torch.cat([decoder[1], random.flip(0)])
    features = table([*TRUTH.kinds, *["lost"] * 4], rows)
    entry = score_table(features, rows, TRUTH, "paired")["labelers"]["rule"]["kinds"]["lost"]
    assert (entry["precision"], entry["recall"]) == (3 / 7, 1)


def test_no_label_and_no_latent() -> None:
    """Without labels, scores are 0 and precision is missing; a null has only counts; without live latents there is no cosine."""
    features, decoder = perfect()
    features["label"] = "undetermined"
    scores = score_table(features, decoder, TRUTH, "paired")
    entry = scores["labelers"]["rule"]["kinds"]["new"]
    assert (entry["count"], entry["precision"], entry["recall"], entry["f1"]) == (0, None, 0, 0)
    assert scores["labelers"]["rule"]["found"] == []
    null = PAIR.null("noise").truth
    features["label"] = "new"
    rule = score_table(features, decoder, null, "paired")["labelers"]["rule"]
    assert (
        rule["kinds"]["new"] == {"count": 20}
        and rule["claimed"] == rule["false"] == 20
        and rule["mean_f1"] is None
    )
    features["n_tokens"] = 0
    scores = score_table(features, decoder, TRUTH, "paired")
    assert scores["mcc"] is None and scores["alive"] == 0
    assert scores["errors"] == {"angle": None, "factor": None}
    assert scores["labelers"]["norm_bins"]["claimed"] == 0


def test_average_precision_by_hand() -> None:
    """Correct at ranks 1 and 4 of two planted features, with a second latent of the first skipped: (1 + 2/3) / 2."""
    score = np.array([5.0, 4.0, 3.0, 2.0, np.nan, 9.0])
    matches, alive = [1, -1, 1, 2, 3, 7], np.array([True] * 5 + [False])
    assert average_precision(score, matches, {1, 2}, alive) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(score, matches, {1, 2, 3}, alive) == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(np.full(6, np.nan), matches, {1}, alive) is None


def test_a_ranking_that_is_reversed_is_worse() -> None:
    matches, alive = list(range(10)), np.ones(10, dtype=bool)
    score = np.arange(10.0)
    assert average_precision(score, matches, {7, 8, 9}, alive) == 1
    assert average_precision(-score, matches, {7, 8, 9}, alive) == pytest.approx((1 / 8 + 2 / 9 + 3 / 10) / 3)


def test_norm_bins() -> None:
    features = pd.DataFrame(
        {
            "label": "",
            "n_tokens": [1, 1, 1, 1, 1, 0, 1],
            "relative_norm": [0.95, 0.05, 0.5, 0.8, 0.29, 0.99, np.nan],
        }
    )
    assert norm_bins(features).labels == (
        "new", "lost", "shared", "undetermined", "undetermined", "dead", "undetermined",
    )  # fmt: skip


def test_the_other_baselines() -> None:
    features = pd.DataFrame(
        {
            "n_tokens": [9, 9, 9, 9, 0],
            "density_reference": [0.0, 0.1, 0.1, 0.1, 0.0],
            "density_intervened": [0.1, 0.0, 0.1, 0.3, 0.0],
            "nu_error_new": [0.1, 5.0, 0.9, np.nan, 0.0],
            "nu_error_lost": [9.0, 0.1, 0.9, np.nan, 0.0],
        }
    )
    assert rate_bins(features).labels == ("new", "lost", "shared", "reweighted", "dead")
    assert beta_ratio(features).labels == ("new", "lost", "undetermined", "undetermined", "undetermined")


def test_geometry_is_measured_on_the_nearest_latent() -> None:
    """Features rotated by 60° and rescaled to 0.4, with latents that are off by 5° and 0.1."""
    other = PlantedPair(counts=SMALL, angle=55.0, factor=0.5).truth
    alive = np.ones(len(TRUTH.kinds), dtype=bool)
    errors = geometry_errors((other.reference, other.intervened), TRUTH, alive)
    assert errors["angle"] == pytest.approx(5, abs=1e-3)
    assert errors["factor"] == pytest.approx(0.1, abs=1e-5)
    random = torch.randn(20, 48, generator=torch.Generator().manual_seed(0))
    assert geometry_errors((random, random), TRUTH, alive) == {"angle": None, "factor": None}


def test_kinds_that_need_a_common_space_are_not_scored_without_one() -> None:
    """Without a common space, rotated features do not exist; new and lost ones do."""
    truth = regime_named("rotation").make(0).truth
    decoder = truth.reference, truth.intervened
    scores = score_table(table(list(truth.kinds), decoder), decoder, truth, "paired")
    kinds = scores["labelers"]["rule"]["kinds"]
    assert kinds["new"]["f1"] == kinds["lost"]["f1"] == 1
    assert "f1" not in kinds["shared"]
    assert scores["errors"] == {"angle": None, "factor": None}


def test_features_found_are_those_with_the_right_label() -> None:
    labels, matches = ["new", "lost", "shared", "new", "rotated"], [14, 15, 0, -1, 8]
    assert [TRUTH.kinds[index] for index in (14, 15, 0, 8)] == ["new", "new", "shared", "rotated"]
    assert found_features(labels, matches, TRUTH) == [8, 14]
    assert confusion(labels, matches, TRUTH)["new"] == {"new": 1, "lost": 1}
    assert confusion(labels, matches, TRUTH)["none"] == {"new": 1}


def test_dictionaries_of_one_row() -> None:
    """A diff-SAE and a shared-dictionary SAE with the true directions find every feature."""
    step = (TRUTH.intervened - TRUTH.reference)[TRUTH.changed]
    alive = np.ones(len(step), dtype=bool)
    assert mean_max_cosine((step,), TRUTH, "difference", alive) == pytest.approx(1)
    features = pd.DataFrame({"label": "undetermined", "n_tokens": [5] * len(step)})
    scores = score_table(features, (step,), TRUTH, "difference")
    assert set(scores["labelers"]) == {"rule", "beta_ratio"}
    one_row = TRUTH.reference + TRUTH.intervened * TRUTH.is_kind("new").unsqueeze(1)
    features = pd.DataFrame({"label": "undetermined", "n_tokens": [5] * len(one_row)})
    assert score_table(features, (one_row,), TRUTH, "pooled")["mcc"] > 0.95


def test_a_labeler_that_ranks_nothing_has_no_average_precision() -> None:
    truth: PlantedTruth = TRUTH
    labeling = Labeling(tuple(truth.kinds), {})
    true = [truth.true_labels(feature) for feature in range(20)]
    scores = score_labels(labeling, list(range(20)), truth, np.ones(20, dtype=bool), true)
    assert scores["new"]["f1"] == 1 and scores["new"]["average_precision"] is None


# --- false labels of change -------------------------------------------------------------------------------------------


def scored(labels: list[str], decoder: tuple[Tensor, Tensor], truth: PlantedTruth) -> dict[str, Any]:
    """The scores of the rule with these labels."""
    return score_table(table(labels, decoder), decoder, truth, "paired")["labelers"]["rule"]


def test_every_label_of_a_change_counts() -> None:
    """Each kind once on a shared feature, all false; each on a feature of its kind, none false; `shared` is no claim of a change."""
    shared = sorted(TRUTH.features_of("shared"))
    labels = list(TRUTH.kinds)
    assert scored(labels, (TRUTH.reference, TRUTH.intervened), TRUTH)["false_changes"] == 0
    wrong = ["new", "lost", "rotated", "rescaled", "reweighted", "replaced"]
    for feature, label in zip(shared, wrong, strict=False):
        labels[feature] = label
    labels[min(TRUTH.features_of("new"))] = "shared"
    rule = scored(labels, (TRUTH.reference, TRUTH.intervened), TRUTH)
    assert rule["false_by_label"] == dict.fromkeys(wrong, 1)
    assert (rule["false_changes"], rule["changes"]) == (6, 6 + 12 - 1)
    assert (rule["false"], rule["claimed"]) == (2, 2 + 6 - 1)


def test_what_is_true_otherwise_counts_neither_for_nor_against() -> None:
    """Of a replaced feature, new and lost are true of its two directions, but do not find it; `replaced` does."""
    truth = PlantedPair(0, counts={"shared": 4, "replaced": 2, "new": 2, "lost": 2}).truth
    replaced = sorted(truth.features_of("replaced"))
    nothing = torch.zeros_like(truth.reference[replaced])
    decoder = (
        torch.cat([truth.reference, truth.reference[replaced], nothing]),
        torch.cat([truth.intervened, nothing, truth.intervened[replaced]]),
    )
    kinds = ["undetermined" if kind == "replaced" else kind for kind in truth.kinds]
    one = scored([*kinds, *["lost"] * 2, *["new"] * 2], decoder, truth)
    assert one["false_changes"] == one["false"] == 0 and one["mean_f1"] == 1
    assert one["kinds"]["new"]["average_precision"] == one["kinds"]["lost"]["average_precision"] == 1
    assert one["kinds"]["replaced"]["f1"] == 0
    other = scored([*kinds, *["replaced"] * 4], decoder, truth)
    assert other["kinds"]["replaced"] == {
        "count": 4, "precision": 1, "recall": 1, "f1": 1, "average_precision": None,
    }  # fmt: skip
    assert other["found"] == sorted({*replaced, *truth.features_of("new"), *truth.features_of("lost")})


def test_a_label_of_an_offset_is_true_only_in_its_model() -> None:
    """A latent that writes the offset of a topic into the intervened model is new and not lost; of a burst nothing is true."""
    for name, allowed in (("topic_offsets", 0), ("null_bursts", 1), ("low_rank_1", 1)):
        truth = regime_named(name).make(0).truth
        offset = truth.elements[0].directions[:1]
        decoder = torch.zeros_like(offset), offset
        assert scored(["new"], decoder, truth)["false_changes"] == allowed
        assert scored(["lost"], decoder, truth)["false_changes"] == 1
        assert scored(["new"], (offset, torch.zeros_like(offset)), truth)["false_changes"] == 1


def test_rotation_and_rescaling_that_a_feature_shows_are_no_false_labels() -> None:
    """Halves of a split are at 45°; features of a turned or gained space show what happened to it; others show nothing."""
    split = PlantedPair(0, counts={"shared": 4, "split": 2}).truth
    half = split.reference[4:5], split.intervened[4:5]
    assert scored(["rotated"], half, split)["false_changes"] == 0
    assert scored(["rescaled"], half, split)["false_changes"] == 1
    gain = regime_named("class_gain").make(0).truth
    shared = gain.reference[:1], gain.intervened[:1]
    assert scored(["rescaled"], shared, gain)["false_changes"] == 0
    assert scored(["rotated"], shared, gain)["false_changes"] == 1
    unwritten = regime_named("unwritten").make(0).truth
    feature = min(unwritten.features_of("reweighted"))
    half = unwritten.reference[[feature]], unwritten.intervened[[feature]]
    assert [
        scored([label], half, unwritten)["false_changes"] for label in ("reweighted", "rescaled", "lost")
    ] == [0, 0, 1]
