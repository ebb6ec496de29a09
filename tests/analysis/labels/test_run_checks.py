"""Whether a run is fit to be labeled."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest

from analysis.labels.controls import ComparedDictionary, Controls
from analysis.labels.feature_table import Features
from analysis.labels.run_checks import Reconstruction, check_run, withheld
from crosscoder.config import Conditions
from tests.analysis.labels.test_rule import evidence

CONDITIONS = Conditions()


def rebuilt(fve: float | None = 0.9, l0: float = 8.0) -> Reconstruction:
    return Reconstruction({"reference": fve, "intervened": fve, "difference": 0.5}, l0, 8.0)


def control(name: str, fve: float = 0.88, **labels: int) -> ComparedDictionary:
    counts: Mapping[str, int] = labels or {"shared": 100}
    names = tuple(label for label, count in counts.items() for _ in range(count))
    features = Features({"n_tokens": np.ones(len(names))}, cast(Any, names), names, evidence())
    return ComparedDictionary(name, features, {"reference": fve, "intervened": fve - 0.3})


def controls(**changes: Any) -> Controls:
    good = {
        "nulls": (control("drift"), control("intermittent")),
        "identity": control("identity", 0.8),
        "shuffled": control("shuffled", 0.5, new=60, lost=35, shared=5),
    }
    return Controls(**(good | changes))


def failed(found: Reconstruction, compared: Controls, conditions: Conditions = CONDITIONS) -> list[str]:
    checks = check_run(found, compared, conditions)
    names = [check.name for check in checks if check.passed is False]
    assert bool(withheld(checks)) == bool(names)
    return names


def test_a_good_run_misses_nothing() -> None:
    assert failed(rebuilt(), controls()) == []
    assert withheld(check_run(rebuilt(), controls(), CONDITIONS)) is None


@pytest.mark.parametrize(
    ("found", "compared", "names"),
    [
        (rebuilt(fve=0.65), controls(), ["fve_reference", "fve_intervened"]),
        (rebuilt(l0=12.0), controls(), ["l0"]),
        (rebuilt(), controls(nulls=(control("drift", 0.5),)), ["drift_trained"]),
        (rebuilt(), controls(identity=control("identity", 0.21)), ["identity_trained"]),
        (
            rebuilt(),
            controls(identity=control("identity", 0.8, shared=90, new=10)),
            ["identity_unchanged"],
        ),
        (rebuilt(), controls(shuffled=control("shuffled", 0.09, shared=999, new=1)), ["shuffled_parted"]),
    ],
)
def test_each_condition_withholds_the_labels(
    found: Reconstruction, compared: Controls, names: list[str]
) -> None:
    assert failed(found, compared) == names


def test_the_reason_says_what_to_change() -> None:
    """An undertrained run: 9 % of the variance explained, and everything shared even where nothing is."""
    undertrained = controls(shuffled=control("shuffled", 0.09, shared=999, new=1))
    reason = withheld(check_run(rebuilt(fve=0.5), undertrained, CONDITIONS))
    assert reason is not None
    assert "50 % of the variance of the reference, less than 70 %: train longer (training.n_tokens)" in reason
    assert "99.9 % of the latents are called shared" in reason


def test_what_was_not_checked_withholds_nothing() -> None:
    checks = check_run(rebuilt(), Controls(), CONDITIONS)
    assert [check.name for check in checks] == ["fve_reference", "fve_intervened", "l0"]
    unknown = check_run(rebuilt(fve=None), controls(), CONDITIONS)
    assert [check.passed for check in unknown][:2] == [None, None]
    assert withheld(unknown) is None


def test_a_users_conditions_decide() -> None:
    lenient = Conditions(fve=0.4)
    assert failed(rebuilt(fve=0.65), controls(), lenient) == []
