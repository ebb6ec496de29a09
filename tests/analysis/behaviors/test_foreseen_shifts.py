"""What `doctor` says of the prompts of a behavior before anything is run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.behaviors.foreseen_shifts import foreseen_shifts
from analysis.behaviors.prompt_statistics import Resamples
from analysis.behaviors.prompts import n_claim_prompts
from crosscoder.config.behavior import Behavior
from crosscoder.errors import DataError

PATTERN = {"kind": "pattern", "pattern": "sorry"}
CONTINUATION = {"kind": "continuation", "texts": [" yes"]}


def behavior(n: int, metric: dict[str, Any] = PATTERN, **settings: object) -> Behavior:
    """A behavior with n different prompts, each given twice."""
    prompts = [f"Question {i}?" for i in range(n)] * 2
    return Behavior.model_validate({"name": "b", "metric": metric, "prompts": prompts, **settings})


def test_without_behaviors_nothing_is_said() -> None:
    assert foreseen_shifts([]) == ""


@pytest.mark.parametrize(("n", "limit", "claim"), [(40, None, 20), (41, 30, 15), (8, None, 4)])
def test_prompts_that_are_given_twice_count_once(n: int, limit: int | None, claim: int) -> None:
    """Half of the different ones, at most `limit` of them, carry the claims."""
    assert n_claim_prompts(behavior(n, limit=limit)) == claim


@pytest.mark.parametrize(
    ("n", "metric", "said"),
    [
        (16, PATTERN, "8 held-out prompts, but a shift of this metric needs 12, so none can be established"),
        (40, CONTINUATION, "20 held-out prompts, but a shift of this metric needs 29"),
        (60, CONTINUATION, "30 held-out prompts; a shift of this metric needs 29."),
        (80, PATTERN, "40 held-out prompts; at best, a shift of "),
    ],
)
def test_too_few_prompts_are_told_before_a_run(n: int, metric: dict[str, Any], said: str) -> None:
    """With the number that the metric needs; enough of them with what they can show."""
    assert f"  b   {said}" in foreseen_shifts([behavior(n, metric)])


def test_the_smallest_share_is_one_that_is_established() -> None:
    """Of answers that all agreed before, that share in both: a little more is established nearly always, half as much seldom."""
    text = foreseen_shifts([behavior(80)])
    least = float(text.split("a shift of ")[1].split("%")[0]) / 100
    generator = np.random.default_rng(0)

    def established(share: float) -> float:
        drawn = [(generator.random(40) < share).astype(float) for _ in range(60)]
        return float(
            np.mean(
                [
                    Resamples(40, 0.95, seed, (0.0, 1.0)).difference(one).low > 0
                    for seed, one in enumerate(drawn)
                ]
            )
        )

    assert established(least + 0.1) > 0.8 > 0.5 > established(least / 2)


def test_a_shift_that_no_answer_can_reach_is_told() -> None:
    assert "no shift of this metric is as large as shift.at_least (2)" in foreseen_shifts(
        [behavior(40, shift={"at_least": 2})]
    )


def test_a_file_with_too_few_prompts_is_refused(tmp_path: Path) -> None:
    """One line says which file, and how many are needed."""
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps({"text": f"Q{i}?"}) + "\n" for i in range(3)))
    with pytest.raises(DataError, match=r"few\.jsonl: 3 distinct prompts are too few"):
        foreseen_shifts([behavior(4).model_copy(update={"prompts": few})])
