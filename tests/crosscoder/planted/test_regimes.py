"""Each regime holds what its description says, measured on sampled tokens."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis
from scipy.stats import t as student
from torch import Tensor
from torch.nn.functional import cosine_similarity

from crosscoder.planted import PlantedPair
from crosscoder.planted.alterations import (
    BURST_LENGTH,
    BURST_SHARE,
    CLASS_GAIN,
    CLASS_SHARE,
    OFFSET_LENGTH,
    OUTLIER_LENGTH,
    TAIL_FREEDOM,
    TAIL_SCALE,
    TOPICS,
    Alteration,
    Bursts,
    ClassGain,
    HeavyTailedNoise,
    OutlierChannel,
    Rounding,
    TopicOffsets,
)
from crosscoder.planted.feature_plan import CIRCLE_FEATURES, CIRCLE_RATE
from crosscoder.planted.regimes import (
    LOCAL_DOCUMENT,
    LOCAL_SHARE,
    NEAR_COSINES,
    RAREST,
    REGIMES,
    ZIPF_LATENTS,
    ZIPF_RATIO,
)

N = 20_000
NULLS = [name for name in REGIMES if REGIMES[name].is_null]
CHANGES = {"new", "lost", "rotated", "rescaled", "reweighted", "replaced"}


@cache
def pair_of(name: str) -> PlantedPair:
    return REGIMES[name].make(0)


@cache
def tokens_of(name: str) -> tuple[Tensor, Tensor]:
    """Tokens of both models."""
    reference, intervened = pair_of(name).sample(N, seed=1).split(pair_of(name).d_models, dim=1)
    return reference, intervened


def added(name: str) -> Tensor:
    """What the alterations of a regime add to the intervened model: its tokens minus those of the pair without them."""
    pair = pair_of(name)
    plain = PlantedPair(pair.seed, counts=pair.counts)
    return tokens_of(name)[1] - plain.sample(N, seed=1).split(plain.d_models, dim=1)[1]


@pytest.mark.parametrize("name", NULLS)
def test_in_a_null_no_label_of_a_change_is_true(name: str) -> None:
    truth = pair_of(name).truth
    assert set(truth.kinds) == {"shared"}
    # Rounding weakens every feature that is small beside the outlier channel.
    true = {"shared"} | ({"rescaled"} if name == "null_rounding" else set())
    assert all(truth.true_labels(feature) == true for feature in range(len(truth.kinds)))
    assert not any(element.true_of_latents for element in truth.elements)


@pytest.mark.parametrize("name", [name for name in REGIMES if name not in NULLS])
def test_elsewhere_something_changed(name: str) -> None:
    truth = pair_of(name).truth
    assert truth.elements or set(truth.kinds) > {"shared"}
    for feature, kind in enumerate(truth.kinds):
        assert kind in truth.true_labels(feature)


def test_regimes_and_seeds_are_different_pairs() -> None:
    """With seeds of their own, no two regimes share directions or tokens."""
    pairs = [
        REGIMES[name].make(seed) for name, seed in (("standard", 11), ("undercomplete", 12), ("rare", 13))
    ]
    for index, one in enumerate(pairs):
        for other in pairs[:index]:
            same = cosine_similarity(one.truth.reference[0], other.truth.reference[0], dim=0)
            assert same.abs() < 0.9
            tokens = [pair.sample(2000, seed=1).flatten() for pair in (one, other)]
            assert torch.corrcoef(torch.stack(tokens))[0, 1].abs() < 0.02


# --- features ---------------------------------------------------------------------------------------------------------


def test_replaced_features_fire_together_at_right_angles() -> None:
    pair = pair_of("replaced")
    truth = pair.truth
    replaced = truth.is_kind("replaced")
    reference, intervened = pair.firing.magnitudes(N, torch.Generator().manual_seed(1))
    fires = reference[:, replaced] > 0
    assert fires.any(dim=0).all() and torch.equal(fires, intervened[:, replaced] > 0)
    assert truth.angles[replaced] == pytest.approx(90, abs=0.01)
    assert truth.factors[replaced] == pytest.approx(1, abs=1e-5)
    # Every second one has strengths of its own in each model.
    strengths = [
        float(torch.corrcoef(torch.stack([reference[on, feature], intervened[on, feature]]))[0, 1])
        for feature in replaced.nonzero().flatten().tolist()
        for on in (reference[:, feature] > 0,)
    ]
    assert min(strengths[0::2]) > 0.999 and max(map(abs, strengths[1::2])) < 0.2


def test_a_replaced_feature_is_matched_by_one_latent_or_by_two() -> None:
    truth = pair_of("replaced").truth
    feature = min(truth.features_of("replaced"))
    one, other = truth.reference[feature][None], truth.intervened[feature][None]
    nothing = torch.zeros_like(one)
    noise = 0.05 * torch.randn(2, 48, generator=torch.Generator().manual_seed(0))
    for rows in ((one, other), (one, nothing), (nothing, other)):
        assert truth.matches((rows[0] + noise[:1], rows[1] + noise[1:])) == [feature]
    assert truth.true_labels(feature) == {"replaced", "rotated", "new", "lost"}


def test_unwritten_features_are_reweighted_and_not_lost() -> None:
    pair = pair_of("unwritten")
    reference, intervened = pair.firing.magnitudes(N, torch.Generator().manual_seed(1))
    for feature in pair.truth.features_of("reweighted"):
        fires, written = reference[:, feature] > 0, intervened[:, feature] > 0
        share = float(written[fires].float().mean())
        assert share == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(int(fires.sum())))
        assert not written[~fires].any()
        assert torch.equal(intervened[written, feature], reference[written, feature])
        assert pair.truth.true_labels(feature) == {"reweighted", "rescaled"}
        # A latent for the tokens on which only the reference writes it is of this feature.
        row = pair.truth.reference[feature][None]
        assert (
            pair.truth.matches((row, 0.1 * row))
            == pair.truth.matches((row, torch.zeros_like(row)))
            == [feature]
        )


def test_new_and_lost_features_lie_near_a_shared_one() -> None:
    """Measured on the tokens where they fire alone among the changed and their neighbors, too: the direction that they write."""
    truth = pair_of("near").truth
    shared = truth.reference[truth.is_kind("shared")]
    cosines = {}
    for kind, rows in (("new", truth.intervened), ("lost", truth.reference)):
        cosines[kind] = (rows[truth.is_kind(kind)] @ shared.T).amax(dim=1)
        assert rows[truth.is_kind(kind)].norm(dim=1) == pytest.approx(1, abs=1e-5)
        assert cosines[kind].min() >= NEAR_COSINES[0] - 1e-4
    both = torch.cat(list(cosines.values()))
    assert both.min() == pytest.approx(NEAR_COSINES[0], abs=0.05)
    assert both.max() == pytest.approx(NEAR_COSINES[1], abs=1e-4)
    assert cosines["new"].mean() == pytest.approx(float(cosines["lost"].mean()), abs=0.04)


def test_local_features_live_in_few_documents_and_others_in_nearly_all() -> None:
    pair = pair_of("local")
    n_documents = 2000
    fires = (pair.magnitudes(n_documents * LOCAL_DOCUMENT) > 0).unflatten(0, (n_documents, -1)).any(dim=1)
    share = fires.float().mean(dim=0)
    local = pair.firing.document_share < 1
    deviation = math.sqrt(LOCAL_SHARE / n_documents)
    assert share[local] == pytest.approx(LOCAL_SHARE, abs=5 * deviation)
    assert share[~local].min() > 0.3
    assert pair.truth.features_of("new") | pair.truth.features_of("lost") < set(
        local.nonzero().flatten().tolist()
    )
    assert local[pair.truth.is_kind("shared")].float().mean() == 0.25


def test_the_rarest_features() -> None:
    truth = pair_of("rarest").truth
    assert truth.rates[truth.is_kind("new") | truth.is_kind("lost")] == pytest.approx(RAREST)
    assert REGIMES["rarest"].more_tokens > 1


def test_rates_by_the_law_of_zipf() -> None:
    """The rate times the rank is constant, there are twenty features a latent, and changed ones are within the latents' reach."""
    truth = pair_of("zipf").truth
    by_rank = truth.rates.sort(descending=True).values
    ranks = torch.arange(1, len(by_rank) + 1)
    assert len(by_rank) == ZIPF_RATIO * ZIPF_LATENTS
    assert REGIMES["zipf"].n_latents == ZIPF_LATENTS
    assert by_rank * ranks == pytest.approx(by_rank[0].item(), rel=1e-4)
    for kind in ("new", "lost"):
        assert truth.rates[truth.is_kind(kind)].min() >= by_rank[ZIPF_LATENTS - 1]
    assert (truth.rows.norm(dim=1) > 0.99).all()


def test_many_features_are_drawn_block_by_block() -> None:
    """More tokens than a block: none repeats, features fire as often, and tokens are made of them in every block."""
    pair = pair_of("zipf")
    first, second = pair.magnitudes(8192 + 256, seed=3).split(8192)
    assert second.shape == (256, len(pair.truth.kinds)) and not torch.equal(first[:256], second)
    l0 = [(block > 0).sum(dim=1).float().mean().item() for block in (first, second)]
    assert l0 == pytest.approx([pair.true_l0] * 2, rel=0.1)
    assert torch.allclose(pair.clean(8192 + 256, seed=3)[8192:], second @ pair.truth.rows, atol=1e-4)


def test_circles_are_turned_within_their_planes() -> None:
    pair = pair_of("circles")
    truth = pair.truth
    rotated = truth.is_kind("rotated").nonzero().flatten()
    assert truth.angles[rotated] == pytest.approx(60, abs=0.01)
    fires = pair.magnitudes(N) > 0
    for members, element in zip(rotated.split(CIRCLE_FEATURES), truth.elements, strict=True):
        assert element.kind == "turned_plane" and element.dimension == 2
        for rows in (truth.reference[members], truth.intervened[members]):
            assert torch.linalg.svdvals(rows)[2:].max() < 1e-5
            assert element.overlap(torch.linalg.svd(rows).Vh[:2]) == pytest.approx(1, abs=1e-5)
            neighbors = cosine_similarity(rows, rows.roll(1, dims=0))
            assert neighbors == pytest.approx(math.cos(2 * math.pi / CIRCLE_FEATURES), abs=1e-5)
        together = fires[:, members].sum(dim=1)
        assert together.max() == 1
        assert together.float().mean() == pytest.approx(CIRCLE_RATE, abs=0.015)


# --- elements of change -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 4])
def test_a_low_rank_map(rank: int) -> None:
    """The difference of the models is a function of the reference of this rank, apart from the noise, and lies in the element."""
    name = f"low_rank_{rank}"
    pair = pair_of(name)
    (element,) = pair.truth.elements
    assert element.kind == "low_rank_map" and element.dimension == rank and element.share == 1
    reference, intervened = pair.clean(N, seed=1).split(pair.d_models, dim=1)
    sizes = torch.linalg.svdvals(intervened - reference)
    assert sizes[:rank].min() > 1e3 * sizes[rank:].max()
    written = torch.linalg.svd(intervened - reference, full_matrices=False).Vh[:rank]
    assert element.overlap(written) == pytest.approx(1, abs=1e-4)
    assert element.reads is not None
    unseen = reference - reference @ element.reads.T @ element.reads
    assert (reference - unseen).norm() > 0
    read = torch.linalg.lstsq(reference @ element.reads.T, intervened - reference).solution
    assert torch.linalg.svdvals(read) == pytest.approx(2 / math.sqrt(rank), rel=1e-3)
    change = (intervened - reference).square().sum(dim=1).mean()
    assert float(change) == pytest.approx(0.4, abs=0.15)


def test_bursts_have_their_share_length_and_dimensions_and_no_direction() -> None:
    (element,) = pair_of("null_bursts").truth.elements
    assert element.kind == "subspace" and element.dimension == 8 and element.share == BURST_SHARE
    bursts = added("null_bursts")
    on = bursts.norm(dim=1) > 0.1
    assert on.float().mean() == pytest.approx(BURST_SHARE, abs=5 * math.sqrt(BURST_SHARE / N))
    assert bursts[on].norm(dim=1) == pytest.approx(BURST_LENGTH, abs=1e-3)
    sizes = torch.linalg.svdvals(bursts[on])
    assert sizes[8:].max() < 1e-3 and sizes[7] > 0.7 * sizes[0]
    assert element.overlap(torch.linalg.svd(bursts[on]).Vh[:8]) == pytest.approx(1, abs=1e-4)
    cosines = (bursts[on] @ bursts[on].T / BURST_LENGTH**2)[~torch.eye(int(on.sum()), dtype=torch.bool)]
    assert cosines.mean().abs() < 0.02


def test_heavy_tails_in_few_dimensions() -> None:
    (element,) = pair_of("null_heavy_tails").truth.elements
    assert element.kind == "noise" and 4 <= element.dimension <= 8
    within = added("null_heavy_tails") @ element.directions.T
    rest = added("null_heavy_tails") - within @ element.directions
    assert rest.abs().max() < 1e-3
    assert kurtosis(within.flatten().numpy()) > 20
    for share in (0.5, 0.99):
        # torch takes no quantile of so many numbers.
        quantile = np.quantile(within.abs().numpy(), share) / TAIL_SCALE
        assert quantile == pytest.approx(student.ppf((1 + share) / 2, TAIL_FREEDOM), rel=0.05)


def test_rounding_with_an_outlier_channel() -> None:
    """Fifteen levels a token; one channel is large in both models; each feature is held at about two thirds."""
    pair = pair_of("null_rounding")
    reference, intervened = tokens_of("null_rounding")
    steps = intervened[:500] / intervened[:500].abs().amax(dim=1, keepdim=True) * 7
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    for side in (reference, intervened):
        means = side.mean(dim=0).abs()
        assert means.max() == pytest.approx(OUTLIER_LENGTH, abs=1)
        assert means.sort().values[-2] < 1
    magnitudes = pair.magnitudes(N, seed=1)
    centered = magnitudes - magnitudes.mean(dim=0)
    held = [
        (torch.linalg.lstsq(centered, side - side.mean(dim=0)).solution * pair.truth.reference).sum(dim=1)
        for side in (reference, intervened)
    ]
    assert float((held[1] / held[0]).median()) == pytest.approx(0.67, abs=0.05)
    (element,) = pair.truth.elements
    assert element.dimension == 0


def test_topics_have_constant_offsets_by_document() -> None:
    pair = pair_of("topic_offsets")
    offsets = added("topic_offsets")[: N // 256 * 256].unflatten(0, (-1, 256))
    assert offsets.std(dim=1).max() < 1e-4
    topics = offsets[:, 0].mul(1000).round().unique(dim=0)
    assert len(topics) == TOPICS
    elements = pair.truth.elements
    assert [element.kind for element in elements] == ["offset"] * TOPICS
    for offset in offsets[:, 0]:
        best = max(float((element.directions[0] * offset).sum()) for element in elements)
        assert best == pytest.approx(OFFSET_LENGTH, abs=1e-3)


def test_a_gain_on_a_class_of_tokens() -> None:
    pair = pair_of("class_gain")
    plain = PlantedPair(0, counts=pair.counts)
    before = plain.sample(N, seed=1).split(48, dim=1)
    reference, intervened = tokens_of("class_gain")
    gain = (intervened * before[1]).sum(dim=1) / before[1].square().sum(dim=1)
    in_class = gain > 1.25
    assert torch.equal(reference, before[0])
    assert in_class.float().mean() == pytest.approx(CLASS_SHARE, abs=0.015)
    assert gain[in_class] == pytest.approx(CLASS_GAIN, abs=1e-3) and gain[~in_class] == pytest.approx(
        1, abs=1e-3
    )
    shared, new = min(pair.truth.features_of("shared")), min(pair.truth.features_of("new"))
    assert pair.truth.true_labels(shared) == {"shared", "rescaled"}
    assert pair.truth.true_labels(new) == {"new", "rescaled"}


def test_a_perfect_reader_of_elements_is_aligned_and_a_random_one_is_not() -> None:
    """A latent that writes an offset into the intervened model alone; the same into both; a random one; swapped models."""
    truth = pair_of("topic_offsets").truth
    offset = truth.elements[2].directions
    nothing, random = torch.zeros_like(offset), torch.randn(1, 48, generator=torch.Generator().manual_seed(0))
    alone = truth.alignments((torch.cat([nothing, offset, random]), torch.cat([offset, offset, random])))
    assert alone.shape == (3, TOPICS)
    assert alone[0, 2] == pytest.approx(1, abs=1e-5)
    assert alone[1, 2] == pytest.approx(math.sqrt(0.5), abs=1e-5)
    assert alone[2].max() < 0.5
    swapped = truth.swapped()
    assert swapped.alignments((offset, nothing))[0, 2] == pytest.approx(1, abs=1e-5)
    assert truth.elements[2].true_of_latents == {"new"} and swapped.elements[2].true_of_latents == {"lost"}
    assert truth.alignments((offset,), "difference")[0, 2] == pytest.approx(1, abs=1e-5)
    assert PlantedPair(0).truth.alignments((random, random)).shape == (1, 0)


def test_overlap_of_subspaces() -> None:
    (element,) = pair_of("low_rank_4").truth.elements
    assert element.overlap(element.directions) == pytest.approx(1, abs=1e-5)
    assert element.overlap(2 * element.directions[[1, 0, 2, 3]]) == pytest.approx(1, abs=1e-5)
    assert element.overlap(element.directions[:3]) == pytest.approx(3 / 4, abs=1e-5)
    others = torch.linalg.svd(element.directions).Vh[4:]
    assert element.overlap(others[:4]) == pytest.approx(0, abs=1e-5)


def test_alterations_are_noise_or_belong_to_the_best_reconstruction() -> None:
    """The ceiling of the difference: offsets and gains can be known, bursts cannot."""
    plain = PlantedPair(0, counts={"shared": 96})
    known = plain.altered(TopicOffsets).noise_ceiling(4096)["difference"]
    unknown = plain.altered(Bursts).noise_ceiling(4096)["difference"]
    assert known is not None and known > 0.85
    assert unknown == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("kind", [Bursts, HeavyTailedNoise, Rounding, TopicOffsets, ClassGain])
def test_swapping_the_models_moves_an_alteration_to_the_other_one(kind: type[Alteration]) -> None:
    pair = PlantedPair(3, noise=0.0, counts={"shared": 8, "new": 3, "lost": 3}).altered(kind)
    one, other = pair.sample(600), pair.swapped().sample(600)
    assert torch.allclose(one, other.roll(48, dims=1), atol=1e-5)
    assert not torch.allclose(one[:, 48:], pair.null().sample(600)[:, 48:], atol=0.1)


def test_impossible_alterations_are_refused() -> None:
    with pytest.raises(ValueError, match="alters both models"):
        PlantedPair(0).altered(OutlierChannel)
    with pytest.raises(ValueError, match="both models before one"):
        PlantedPair(0).altered(Bursts).altered(OutlierChannel, both=True)
    with pytest.raises(ValueError, match="mapped already"):
        PlantedPair(0, counts={"shared": 96}).mapped(1).mapped(2)
