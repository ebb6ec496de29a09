"""Numbers of latents with each label: the rule on many latents at once, with resampled documents, and with other limits."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.labels.counts import LIMITS, count_intervals, limit_curves
from analysis.labels.evidence import Estimate, Evidence, LatentScaling, evidence_of
from analysis.labels.replication import Replication
from analysis.labels.rule import LABELS, ClaimSupport, decide, held_back, labels_of
from analysis.latents.bootstrap import BlockMoments, resample_weights
from crosscoder.config import LabelRule
from tests.analysis.labels.test_rule import evidences
from tests.analysis.labels.verdicts import verdict_of

RULE = LabelRule()


def many(several: list[Evidence]) -> Evidence:
    """Evidence of single latents as arrays."""

    def stacked(parts: tuple[Any, ...]) -> Any:
        if isinstance(parts[0], tuple):
            return type(parts[0])(*(stacked(column) for column in zip(*parts, strict=True)))
        return np.array(parts)

    return stacked(tuple(several))


def flat(part: Any) -> list[float]:
    """The numbers of nested tuples."""
    return [number for one in part for number in flat(one)] if isinstance(part, tuple) else [part]


def labels_under(evidence: Evidence, rule: LabelRule) -> np.ndarray:
    """The labels, if every other training finds every latent again."""
    return held_back(labels_of(decide(evidence, rule)), ClaimSupport(evidence.q_value, 1.0), rule)


def found_by(share: float, n_latents: int = 40) -> Replication:
    """Two other trainings, of which a share finds every latent again with any label."""
    return Replication(2, np.full(n_latents, share), np.full((n_latents, len(LABELS)), share))


BY_ALL = found_by(1.0)
ON_ITS_OWN = np.ones(40)


@settings(max_examples=300)
@given(
    st.lists(evidences, min_size=1, max_size=8),
    st.sampled_from([RULE, LabelRule(weak_norm=0.1, min_documents=51), LabelRule(shared_cosine=0.7)]),
)
def test_labels_of_many_latents_equal_those_of_each(several: list[Evidence], rule: LabelRule) -> None:
    assert [LABELS[index] for index in labels_under(many(several), rule)] == [
        verdict_of(one, rule).label for one in several
    ]
    assert flat(many(several).at(len(several) - 1)) == pytest.approx(flat(several[-1]), nan_ok=True)


def test_a_q_value_holds_back_many_as_it_holds_back_one() -> None:
    absent = LatentScaling(Estimate(0.0, 0.0, 0.0), Estimate(0.0, 0.0, 0.0), 1.0)
    one = Evidence(9, 9, 0.0, 1.0, 0.0, absent, absent)
    several = [one._replace(q_value=q) for q in (0.01, 0.5, float("nan"))]
    assert [LABELS[index] for index in labels_under(many(several), RULE)] == [
        "new",
        "undetermined",
        "new",
    ]


def moments_of(
    spread: float, n_latents: int = 40, n_blocks: int = 32
) -> tuple[Evidence, BlockMoments, dict[str, Any]]:
    """Latents whose mean ν of 0.1 says that the reference lacks the concept, with a given spread between blocks."""
    generator = torch.Generator().manual_seed(0)
    noise = spread * torch.randn(n_blocks, n_latents, generator=generator, dtype=torch.float64)
    nu = 0.1 + noise - noise.mean(0)
    sums = {"fired": torch.ones(n_blocks, n_latents, dtype=torch.float64), "nu": nu}
    moments = BlockMoments(sums, {"tokens": torch.ones(n_blocks, dtype=torch.float64)}, {})
    statistics = {
        **{f"nu_{part}_{side}": (lambda found: found["nu"] / found["fired"]) for part in ("error", "reconstruction") for side in ("new", "lost")},
        **{f"own_beta_{side}": (lambda found: found["fired"] / found["fired"]) for side in ("new", "lost")},
    }  # fmt: skip
    value = np.full(n_latents, 0.1)
    error = spread / np.sqrt(n_blocks)
    bound = Estimate(value, value - 2 * error, value + 2 * error)
    bounds = dict.fromkeys(statistics, bound)
    columns = {
        "n_tokens": np.full(n_latents, 32.0),
        "n_documents": np.full(n_latents, 32.0),
        "norm_reference": np.full(n_latents, 0.1),
        "norm_intervened": np.ones(n_latents),
        "decoder_cosine": np.zeros(n_latents),
        "density": np.full(n_latents, 0.1),
        "twin_cosine": np.full(n_latents, np.nan),
        "partner_jaccard": np.full(n_latents, np.nan),
        **{f"nu_unselected{bound}": np.full(n_latents, np.nan) for bound in ("", "_low", "_high")},
        **{f"relative_rate{bound}": np.full(n_latents, np.nan) for bound in ("", "_low", "_high")},
    }
    return evidence_of(columns, bounds), moments, statistics


def test_counts_that_do_not_vary_have_no_interval() -> None:
    evidence, moments, statistics = moments_of(spread=0.0)
    found = count_intervals(
        evidence, moments, statistics, resample_weights(200, 32, 0), RULE, BY_ALL, ON_ITS_OWN
    )
    assert found["new"] == (40, 40)
    assert found["lost"] == found["shared"] == found["dead"] == (0, 0)


def test_latents_that_are_not_found_again_are_counted_as_undetermined() -> None:
    evidence, moments, statistics = moments_of(spread=0.0)
    found = count_intervals(
        evidence, moments, statistics, resample_weights(200, 32, 0), RULE, found_by(0.5), ON_ITS_OWN
    )
    assert found["undetermined"] == (40, 40) and found["new"] == (0, 0)


def test_counts_vary_with_the_text_if_the_evidence_does() -> None:
    """Upper bounds of 0.2: half of the resamples move a latent beyond the limit."""
    evidence, moments, statistics = moments_of(spread=0.05 * 32**0.5)
    found = count_intervals(
        evidence, moments, statistics, resample_weights(400, 32, 0), RULE, BY_ALL, ON_ITS_OWN, chunk=7
    )
    assert 5 < found["new"].low < 20 < found["new"].high < 35
    assert found["new"].low + found["undetermined"].high == 40
    again = count_intervals(
        evidence, moments, statistics, resample_weights(400, 32, 0), RULE, BY_ALL, ON_ITS_OWN
    )
    assert again == found, "chunks do not matter"


def test_every_limit_has_a_curve_with_the_configured_value() -> None:
    evidence, *_ = moments_of(spread=0.05 * 32**0.5)
    curves = {curve.limit: curve for curve in limit_curves(RULE, lambda rule: labels_under(evidence, rule))}
    assert tuple(curves) == LIMITS
    for name, curve in curves.items():
        configured = getattr(RULE, name)
        assert curve.configured == configured
        at = int(np.argmin(np.abs(np.array(curve.values) - configured)))
        assert curve.values[at] == pytest.approx(configured)
        assert curve.new[at] == int((labels_under(evidence, RULE) == LABELS.index("new")).sum())
        assert 0 < curve.values[0] < 0.1 * configured and max(curve.values) <= 1
        assert curve.new == sorted(curve.new), "a wider limit lets no latent out"
        assert not any(curve.lost)
    assert curves["nu_error"].new[0] == 0 and curves["nu_error"].new[-1] == 40
