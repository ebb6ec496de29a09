from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import ndtr

from analysis.labels.evidence import Estimate, evidence_of
from analysis.labels.false_discovery import (
    FAMILIES,
    Candidates,
    artifact_rate,
    benjamini_hochberg,
    candidates_of,
    count_bound,
    q_values,
    weights_of_null,
)
from analysis.labels.rule import LABELS, Label
from crosscoder.config import LabelRule

RULE = LabelRule()
Table = dict[str, np.ndarray]


def table(**changes: Sequence[float]) -> Table:
    """Two latents, new and lost, well within the limits of the rule; names without a side are toward the stronger model."""
    nan = [np.nan, np.nan]
    values = {
        "n_tokens": [400, 400],
        "n_documents": [50, 50],
        "density": [0.01, 0.02],
        "effect": [1.0, 0.5],
        "norm_reference": [0.05, 1.0],
        "norm_intervened": [1.0, 0.05],
        "decoder_cosine": [0.1, 0.1],
        "nu_error": [0.02, 0.02],
        "nu_error_low": [-0.02, -0.02],
        "nu_error_high": [0.06, 0.06],
        "nu_reconstruction": [0.1, 0.1],
        "nu_reconstruction_low": [0.05, 0.05],
        "nu_reconstruction_high": [0.15, 0.15],
        "other": [1.0, 1.0],
        "twin_cosine": nan,
        "relative_rate": nan,
        "relative_rate_low": nan,
        "relative_rate_high": nan,
        "nu_unselected": nan,
        "partner_jaccard": nan,
    }
    return {name: np.array(value, dtype=float) for name, value in (values | changes).items()}


def found(columns: Table, **kwargs: np.ndarray) -> Candidates:
    """Their candidates; ν toward the weaker model is `other`, at no distance from its bounds."""
    intervened_stronger = columns["norm_intervened"] >= columns["norm_reference"]
    bounds = {}
    for side, toward_stronger in (("new", intervened_stronger), ("lost", ~intervened_stronger)):
        for name in ("nu_error", "nu_reconstruction"):
            numbers = (
                np.where(toward_stronger, columns[f"{name}{bound}"], columns["other"])
                for bound in ("", "_low", "_high")
            )
            bounds[f"{name}_{side}"] = Estimate(*numbers)
        bounds[f"own_beta_{side}"] = Estimate(*[np.ones(len(intervened_stronger))] * 3)
    return candidates_of(columns, evidence_of(columns, bounds), RULE, **kwargs)


def labels(columns: Table) -> list[str]:
    return [LABELS[index] for index in found(columns).label]


TURNED = {"norm_reference": [0.9, 1.0], "norm_intervened": [1.0, 0.9], "other": [0.3, 0.9]}
"""Two rotated directions; other latents compensate for the second."""


def test_candidates_have_the_label_before_q_values() -> None:
    assert labels(table()) == ["new", "lost"]
    assert labels(table(nu_error_low=[-0.3, -0.02])) == ["undetermined", "lost"]
    assert labels(table(nu_error_high=[0.4] * 2, nu_error=[0.3] * 2, **TURNED)) == ["rotated", "undetermined"]
    twins = {"twin_cosine": [0.95, 0.95], "relative_rate": [0.75, 0.5], "relative_rate_low": [0.7, 0.4], "relative_rate_high": [0.8, 0.6]}  # fmt: skip
    assert labels(table(**twins)) == ["reweighted", "undetermined"]


def test_p_values_follow_from_the_width_of_the_intervals() -> None:
    near = table(nu_error=[0.02, 0.2], nu_error_high=[0.06, 0.2], nu_error_low=[-0.02, 0.16])
    assert found(near).p_value[0] < 1e-10
    assert found(near).p_value[1] == pytest.approx(0.5)
    wide = found(table(nu_error_low=[-0.18, -0.02], nu_error_high=[0.2, 0.06])).p_value
    # 0.18 of room, a standard error of 0.38 / (2 * 1.96).
    assert wide[0] == pytest.approx(0.0317, abs=1e-3)
    turned = table(
        norm_reference=[0.9, 1.0],
        norm_intervened=[1.0, 0.9],
        nu_error=[0.5, 0.5],
        nu_error_high=[0.6, 0.6],
        nu_reconstruction=[0.3, 0.8],
        nu_reconstruction_low=[0.2, 0.7],
        nu_reconstruction_high=[0.4, 0.8],
        other=[0.3, 0.3],
    )
    assert found(turned).p_value[0] < 1e-10
    assert labels(turned) == ["rotated", "undetermined"]


RESCALED = {
    "decoder_cosine": [0.99, 0.99],
    "norm_reference": [0.5, 1.0],
    "norm_intervened": [1.0, 0.5],
    "nu_error": [0.5, 0.65],
    "nu_error_low": [0.45, 0.5],
    "nu_error_high": [0.55, 0.8],
    "nu_reconstruction": [0.9, 0.9],
    "nu_reconstruction_high": [0.95, 0.95],
}


def test_rescaled_and_reweighted_are_tested_too() -> None:
    """The distance of the ratio from `shared_ratio`, and of the rate from `rate_ratio`."""
    assert labels(table(**RESCALED)) == ["rescaled", "rescaled"]
    clear, doubtful = found(table(**RESCALED)).p_value
    assert clear < 1e-10 and doubtful == pytest.approx(ndtr(-0.05 / (0.3 / 3.92)), rel=1e-3)
    twins = {"twin_cosine": [0.95, 0.95], "relative_rate": [0.75, 0.62], "relative_rate_low": [0.7, 0.6], "relative_rate_high": [0.8, 0.64]}  # fmt: skip
    assert labels(table(**twins)) == ["reweighted", "reweighted"]
    often, barely = found(table(**twins)).p_value
    assert often < 1e-6 < barely == pytest.approx(ndtr(-0.02 / (0.04 / 3.92)), rel=1e-3)


def test_the_bound_of_a_count_is_never_zero() -> None:
    """Garwood's exact bounds: 3.0 for a count of 0 at 95 %."""
    assert count_bound(0.0, 0.95) == pytest.approx(-np.log(0.05))
    assert count_bound(10.0, 0.95) == pytest.approx(16.96, abs=0.01)


def test_not_estimable_is_no_evidence() -> None:
    for change in (
        {"nu_error_high": [np.nan, 0.06]},
        {"nu_reconstruction_low": [np.nan, 0.05]},
        {"n_documents": [4, 50]},
        {"norm_reference": [0.0, 1.0], "norm_intervened": [0.0, 0.05], "nu_error_low": [np.nan, -0.02]},
    ):
        one = found(table(**change))
        assert LABELS[one.label[0]] == "undetermined" and one.p_value[0] == 1
        assert q_values(one, [])[0] == 1
        assert q_values(one, [])[1] < 1e-6


def test_exchanging_the_models_exchanges_labels_and_changes_no_evidence() -> None:
    one = table(norm_reference=[0.1, 1.0])
    swapped = one | {"norm_reference": one["norm_intervened"], "norm_intervened": one["norm_reference"]}
    assert labels(swapped) == ["lost", "new"]
    for straight, mirrored in zip(found(one)[1:], found(swapped)[1:], strict=True):
        assert np.array_equal(straight, mirrored)


def test_benjamini_hochberg_is_the_textbook_procedure() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.5, 0.001])
    tested = np.array([True, True, True, True, True, False])
    assert benjamini_hochberg(p, tested) == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.5, 1])


def test_an_effect_that_is_not_estimable_is_zero() -> None:
    assert found(table(effect=[1.0, np.nan])).effect.tolist() == [1, 0]


def of_effects(*effects: float, label: Label = "new", weight: float = 1.0) -> Candidates:
    """Candidates with one label and these effects."""
    n = len(effects)
    certain = np.zeros(n), np.ones(n, dtype=bool)
    return Candidates(np.full(n, LABELS.index(label)), np.array(effects), *certain, np.full(n, weight))


def rate(observed: Candidates, *nulls: Candidates) -> np.ndarray:
    return artifact_rate(observed, nulls, ("new", "lost"))


def test_the_rate_of_artifacts_is_a_ratio_of_counts() -> None:
    observed = of_effects(4.0, 3.0, 2.0, 0.5)
    null = of_effects(1.0, 0.2, label="lost")
    assert rate(observed, null) == pytest.approx([0, 0, 0, 0.25])
    assert rate(observed, null, of_effects()) == pytest.approx([0, 0, 0, 0.25]), "the null with most counts"
    assert rate(observed, of_effects(2.5, 0.1)) == pytest.approx([0, 0, 0.25, 0.25])
    assert rate(observed, of_effects(2.5, 0.1, weight=2.0)) == pytest.approx([0, 0, 0.5, 0.5])
    assert rate(observed, of_effects(2.5, label="rotated")) == pytest.approx([0, 0, 0, 0])
    assert rate(observed, observed) == pytest.approx([1, 1, 1, 1])
    assert rate(observed) == pytest.approx([0, 0, 0, 0])
    assert rate(of_effects(9.0, label="shared")) == pytest.approx([1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_null_latent_counts_against_its_own_family(family: tuple[Label, ...]) -> None:
    for label in family:
        observed = of_effects(1.0, label=label)
        for others in FAMILIES:
            q = q_values(observed, [of_effects(2.0, label=others[0])])
            assert q == pytest.approx([1.0 if others == family else 0.0])


def test_latents_of_the_kept_model_are_no_artifacts_of_a_null_without_common_space() -> None:
    """Its other latents count twice."""
    columns = table()
    assert weights_of_null(columns, None).tolist() == [1, 1]
    assert weights_of_null(columns, 0).tolist() == [0, 2]
    assert weights_of_null(columns, 1).tolist() == [2, 0]
    assert found(columns, weight=weights_of_null(columns, 1)).weight.tolist() == [2, 0]


def test_a_pair_without_effect_is_not_claimed() -> None:
    """If no latent that meets the rule explains anything, a null with such latents counts against all of them."""
    assert rate(of_effects(0.0, 0.0), of_effects(0.0)) == pytest.approx([0.5, 0.5])


def test_q_values_control_the_false_discovery_rate() -> None:
    """Many tables of 500 latents at the limit and 50 true ones: of those with q <= 0.05, at most 5 % are false."""
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        z = np.concatenate([generator.normal(0, 1, 500), generator.normal(4, 1, 50)])
        observed = of_effects(*[1.0] * 550)._replace(p_value=ndtr(-z))
        claimed = q_values(observed, []) <= 0.05
        shares.append(claimed[:500].sum() / max(1, claimed.sum()))
    assert 0.02 < np.mean(shares) <= 0.05
