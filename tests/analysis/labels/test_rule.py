import math
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analysis.labels.evidence import Estimate, Evidence, LatentScaling, RateEvidence
from crosscoder.config import LabelRule
from tests.analysis.labels.verdicts import Verdict, verdict_of, verdict_of_rates

RULE = LabelRule()
SWAPPED = {"new": "lost", "lost": "new"}
NAN = math.nan


class Twin(NamedTuple):
    """The nearest latent in the other model."""

    cosine: float
    relative_rate: Estimate


NO_TWIN = Twin(NAN, Estimate(NAN, NAN, NAN))


def about(value: float, spread: float = 0.02) -> Estimate:
    return Estimate(value, value - spread, value + spread)


def toward(
    error: float = 1.0, reconstruction: float = 1.0, own: float = 1.0, spread: float = 0.02
) -> LatentScaling:
    return LatentScaling(about(error, spread), about(reconstruction, spread), own)


def evidence(
    reference: float = 1.0,
    intervened: float = 1.0,
    cosine: float = 1.0,
    new: LatentScaling | None = None,
    lost: LatentScaling | None = None,
    n_documents: int = 50,
    n_tokens: int = 400,
    comparable: bool = True,
    mapped: bool = False,
    q_value: float = NAN,
    twin: Twin = NO_TWIN,
) -> Evidence:
    sides = new or toward(), lost or toward()
    return Evidence(
        n_tokens, n_documents, reference, intervened, cosine, *sides, comparable, mapped, q_value, *twin
    )


def label(found: Evidence) -> str:
    return verdict_of(found, RULE).label


numbers = st.one_of(st.just(NAN), st.floats(-3, 3))
bounds = st.tuples(numbers, st.floats(0, 1), st.floats(0, 1)).map(
    lambda t: Estimate(t[0], t[0] - t[1], t[0] + t[2])
)
sides = st.builds(LatentScaling, bounds, bounds, numbers)
norms = st.one_of(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 1.0]), st.floats(0, 5))
evidences = st.builds(
    Evidence,
    st.integers(0, 3),
    st.integers(0, 12),
    norms,
    norms,
    st.one_of(st.just(NAN), st.sampled_from([0.8, 0.9]), st.floats(-1, 1)),
    sides,
    sides,
    st.booleans(),
    st.booleans(),
    st.sampled_from([NAN, 0.0, 0.5]),
    st.one_of(st.just(NAN), st.floats(0.6, 1)),
    bounds,
    bounds,
    st.one_of(st.just(NAN), st.floats(0, 1)),
)


def seen_from_the_other_model(rate: Estimate) -> Estimate:
    return Estimate(1 - rate.value, 1 - rate.high, 1 - rate.low)


@given(evidences)
@example(evidence(1.0, 1.0, new=toward(0.0, 0.0), lost=toward(1.0, 1.0)))
@example(evidence(1.0, 1.0, new=toward(1.0, 1.0), lost=toward(0.0, 0.0)))
def test_exchanging_the_models_exchanges_new_and_lost(found: Evidence) -> None:
    mirrored = found._replace(
        norm_reference=found.norm_intervened,
        norm_intervened=found.norm_reference,
        new=found.lost,
        lost=found.new,
        relative_rate=seen_from_the_other_model(found.relative_rate),
    )
    one, other = verdict_of(found, RULE), verdict_of(mirrored, RULE)
    assert other.label == SWAPPED.get(one.label, one.label)


@given(evidences)
def test_every_verdict_has_a_reason_on_one_line(found: Evidence) -> None:
    verdict = verdict_of(found, RULE)
    assert verdict.reason
    assert "\n" not in verdict.reason
    assert "-0.00" not in verdict.reason


@given(evidences)
def test_new_and_lost_need_both_the_norm_and_latent_scaling(found: Evidence) -> None:
    verdict = verdict_of(found, RULE)
    if verdict.label not in ("new", "lost"):
        return
    side = found.new if verdict.label == "new" else found.lost
    weaker, stronger = sorted((found.norm_reference, found.norm_intervened))
    assert weaker <= RULE.weak_norm * stronger
    assert side.nu_error.magnitude_bound <= RULE.nu_error
    assert side.nu_reconstruction.magnitude_bound <= RULE.nu_reconstruction
    assert found.n_documents >= RULE.min_documents


def test_dead_comes_first() -> None:
    assert verdict_of(evidence(0, 1, n_tokens=0, n_documents=0), RULE) == Verdict(
        "dead", "fired on no held-out token"
    )


def test_labels_of_clear_cases() -> None:
    absent = toward(0.05, 0.1)
    assert label(evidence(0.06, 1.0, 0.3, new=absent)) == "new"
    assert label(evidence(1.0, 0.06, 0.3, lost=absent)) == "lost"
    assert label(evidence(0.0, 1.0, NAN, new=absent)) == "new"
    assert label(evidence(1.0, 0.9, 0.98)) == "shared"
    half = toward(0.5, 0.5)
    assert label(evidence(1.0, 0.9, 0.5, new=half, lost=half)) == "rotated"
    assert label(evidence(1.0, 0.4, 0.99, lost=toward(0.4, 0.4))) == "rescaled"
    assert label(evidence(0.4, 1.0, 0.99, new=toward(0.4, 0.4))) == "rescaled"


def test_a_rotation_that_other_latents_compensate_is_none() -> None:
    """Latents that split one feature rotate in opposite ways: the reconstruction is the same in both models."""
    half, compensated = toward(0.5, 0.5), toward(0.5, 0.98)
    for new, lost in ((compensated, half), (half, compensated)):
        verdict = verdict_of(evidence(1.0, 0.9, 0.5, new=new, lost=lost), RULE)
        assert verdict.label == "undetermined"
        assert "other latents write the other direction into the" in verdict.reason
    unknown = half._replace(nu_reconstruction=Estimate(0.5, NAN, NAN))
    verdict = verdict_of(evidence(1.0, 0.9, 0.5, new=half, lost=unknown), RULE)
    assert verdict.label == "undetermined" and "no bound" in verdict.reason


def test_a_direction_that_the_other_model_has_on_other_tokens_is_not_new() -> None:
    """The feature fires three times as often: the extra firings get a latent that is in one model only."""
    absent = toward(0.0, 0.0)
    more = Twin(0.98, Estimate(0.75, 0.7, 0.8))
    verdict = verdict_of(evidence(0.02, 1.0, 0.1, new=absent, twin=more), RULE)
    assert verdict.label == "reweighted"
    assert "another latent writes the same direction (cosine 0.98) into the reference" in verdict.reason
    as_often = more._replace(relative_rate=Estimate(0.55, 0.5, 0.65))
    verdict = verdict_of(evidence(0.02, 1.0, 0.1, new=absent, twin=as_often), RULE)
    assert verdict.label == "undetermined" and "not established" in verdict.reason
    near = verdict_of(evidence(0.02, 1.0, 0.1, new=absent, twin=more._replace(cosine=0.85)), RULE)
    assert (
        near.label == "undetermined" and "a similar direction (cosine 0.85) into the reference" in near.reason
    )
    assert label(evidence(0.02, 1.0, 0.1, new=absent, twin=more._replace(cosine=0.75))) == "new"
    assert label(evidence(1.0, 1.0, twin=more)) == "shared", (
        "only latents that seem to be in one model are checked"
    )


@pytest.mark.parametrize("q_value", [0.01, 0.2])
def test_every_claim_of_a_change_needs_a_q_value(q_value: float) -> None:
    absent, half = toward(0.0, 0.0), toward(0.5, 0.5)
    claims = {
        "new": evidence(0.05, 1.0, 0.1, new=absent),
        "lost": evidence(1.0, 0.05, 0.1, lost=absent),
        "rotated": evidence(1.0, 0.9, 0.5, new=half, lost=half),
        "rescaled": evidence(1.0, 0.4, 0.99, lost=toward(0.4, 0.4)),
        "reweighted": evidence(0.0, 1.0, 0.1, new=absent, twin=Twin(0.98, Estimate(0.75, 0.7, 0.8))),
        "shared": evidence(),
    }
    for name, found in claims.items():
        verdict = verdict_of(found._replace(q_value=q_value), RULE)
        held_back = q_value > RULE.false_discovery_rate and name != "shared"
        assert verdict.label == ("undetermined" if held_back else name)
        assert (f"{name}, but q-value" in verdict.reason) == held_back


def test_a_right_angle_is_a_replacement() -> None:
    """Each direction is absent from the other model: a rotation by 90° and a new and a lost feature that share a latent are the same."""
    absent = toward(0.0, 0.0)
    verdict = verdict_of(evidence(1.0, 0.9, 0.0, new=absent, lost=absent), RULE)
    assert verdict.label == "replaced"
    assert "each model lacks the other's direction" in verdict.reason


def test_leaked_norm_is_not_a_rotation() -> None:
    """The reference's row is long, but the reference's activations do not vary along it."""
    leaked = LatentScaling(about(NAN), about(NAN), 0.02)
    assert label(evidence(0.6, 1.0, 0.3, new=toward(0.3, 0.3), lost=toward(0.3, 0.3))) == "rotated"
    verdict = verdict_of(evidence(0.6, 1.0, 0.3, new=toward(0.3, 0.3), lost=leaked), RULE)
    assert verdict.label == "undetermined"
    assert "leaked norm" in verdict.reason
    verdict = verdict_of(evidence(0.6, 1.0, 0.1, new=toward(0.0, 0.0), lost=leaked), RULE)
    assert "absent from the reference" in verdict.reason
    assert "norm there is 0.60 of the larger" in verdict.reason


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (evidence(0.05, 1.0, new=toward(0.9, 0.1)), "complete shrinkage"),
        (evidence(0.05, 1.0, new=toward(0.1, 0.9)), "latent decoupling"),
        (
            evidence(1.0, 0.05, lost=toward(-0.9, 0.1)),
            "the intervened model holds the concept in its residual",
        ),
        (evidence(0.05, 1.0, new=toward(0.1, 0.1, spread=0.3)), "evidence is weak"),
        (evidence(0.05, 1.0, new=LatentScaling(about(NAN), about(NAN), 0.01)), "not estimable"),
        (
            evidence(0.05, 1.0, new=LatentScaling(Estimate(0.0, NAN, NAN), Estimate(0.0, NAN, NAN), 1.0)),
            "too few blocks",
        ),
        (evidence(0.55, 1.0, new=toward(0.0, 0.0)), "but its norm there is 0.55 of the larger one"),
        (evidence(0.05, 1.0, new=toward(0.0, 0.0), n_documents=4), "fired in 4 held-out documents"),
        (evidence(0.05, 1.0, new=toward(0.0, 0.0), n_documents=1), "fired in 1 held-out document ("),
        (evidence(1.0, 1.0, 0.85), "between rotated"),
        (evidence(1.0, 0.4, 0.3), "norms are too unequal"),
        (evidence(1.0, 0.4, 0.95, lost=toward(0.9)), "does not agree"),
        (evidence(1.0, 0.4, 0.95, lost=LatentScaling(Estimate(0.4, NAN, NAN), about(1), 1.0)), "no interval"),
        (evidence(1.0, 0.9, NAN, comparable=False), "share no activation space"),
        (evidence(1.0, 0.9, 0.5, mapped=True), "looks the same as a rotation"),
        (evidence(0.0, 0.0, NAN), "writes into neither model"),
    ],
)
def test_undetermined_latents_have_a_reason(found: Evidence, words: str) -> None:
    verdict = verdict_of(found, RULE)
    assert verdict.label == "undetermined"
    assert words in verdict.reason


def test_the_rule_is_the_one_that_was_configured() -> None:
    found = evidence(0.25, 1.0, 0.3, new=toward(0.05, 0.1))
    assert label(found) == "new"
    assert verdict_of(found, LabelRule(weak_norm=0.2)).label == "undetermined"
    assert verdict_of(found, LabelRule(min_documents=51)).label == "undetermined"


def test_a_limit_below_the_negligible_ratio_applies() -> None:
    found = evidence(0.15, 1.0, 0.3, new=toward(0.05, 0.1))
    verdict = verdict_of(found, LabelRule(weak_norm=0.1))
    assert verdict.label == "undetermined"
    assert "but its norm there is 0.15 of the larger one" in verdict.reason


def test_norm_leaked_into_the_model_without_the_concept_prevents_no_label() -> None:
    """A latent that fires along with another one writes a part of it in both models: a third of the norm, none of the concept."""
    assert label(evidence(0.33, 1.0, 0.3, new=toward(0.1, 0.2))) == "new"
    assert label(evidence(0.33, 1.0, 0.3, new=toward(0.3, 0.2))) == "undetermined"


# --- by rate ----------------------------------------------------------------------------------------------------------


def rates(
    reference: float, intervened: float, spread: float = 0.02, n_documents: int = 50, n_tokens: int = 400
) -> RateEvidence:
    relative = about(intervened / (reference + intervened), spread)
    return RateEvidence(n_tokens, n_documents, reference, intervened, relative)


@pytest.mark.parametrize(
    ("found", "label", "because"),
    [
        (rates(0.01, 0.03), "reweighted", "at least 1.5 times as often"),
        (rates(0.03, 0.01), "reweighted", "relative rate 0.25 [0.23, 0.27]"),
        (rates(0.02, 0.02), "shared", "less than 1.5 times as often"),
        (rates(0.02, 0.03), "undetermined", "leaves open"),
        (rates(0.01, 0.03, spread=0.2), "undetermined", "leaves open"),
        (rates(0.0005, 0.03), "undetermined", "nearly in one model only"),
        (rates(0.03, 0.0005), "undetermined", "may be new or lost"),
        (rates(0.01, 0.03, n_documents=2), "undetermined", "fired in 2 held-out documents"),
        (rates(0.01, 0.03, n_tokens=0), "dead", "no held-out token"),
        (rates(0.01, 0.03, spread=NAN), "undetermined", "too few blocks"),
    ],
)
def test_rates_decide_where_both_models_share_a_direction(
    found: RateEvidence, label: str, because: str
) -> None:
    verdict = verdict_of_rates(found, RULE)
    assert verdict.label == label
    assert because in verdict.reason


@given(st.floats(1e-4, 1), st.floats(1e-4, 1), st.floats(0, 0.5))
def test_exchanging_the_models_changes_no_label_by_rate(one: float, other: float, spread: float) -> None:
    relative = other / (one + other)
    there = RateEvidence(400, 50, one, other, Estimate(relative, relative - spread, relative + spread))
    back = RateEvidence(
        400, 50, other, one, Estimate(1 - relative, 1 - relative - spread, 1 - relative + spread)
    )
    limits = [0.1, 0.4, 0.6, 0.9]
    near = min(
        abs(end - limit) for end in (relative, relative - spread, relative + spread) for limit in limits
    )
    if near > 1e-9:  # at a limit itself, rounding of 1 - x decides
        assert verdict_of_rates(there, RULE).label == verdict_of_rates(back, RULE).label


def test_the_limit_of_rates_is_a_setting() -> None:
    assert verdict_of_rates(rates(0.01, 0.03), RULE.model_copy(update={"rate_ratio": 4})).label == "shared"


HELD = about(0.6)
ABSENT = about(0.05)


def test_a_latent_that_the_other_model_has_on_tokens_chosen_by_one_model_is_not_new() -> None:
    """It fires just where the models differ, so its own firings cannot show that the direction is absent."""
    new = evidence(0.1, 1.0, new=toward(0.05, 0.1))
    assert label(new) == "new", "not measured"
    assert label(new._replace(nu_unselected=ABSENT)) == "new"
    held = verdict_of(new._replace(nu_unselected=HELD), RULE)
    assert held.label == "undetermined" and "the reference holds a share of 0.60" in held.reason
    no_bound = Estimate(0.0, NAN, NAN)
    assert label(new._replace(nu_unselected=no_bound)) == "undetermined"


def test_a_new_and_a_lost_latent_on_the_same_tokens_are_replaced() -> None:
    new = evidence(0.1, 1.0, new=toward(0.05, 0.1))._replace(nu_unselected=ABSENT)
    lost = evidence(1.0, 0.1, lost=toward(0.05, 0.1))._replace(nu_unselected=ABSENT)
    for found in (new, lost):
        assert label(found._replace(partner_jaccard=0.95)) == "replaced"
        assert label(found._replace(partner_jaccard=0.5)) == label(found) != "replaced"
    assert "same tokens" in verdict_of(new._replace(partner_jaccard=0.95), RULE).reason


def test_one_latent_whose_directions_are_each_absent_from_the_other_model_is_replaced() -> None:
    """A rotation leaves a part of each direction in the other model; a replacement does not."""
    absent = toward(0.05, 0.1)
    assert label(evidence(1.0, 0.9, cosine=0.02, new=absent, lost=absent)) == "replaced"
    assert label(evidence(1.0, 0.9, cosine=0.5, new=toward(0.5, 0.5), lost=toward(0.5, 0.5))) == "rotated"
    assert label(evidence(1.0, 0.9, cosine=0.02, new=absent, lost=toward(0.9, 0.9))) == "undetermined"
    assert label(evidence(1.0, 0.9, cosine=0.02, new=absent, lost=absent, mapped=True)) == "undetermined"


def test_a_replacement_on_some_of_the_tokens_is_none() -> None:
    """The latent takes just the tokens on which one direction gave way to the other; the other model holds the first one elsewhere."""
    absent = toward(0.05, 0.1)
    replaced = evidence(1.0, 0.9, cosine=0.02, new=absent, lost=absent)
    assert label(replaced._replace(nu_unselected=ABSENT)) == "replaced"
    held = verdict_of(replaced._replace(nu_unselected=HELD), RULE)
    assert held.label == "undetermined" and "the other holds a share of 0.60" in held.reason
