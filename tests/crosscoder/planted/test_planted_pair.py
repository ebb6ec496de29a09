"""Planted pairs have the properties they state."""

import math
from functools import cache

import pytest
import torch
from torch.nn.functional import cosine_similarity

from crosscoder.dictionary.metrics import ReconstructionMeter
from crosscoder.dictionary.sparse_latents import SparseLatents
from crosscoder.planted import SMALL, PlantedPair
from crosscoder.planted.directions import random_rotation, random_stretch, with_cosines
from crosscoder.planted.regimes import REGIMES, regime_named

N = 10_000
KINDS = {"shared": 8, "reweighted": 4, "split": 4, "merged": 4, "new": 3, "lost": 3}


@cache
def pair_of(regime: str) -> PlantedPair:
    """Return the first pair of a regime."""
    return regime_named(regime).make(0)


def sides(pair: PlantedPair, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    reference, intervened = values.split(pair.d_models, dim=1)
    return reference, intervened


def test_the_standard_pair_has_not_changed() -> None:
    """Results of earlier runs stay comparable: the first tokens of seed 0, up to differences between machines."""
    pair = PlantedPair(0)
    assert pair.true_l0 == pytest.approx(4.11315, abs=1e-4)
    assert pair.truth.kinds[63:66] == ("shared", "rotated", "rotated")
    assert pair.sample(1000, seed=1).norm(dim=1).mean().item() == pytest.approx(2.65811, abs=1e-3)


@pytest.mark.parametrize("name", REGIMES)
def test_every_regime_draws_the_same_bits_again(name: str) -> None:
    one, other = pair_of(name), regime_named(name).make(0)
    values = one.sample(300, seed=1)
    assert torch.equal(values, other.sample(300, seed=1))
    assert not torch.equal(values, one.sample(300, seed=2))
    assert values.isfinite().all() and values.shape == (300, sum(one.d_models))


def test_another_seed_is_another_pair() -> None:
    one, other = PlantedPair(0, counts=SMALL), PlantedPair(1, counts=SMALL)
    assert not torch.allclose(one.truth.reference, other.truth.reference, atol=0.01)
    assert not torch.allclose(one.truth.rates, other.truth.rates, atol=0.01)


@pytest.mark.parametrize("name", REGIMES)
def test_features_fire_as_often_as_the_truth_says(name: str) -> None:
    """In each model, within six standard errors; the true L0 is the sum of the rates."""
    pair = pair_of(name)
    share = pair.firing.document_share
    in_models = pair.firing.magnitudes(N, torch.Generator().manual_seed(1))
    for model, magnitudes in enumerate(in_models):
        present = (pair.truth.reference, pair.truth.intervened)[model].any(dim=1)
        measured = (magnitudes > 0).float().mean(dim=0)[present]
        expected = pair.truth.model_rates[model][present]
        # Tokens of one document share whether a feature lives there.
        within = (expected / share[present]).square() * share[present] * (1 - share[present])
        variance = expected + (pair.document_tokens - 1) * within
        assert ((measured - expected).abs() <= 6 * (variance / N).sqrt() + 1e-9).all()
        assert (pair.truth.model_rates[model][~present] == 0).all()
    assert (pair.magnitudes(N) > 0).sum(dim=1).float().mean() == pytest.approx(pair.true_l0, rel=0.05)


def test_angles_and_factors() -> None:
    truth = PlantedPair(1, angle=35.0, factor=0.6).truth
    assert truth.angles[truth.is_kind("rotated")] == pytest.approx(35, abs=1e-3)
    assert truth.angles[truth.is_kind("shared") | truth.is_kind("rescaled")] == pytest.approx(0, abs=0.05)
    assert truth.angles[truth.is_kind("new") | truth.is_kind("lost")].isnan().all()
    assert truth.factors[truth.is_kind("rescaled")] == pytest.approx(0.6, abs=1e-5)
    assert truth.factors[truth.is_kind("new")].isinf().all()
    assert (truth.factors[truth.is_kind("lost")] == 0).all()
    for rows, absent in ((truth.reference, "new"), (truth.intervened, "lost")):
        assert torch.equal(rows.any(dim=1), ~truth.is_kind(absent))


def test_rare_features_are_rare() -> None:
    truth = pair_of("rare").truth
    changed = truth.is_kind("new") | truth.is_kind("lost")
    assert truth.rates[changed] == pytest.approx(0.003)
    assert (truth.rates[~changed] >= 0.01).all()


def test_children_fire_only_under_their_parents() -> None:
    pair = pair_of("hierarchical")
    fires = pair.magnitudes(N, seed=5) > 0
    children = (pair.firing.parent >= 0).nonzero().flatten()
    parents = pair.firing.parent[children]
    assert fires[:, children].any(dim=0).all()
    assert not (fires[:, children] & ~fires[:, parents]).any()
    assert set(parents.tolist()) <= pair.truth.features_of("shared") - set(children.tolist())
    assert pair.truth.features_of("new") | pair.truth.features_of("lost") <= set(children.tolist())
    assert (pair.truth.rates[children] <= pair.truth.rates[parents] / 2 + 1e-6).all()


def test_groups_fire_together_and_lie_near() -> None:
    pair = pair_of("entangled")
    fires = (pair.magnitudes(N, seed=5) > 0).float()
    groups = pair.firing.groups
    assert groups is not None
    together = torch.corrcoef(fires.T)
    same = groups.member[:, None] == groups.member
    diagonal = torch.eye(len(same), dtype=torch.bool)
    assert together[same & ~diagonal].mean() > 0.15
    assert together[~same].abs().mean() < 0.01
    rows = pair.truth.reference + pair.truth.intervened * pair.truth.is_kind("new").unsqueeze(1)
    within = (rows @ rows.T)[same & ~diagonal]
    assert within.min() >= 0.1 and 0.4 < within.max() <= 0.5


def test_tokens_of_a_document_can_be_correlated() -> None:
    """If tokens share part of the factor, counts of a group vary more between documents."""
    spread = []
    for share in (0.0, 0.8):
        pair = PlantedPair(0, entangled=True, document_share=share)
        counts = (pair.magnitudes(64 * 256) > 0).float().unflatten(0, (64, 256)).mean(dim=1)
        spread.append(counts.var(dim=0).mean())
        assert (counts.mean(dim=0) - pair.truth.rates).abs().mean() < 0.02
    assert spread[1] > 3 * spread[0]


@pytest.mark.parametrize("kind", ["split", "merged"])
def test_siblings_share_one_direction_and_no_token(kind: str) -> None:
    pair = PlantedPair(0, counts={"shared": 8, kind: 6})
    first, second = pair.truth.is_kind(kind).nonzero().flatten().unflatten(0, (-1, 2)).T
    together, apart = pair.truth.reference, pair.truth.intervened
    if kind == "merged":
        together, apart = apart, together
    assert torch.equal(together[first], together[second])
    assert cosine_similarity(apart[first], apart[second]) == pytest.approx(0, abs=1e-5)
    assert cosine_similarity(together[first], apart[first]) == pytest.approx(math.sqrt(0.5), abs=1e-5)
    fires = pair.magnitudes(N) > 0
    assert not (fires[:, first] & fires[:, second]).any()
    assert fires[:, first].any() and fires[:, second].any()


def test_reweighted_features_keep_their_direction() -> None:
    pair = PlantedPair(0, counts={"shared": 8, "reweighted": 4})
    often, seldom, wide, narrow = pair.truth.is_kind("reweighted").nonzero().flatten().tolist()
    assert torch.equal(pair.truth.reference, pair.truth.intervened)
    ratio = pair.truth.model_rates[1] / pair.truth.model_rates[0]
    assert ratio[[often, seldom, wide, narrow]] == pytest.approx([3, 1 / 3, 1, 1])
    reference, intervened = pair.firing.magnitudes(N, torch.Generator().manual_seed(0))
    assert ((reference[:, often] > 0) <= (intervened[:, often] > 0)).all()
    for feature, wider, other in ((wide, intervened, reference), (narrow, reference, intervened)):
        on = reference[:, feature] > 0
        assert wider[on, feature].std() > 1.5 * other[on, feature].std()


@pytest.mark.parametrize(
    "pair",
    [
        PlantedPair(0),
        PlantedPair(0, counts=KINDS),
        PlantedPair(0, counts={"shared": 8, "new": 3, "lost": 3}, mapping="affine"),
        *(pair_of(name) for name in REGIMES if name != "null_drift"),
    ],
)
def test_swapping_exchanges_the_models(pair: PlantedPair) -> None:
    swapped = pair.swapped()
    reference, intervened = sides(pair, pair.clean(200))
    other_reference, other_intervened = sides(swapped, swapped.clean(200))
    assert torch.allclose(reference, other_intervened, atol=1e-5)
    assert torch.allclose(intervened, other_reference, atol=1e-5)
    for kind, exchanged in (("new", "lost"), ("split", "merged"), ("shared", "shared")):
        assert pair.truth.features_of(kind) == swapped.truth.features_of(exchanged)
    assert swapped.swapped().truth.kinds == pair.truth.kinds
    assert [element.model for element in swapped.truth.elements] == [0] * len(pair.truth.elements)
    exchange = {"new": "lost", "lost": "new", "split": "merged", "merged": "split"}
    for feature in range(0, len(pair.truth.kinds), 7):
        labels = {exchange.get(label, label) for label in pair.truth.true_labels(feature)}
        assert swapped.truth.true_labels(feature) == labels


def test_maps_of_the_whole_space() -> None:
    """A rotation preserves norms, an affine map does not; both apply to the true directions as well as to tokens."""
    generator = torch.Generator().manual_seed(0)
    rotation, stretch = random_rotation(12, generator), random_stretch(12, 2.0, generator)
    assert torch.allclose(rotation @ rotation.T, torch.eye(12), atol=1e-5)
    sizes = torch.linalg.svdvals(stretch)
    assert sizes.max() == pytest.approx(2, abs=1e-3) and sizes.min() == pytest.approx(0.5, abs=1e-3)
    for name in ("rotation", "affine"):
        pair = pair_of(name)
        plain = PlantedPair(0, counts=pair.counts)
        space = pair.maps[1]
        assert space is not None and not pair.truth.comparable
        expected = sides(plain, plain.sample(100))[1] @ space.matrix + space.offset
        assert torch.allclose(sides(pair, pair.sample(100))[1], expected, atol=1e-4)
        assert torch.equal(sides(pair, pair.sample(100))[0], sides(plain, plain.sample(100))[0])


def test_cosines_are_as_requested() -> None:
    rows = with_cosines(torch.randn(5, 12, generator=torch.Generator().manual_seed(0)), 0.1, 0.5)
    cosines = (rows @ rows.T)[~torch.eye(5, dtype=torch.bool)]
    assert torch.allclose(rows.norm(dim=1), torch.ones(5), atol=1e-5)
    assert cosines.min() >= 0.1 and cosines.max() <= 0.5


def test_a_few_tokens_have_large_norms() -> None:
    pair = pair_of("heavy_tailed")
    length = pair.sample(N).norm(dim=1) / PlantedPair(0).sample(N).norm(dim=1)
    heavy = length > 1.01
    assert heavy.float().mean() == pytest.approx(0.01, abs=0.003)
    assert (length[heavy] >= 5 - 1e-3).all() and (length[heavy] <= 10 + 1e-3).all()
    assert length[~heavy] == pytest.approx(1, abs=1e-5)


def test_identity_has_no_difference_and_noise_has_nothing_else() -> None:
    identity, noise = PlantedPair(0).null("identity"), PlantedPair(0).null("noise")
    reference, intervened = sides(identity, identity.sample(500))
    assert torch.equal(reference, intervened)
    assert identity.noise_ceiling()["difference"] is None
    reference, intervened = sides(noise, noise.sample(N))
    assert (intervened - reference).var() == pytest.approx(2 * noise.noise**2, rel=0.02)
    assert noise.noise_ceiling()["difference"] == pytest.approx(0, abs=1e-3)
    assert not noise.truth.changed.any() and noise.truth.l0("difference") == 0


def test_drift_is_as_large_as_the_real_change_and_rotates_no_feature_in_particular() -> None:
    pair = PlantedPair(0)
    drift = pair.null("drift")
    sizes = []
    for one in (pair, drift):
        reference, intervened = sides(one, one.sample(N))
        sizes.append(float((intervened - reference).square().sum(dim=1).mean()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    assert set(drift.truth.kinds) == {"shared"}
    # Every feature is rotated by about the same angle; none vanishes.
    assert drift.truth.angles.std() < 0.2 * drift.truth.angles.mean()
    assert drift.truth.factors.min() > 0.8 and drift.truth.factors.max() < 1.25
    # Half of the drift is noise: the best linear prediction explains the other half, apart from the models' noise.
    assert drift.noise_ceiling()["difference"] == pytest.approx(0.5, abs=0.08)
    with pytest.raises(ValueError, match="swap the pair"):
        drift.swapped()


def test_the_noise_ceiling_is_what_a_perfect_dictionary_reaches() -> None:
    pair = PlantedPair(counts=SMALL)
    values, dictionary, ceiling = pair.sample(5000, seed=7), pair.dictionary(), pair.noise_ceiling()
    with torch.no_grad():
        latents = dictionary.encode(values)
        rebuilt = dictionary.denormalize(dictionary.rebuild(latents))
    meter = ReconstructionMeter(pair.d_models, latents.shape[1])
    meter.update(values, rebuilt, SparseLatents.from_dense(latents))
    assert meter.difference is not None
    assert meter.difference.result() == pytest.approx(ceiling["difference"], abs=0.01)
    for part, name in zip(meter.per_model, ("reference", "intervened"), strict=True):
        assert part.result() == pytest.approx(ceiling[name], abs=0.005)


def test_true_l0_depends_on_what_is_read() -> None:
    truth = PlantedPair(0).truth
    changed = ~truth.is_kind("shared")
    assert truth.l0("difference") == pytest.approx(float(truth.rates[changed].sum()))
    assert truth.l0("pooled") == pytest.approx(
        float(truth.rates.sum()) - float(truth.rates[truth.is_kind("new") | truth.is_kind("lost")].sum()) / 2
    )


def test_matches_for_every_way_of_reading() -> None:
    """The planted rows match their own features; random rows match none."""
    truth = PlantedPair(0).truth
    everything, changed = list(range(96)), truth.changed.nonzero().flatten().tolist()
    assert truth.matches((truth.reference, truth.intervened)) == everything
    assert truth.matches((truth.intervened[changed] - truth.reference[changed],), "difference") == changed
    present = truth.intervened + truth.reference * truth.is_kind("lost").unsqueeze(1)
    pooled = truth.matches((present,), "pooled")
    assert pooled == everything
    random = torch.randn(50, 48, generator=torch.Generator().manual_seed(0))
    assert truth.matches((random, random.flip(0))) == [-1] * 50


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"counts": {"share": 8}}, "unknown kinds"),
        ({"counts": {"shared": 8, "split": 3}}, "come in pairs"),
        ({"mapping": "rotation"}, "a common space"),
        ({"intervened_d_model": 64}, "a common space"),
    ],
)
def test_impossible_pairs_are_refused(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PlantedPair(**settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of importing sae-lens
def test_firing_follows_the_laws_of_saelens() -> None:
    """Groups and hierarchy: the same joint rates as SAELens' generators, given the same correlations and parents."""
    from sae_lens.synthetic import ActivationGenerator, HierarchyNode, hierarchy_modifier

    pair = pair_of("entangled")
    groups = pair.firing.groups
    assert groups is not None
    correlation = groups.correlation * (groups.member[:, None] == groups.member).float()
    correlation.fill_diagonal_(1)
    torch.manual_seed(0)
    theirs = ActivationGenerator(96, pair.truth.rates, correlation_matrix=correlation).sample(N) > 0
    ours = pair.magnitudes(N) > 0
    assert_same_joint_rates(ours, theirs)

    pair = pair_of("hierarchical")
    parent = pair.firing.parent
    roots = [
        HierarchyNode(index, children=[HierarchyNode(int(child)) for child in (parent == index).nonzero()])
        for index in range(96)
        if parent[index] < 0
    ]
    alone = (pair.firing.high - pair.firing.low)[0]
    theirs = ActivationGenerator(96, alone, modify_activations=hierarchy_modifier(roots)).sample(N) > 0
    assert_same_joint_rates(pair.magnitudes(N) > 0, theirs)


def assert_same_joint_rates(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Compare how often each pair of features fires together, within five standard errors."""
    one, other = (fires.float().T @ fires.float() / N for fires in (ours, theirs))
    assert ((one - other).abs() <= 5 * (2 * torch.maximum(one, other) / N).sqrt()).all()
