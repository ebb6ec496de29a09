from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import ndtr

from analysis.false_discovery import (
    Candidacy,
    artifact_rate,
    benjamini_hochberg,
    candidacy,
    effect_of,
    q_values,
)
from crosscoder.config import LabelRule

RULE = LabelRule()


def columns(**changes: Sequence[float]) -> dict[str, np.ndarray]:
    """Two latents that meet the rule with room, one leaning to each side."""
    values = {
        "n_documents": [50, 50],
        "density": [0.01, 0.02],
        "shift_share": [0.01, 0.01],
        "norm_reference": [0.05, 1.0],
        "norm_intervened": [1.0, 0.05],
        "nu_error": [0.02, 0.02],
        "nu_error_low": [-0.02, -0.02],
        "nu_error_high": [0.06, 0.06],
        "nu_reconstruction": [0.1, 0.1],
        "nu_reconstruction_low": [0.05, 0.05],
        "nu_reconstruction_high": [0.15, 0.15],
    }
    return {name: np.array(value, dtype=float) for name, value in (values | changes).items()}


def test_the_margin_is_that_of_the_weakest_part() -> None:
    assert candidacy(columns(), RULE).margin == pytest.approx([0.3, 0.3])  # nu_error 0.06 of 0.2
    assert candidacy(columns(norm_reference=[0.4, 1.0]), RULE).margin == pytest.approx([0.8, 0.3])
    assert candidacy(columns(nu_reconstruction_high=[0.15, 0.6]), RULE).margin == pytest.approx([0.3, 1.2])
    assert candidacy(columns(nu_error_low=[-0.3, -0.02]), RULE).margin == pytest.approx([1.5, 0.3])


def test_p_values_follow_from_the_width_of_the_intervals() -> None:
    found = candidacy(
        columns(nu_error=[0.02, 0.2], nu_error_high=[0.06, 0.24], nu_error_low=[-0.02, 0.16]), RULE
    )
    assert found.p_value[0] < 1e-10
    assert found.p_value[1] == pytest.approx(0.5)
    wide = candidacy(columns(nu_error_low=[-0.18, -0.02], nu_error_high=[0.22, 0.06]), RULE).p_value
    # 0.18 of room, a standard error of 0.4 / (2 * 1.96).
    assert wide[0] == pytest.approx(0.0389, abs=1e-3)


def test_what_cannot_be_estimated_is_no_evidence() -> None:
    for change in (
        {"nu_error_high": [np.nan, 0.06]},
        {"nu_reconstruction_low": [np.nan, 0.05]},
        {"n_documents": [4, 50]},
        {"norm_reference": [0.0, 1.0], "norm_intervened": [0.0, 0.05], "nu_error_low": [np.nan, -0.02]},
    ):
        found = candidacy(columns(**change), RULE)
        assert found.margin[0] == np.inf or found.p_value[0] == 1
        assert q_values(found, [])[0] == 1
        assert q_values(found, [])[1] < 1e-6


def test_exchanging_the_models_changes_no_evidence() -> None:
    table = columns(norm_reference=[0.1, 1.0])
    swapped = table | {"norm_reference": table["norm_intervened"], "norm_intervened": table["norm_reference"]}
    for one, other in zip(candidacy(table, RULE), candidacy(swapped, RULE), strict=True):
        assert np.array_equal(one, other)


def test_benjamini_hochberg_is_the_textbook_procedure() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.5, 0.001])
    tested = np.array([True, True, True, True, True, False])
    assert benjamini_hochberg(p, tested) == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.5, 1])


def test_the_effect_is_the_share_of_the_shift_where_a_latent_fires() -> None:
    assert candidacy(columns(), RULE).effect == pytest.approx([1, 0.5])
    assert candidacy(columns(density=[0, 0.02], shift_share=[np.nan, np.nan]), RULE).effect == pytest.approx(
        [0, 0]
    )
    without = columns()
    del without["shift_share"]
    assert candidacy(without, RULE).effect == pytest.approx([0, 0])


def of_effects(*effects: float, meets: bool = True) -> Candidacy:
    """Latents that meet the rule, or do not, and have these effects."""
    n = len(effects)
    return Candidacy(
        np.full(n, 0.5 if meets else 1.5), np.array(effects), np.zeros(n), np.ones(n, dtype=bool)
    )


def test_the_rate_of_artifacts_is_a_ratio_of_counts() -> None:
    found = of_effects(4.0, 3.0, 2.0, 0.5)
    null = of_effects(1.0, 0.2)  # they count as 1.2 and 0.24
    assert artifact_rate(found, [null]) == pytest.approx([0, 0, 0, 0.25])
    assert artifact_rate(found, [null, of_effects()]) == pytest.approx([0, 0, 0, 0.125])
    assert artifact_rate(found, [of_effects(2.5, 0.1)]) == pytest.approx([0, 0.25, 0.25, 0.25])
    assert artifact_rate(found, [of_effects(2.5, meets=False)]) == pytest.approx([0, 0, 0, 0])
    assert artifact_rate(found, [found]) == pytest.approx([1, 1, 1, 1])
    assert artifact_rate(found, []) == pytest.approx([0, 0, 0, 0])
    assert artifact_rate(of_effects(9.0, meets=False), []) == pytest.approx([1])


def test_a_pair_without_effect_is_not_claimed() -> None:
    """Where every latent that meets the rule explains nothing, a null with such latents speaks against all."""
    assert artifact_rate(of_effects(0.0, 0.0), [of_effects(0.0)]) == pytest.approx([0.5, 0.5])


def test_q_values_keep_the_rate_of_false_discoveries() -> None:
    """Many tables of 500 latents at the limit and 50 true ones: of those with q <= 0.05, at most 5 % are false."""
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        z = np.concatenate([generator.normal(0, 1, 500), generator.normal(4, 1, 50)])
        observed = Candidacy(np.zeros(550), np.ones(550), ndtr(-z), np.ones(550, dtype=bool))
        found = q_values(observed, []) <= 0.05
        shares.append(found[:500].sum() / max(1, found.sum()))
    assert 0.02 < np.mean(shares) <= 0.05


def test_the_effect_is_of_the_shift_and_between_spaces_of_what_no_map_carries() -> None:
    """A stored table has both columns, the one that does not apply without a number."""
    shares = {"shift_share": np.array([0.2, 0.1]), "unmapped_share": np.array([np.nan, np.nan])}
    density = np.array([0.1, 0.5])
    assert effect_of({"density": density, **shares}).tolist() == pytest.approx([2, 0.2])
    mapped = shares | {"unmapped_share": np.array([0.05, np.nan])}
    assert effect_of({"density": density, **mapped}).tolist() == pytest.approx([0.5, 0])
