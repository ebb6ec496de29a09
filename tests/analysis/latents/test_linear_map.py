"""Labels of models that share no space: rotating one model's space and mapping it back changes nothing."""

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.labels.feature_table import Features, make_features
from analysis.latents.dictionary_view import PairedView, view_of
from analysis.latents.geometry import Geometry
from crosscoder.activations.batch import split_models
from crosscoder.activations.linear_map import LinearMap
from crosscoder.config import AnalysisConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.planted import SMALL, PlantedPair
from crosscoder.planted.directions import random_rotation

from ..readers import MemoryReader, collect

D = 48
EQUAL = (
    "nu_error", "nu_error_low", "nu_error_high", "nu_reconstruction", "nu_reconstruction_high", "relative_norm",
    "decoder_cosine", "twin_cosine",
)  # fmt: skip


def pair_and_values() -> tuple[Crosscoder, Tensor]:
    """A dictionary that misses a shared feature in the reference, and tokens."""
    pair = PlantedPair(counts=SMALL)
    dictionary = pair.dictionary().double()
    shared = pair.truth.kinds.index("shared")
    with torch.no_grad():
        dictionary.W_dec[shared, :D] = 0
    return dictionary, pair.sample(6000).double()


def rotated(dictionary: Crosscoder, values: Tensor, turn: Tensor) -> tuple[Crosscoder, Tensor]:
    """The same with the intervened model's space rotated."""

    def of(rows: Tensor) -> Tensor:
        reference, intervened = split_models(rows, (D, D))
        return torch.cat([reference, intervened @ turn], dim=-1)

    other = Crosscoder(dictionary.config).double()
    other.load_state_dict(dictionary.state_dict())
    with torch.no_grad():
        for parameter in (other.W_dec, other.b_dec, other.mean):
            parameter.copy_(of(parameter[None] if parameter.ndim == 1 else parameter).view_as(parameter))
        other.W_enc.copy_(of(other.W_enc.T).T)
    return other.eval(), of(values)


def linear_map(turn: Tensor, values: Tensor, explained: tuple[float, float] = (1.0, 1.0)) -> LinearMap:
    means = split_models(values.mean(dim=0)[None], (D, D))
    return LinearMap(turn.T, turn, (means[0][0], means[1][0]), explained)


def features_of(dictionary: Crosscoder, values: Tensor, map_between: LinearMap | None) -> Features:
    view = view_of(dictionary, (D, D), "paired", map_between)
    config = AnalysisConfig(bootstrap_samples=50, bootstrap_blocks=16)
    return make_features(view, collect(view, MemoryReader(values, (D, D))), config, seed=0)


@pytest.fixture(scope="module")
def turn() -> Tensor:
    return random_rotation(D, torch.Generator().manual_seed(4)).double()


def test_rotating_one_space_changes_no_label_and_no_number(turn: Tensor) -> None:
    """Except for rotated features: an inexact map looks the same as a rotation, so no change is claimed."""
    dictionary, values = pair_and_values()
    straight = features_of(dictionary, values, None)
    moved, moved_values = rotated(dictionary, values, turn)
    mapped = features_of(moved, moved_values, linear_map(turn, moved_values))
    assert {"new", "lost", "rotated", "shared"} <= set(straight.labels)
    assert mapped.labels == tuple(
        "undetermined" if label == "rotated" else label for label in straight.labels
    )
    for name in EQUAL:
        np.testing.assert_allclose(mapped.columns[name], straight.columns[name], atol=1e-5, err_msg=name)


def test_without_the_map_the_missed_feature_seems_new(turn: Tensor) -> None:
    """The positive control: along a direction without meaning in the other model, latent scaling finds no concept there."""
    dictionary, values = pair_and_values()
    moved, moved_values = rotated(dictionary, values, turn)
    missed = PlantedPair(counts=SMALL).truth.kinds.index("shared")
    blind = features_of(moved, moved_values, None)
    seeing = features_of(moved, moved_values, linear_map(turn, moved_values))
    assert blind.labels[missed] == "new"
    assert seeing.labels[missed] == "undetermined"
    assert blind.columns["nu_error"][missed] == pytest.approx(0, abs=0.2)
    assert seeing.columns["nu_error"][missed] > 0.8


def test_exchanging_the_models_exchanges_new_and_lost(turn: Tensor) -> None:
    dictionary, values = pair_and_values()
    moved, moved_values = rotated(dictionary, values, turn)
    map_between = linear_map(turn, moved_values)
    straight = features_of(moved, moved_values, map_between)

    def swap(rows: Tensor) -> Tensor:
        return torch.cat(split_models(rows, (D, D))[::-1], dim=-1)

    other = Crosscoder(moved.config).double()
    other.load_state_dict(moved.state_dict())
    with torch.no_grad():
        for parameter in (other.W_dec, other.b_dec, other.mean):
            parameter.copy_(swap(parameter[None] if parameter.ndim == 1 else parameter).view_as(parameter))
        other.W_enc.copy_(swap(moved.W_enc.T).T)
        other.scale.copy_(moved.scale.flip(0))
        other.score_scale.copy_(moved.score_scale.flip(0))
    back = LinearMap(
        map_between.maps[1],
        map_between.maps[0],
        (map_between.means[1], map_between.means[0]),
        map_between.explained_variance,
    )
    swapped = features_of(other.eval(), swap(moved_values), back)
    exchanged = {"new": "lost", "lost": "new"}
    assert [exchanged.get(label, label) for label in swapped.labels] == list(straight.labels)
    np.testing.assert_allclose(swapped.columns["unmapped_share"], straight.columns["unmapped_share"])


def test_new_and_lost_latents_explain_what_the_map_does_not(turn: Tensor) -> None:
    """About half of it: the map also brings the other model's new or lost features into each model. Shared features are mapped."""
    pair = PlantedPair(counts={"shared": 8, "new": 3, "lost": 3})
    moved, values = rotated(pair.dictionary().double(), pair.sample(6000).double(), turn)
    map_between = linear_map(turn, values, explained=(0.8, 0.6))
    columns, kinds = features_of(moved, values, map_between).columns, np.array(pair.truth.kinds)
    share, effect = columns["unmapped_share"], columns["effect"]
    assert abs(share[kinds == "shared"]).max() < 0.02
    for kind, explained in zip(("lost", "new"), map_between.explained_variance, strict=True):
        assert share[kinds == kind].min() > 0.02
        assert share[kinds == kind].sum() == pytest.approx(0.4, abs=0.1)
        # Tokens have similar lengths here, so weighting them changes little.
        of_variance = (1 - explained) * share[kinds == kind] / columns["density"][kinds == kind]
        assert effect[kinds == kind] == pytest.approx(of_variance, rel=0.3)


def test_cosines_and_twins_of_other_widths_need_a_linear_map() -> None:
    pair = PlantedPair(counts={"shared": 8, "new": 3, "lost": 3}, intervened_d_model=64)
    dictionary = pair.dictionary()
    assert bool(Geometry.of(dictionary).cosine().isnan().all())
    fitted = LinearMap.fit(pair.sample(20_000), pair.d_models)
    assert fitted is not None
    cosine = Geometry.of(dictionary, fitted).cosine()
    assert float(cosine[torch.tensor([kind == "shared" for kind in pair.truth.kinds])].min()) > 0.9


def test_a_map_that_does_not_preserve_directions_is_discarded(turn: Tensor) -> None:
    """With it, latent scaling would find no concept along any direction, and every stronger latent would seem new or lost."""
    dictionary, values = pair_and_values()
    moved, moved_values = rotated(dictionary, values, turn)
    other = random_rotation(D, torch.Generator().manual_seed(5)).double()
    view = PairedView(moved, (D, D), linear_map(other, moved_values))
    assert abs(view.agreement) < 0.3 and view.linear_map is None
    wide = PlantedPair(counts={"shared": 8, "new": 3, "lost": 3}, intervened_d_model=64)
    means = (torch.zeros(D), torch.zeros(64))
    blind = LinearMap(torch.randn(64, D), torch.randn(D, 64), means, (0.9, 0.9))
    view = view_of(wide.dictionary(), wide.d_models, "paired", blind)
    config = AnalysisConfig(bootstrap_samples=20, bootstrap_blocks=16)
    statistics = collect(view, MemoryReader(wide.sample(2000), wide.d_models))
    assert set(make_features(view, statistics, config, seed=0).labels) == {"undetermined"}


def test_nu_is_corrected_for_an_inexact_map(turn: Tensor) -> None:
    """A map that takes every direction over at a cosine finds that much less of a concept; ν is the same as with the exact map."""
    dictionary, values = pair_and_values()
    moved, moved_values = rotated(dictionary, values, turn)
    exact = features_of(moved, moved_values, linear_map(turn, moved_values))
    generator = torch.Generator().manual_seed(6)
    skew = torch.randn(D, D, generator=generator, dtype=torch.float64)
    inexact = turn @ torch.linalg.matrix_exp(0.9 * (skew - skew.T) / (2 * D) ** 0.5)
    view = PairedView(moved, (D, D), linear_map(inexact, moved_values))
    assert 0.4 < view.agreement < 0.9
    found = features_of(moved, moved_values, linear_map(inexact, moved_values))
    missed = PlantedPair(counts=SMALL).truth.kinds.index("shared")
    assert found.columns["nu_error"][missed] == pytest.approx(exact.columns["nu_error"][missed], rel=0.4)
    assert found.labels[missed] == "undetermined"
