"""Whether other trainings find a latent again."""

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.labels import replication as replication_module
from analysis.labels.reasons import FoundAgain
from analysis.labels.replication import Replica, Replication, nearest_directions, replication
from analysis.labels.rule import CLAIMED, LABELS, ClaimSupport, Label, held_back
from crosscoder.config import LabelRule
from tests.analysis.labels.test_rule import evidence, toward
from tests.analysis.labels.verdicts import verdict_of

RULE = LabelRule()
COSINE = RULE.replication_cosine


def numbers(*labels: Label) -> np.ndarray:
    return np.array([LABELS.index(label) for label in labels])


def replica(reference: Tensor, intervened: Tensor, *labels: Label) -> Replica:
    return Replica("seed_1", (reference, intervened), labels)


def test_the_nearest_direction_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_module, "_CHUNK", 7)
    generator = torch.Generator().manual_seed(0)
    others = torch.randn(40, 16, generator=generator)
    order = torch.randperm(40, generator=generator)
    rows = 3 * others[order] + 0.05 * torch.randn(40, 16, generator=generator)
    rows[5] = 0
    found = nearest_directions(rows, others)
    expected = order.clone()
    expected[5] = -1
    assert torch.equal(found.latent, expected)
    assert found.cosine[5].isnan()
    assert (found.cosine[found.latent >= 0] > 0.99).all()


def test_a_latent_is_found_again_by_its_directions_and_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_module, "_CHUNK", 2)
    eye = torch.eye(4)
    one = replica(eye, eye, "shared", "rotated", "shared", "dead")
    other = replica(eye[:3], eye[:3], "shared", "shared", "shared")
    found = replication((eye, eye), [one, other], COSINE)
    assert found.n_trainings == 2
    assert found.by_direction.tolist() == [1, 1, 1, 0.5]
    assert found.share(numbers("shared", "rotated", "new", "dead"), RULE).tolist() == [1, 0.5, 0, 0.5]


def test_only_the_models_that_a_latent_writes_into_count() -> None:
    """A new latent has an arbitrary direction in the reference, where it hardly writes."""
    eye = torch.eye(4)
    turned = eye.roll(1, dims=0)
    new: list[Label] = ["new"] * 4
    theirs = replica(0.01 * turned, eye, *new)
    assert replication((0.01 * eye, eye), [theirs], COSINE).by_direction.tolist() == [1, 1, 1, 1]
    assert replication((eye, eye), [theirs], COSINE).by_direction.tolist() == [0, 0, 0, 0]


def test_a_direction_counts_up_to_the_angle_of_the_rule() -> None:
    rows = torch.tensor([[1.0, 0.0]])
    for angle, again in ((0.63, True), (0.66, False)):
        theirs = torch.tensor([[np.cos(angle), np.sin(angle)]]).float()
        found = replication((rows, rows), [replica(theirs, theirs, "shared")], COSINE)
        assert bool(found.by_direction[0]) == again


def test_random_directions_are_not_found_again() -> None:
    """The control: agreement by chance."""
    generator = torch.Generator().manual_seed(0)
    rows, others = (torch.randn(500, 96, generator=generator) for _ in range(2))
    new: list[Label] = ["new"] * 500
    found = replication((rows, rows), [replica(others, others, *new)], COSINE)
    assert found.by_direction.mean() == 0 and found.by_label.sum() == 0


def test_exchanging_the_models_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    reference, intervened = (torch.randn(30, 8, generator=generator) for _ in range(2))
    theirs = [rows + 0.1 * torch.randn(30, 8, generator=generator) for rows in (reference, intervened)]
    labels: list[Label] = ["shared"] * 30
    straight = replication((reference, intervened), [replica(theirs[0], theirs[1], *labels)], COSINE)
    swapped = replication((intervened, reference), [replica(theirs[1], theirs[0], *labels)], COSINE)
    assert np.array_equal(straight.by_direction, swapped.by_direction)
    assert 0 < straight.by_direction.mean() <= 1


@pytest.mark.parametrize("label", CLAIMED)
@pytest.mark.parametrize(("share", "kept"), [(1.0, True), (0.5, False), (0.0, False), (np.nan, False)])
def test_a_claim_of_change_needs_every_other_training(label: Label, share: float, kept: bool) -> None:
    found = held_back(numbers(label, "shared"), ClaimSupport(found_again=np.array([share, share])), RULE)
    assert found.tolist() == numbers(label if kept else "undetermined", "shared").tolist()
    alone = RULE.model_copy(update={"replications": 0})
    support = ClaimSupport(found_again=np.array([share]))
    assert held_back(numbers(label), support, alone).tolist() == numbers(label).tolist()


def test_fewer_trainings_than_the_rule_asks_for_support_no_claim() -> None:
    eye = torch.eye(2)
    found = replication((eye, eye), [replica(eye, eye, "new", "new")], COSINE)
    assert np.isnan(found.share(numbers("new", "new"), RULE)).all()
    asked_for_one = RULE.model_copy(update={"replications": 1})
    assert found.share(numbers("new", "new"), asked_for_one).tolist() == [1, 1]
    assert np.isnan(Replication.unknown(2).share(numbers("new", "new"), asked_for_one)).all()


def test_the_reason_says_what_the_other_trainings_found() -> None:
    new = evidence(0.1, 1.0, new=toward(0.05, 0.1))
    assert "found again by 2 of 2 other trainings" in verdict_of(new, RULE).reason
    half = verdict_of(new, RULE, FoundAgain(0.5, 2))
    assert half.label == "undetermined" and "1 of 2 other trainings" in half.reason
    none = verdict_of(new, RULE, FoundAgain(np.nan, 1))
    assert none.label == "undetermined" and "the run has 1 (controls.seeds)" in none.reason
