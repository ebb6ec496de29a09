"""The questions: two splits with nothing in common."""

from itertools import product

import pytest

from crosscoder.demo.questions import Kind, Split, phrasings, questions, subjects

KINDS: tuple[Kind, ...] = ("food", "other")
SPLITS: tuple[Split, ...] = ("train", "held_out")


@pytest.mark.parametrize("kind", KINDS)
def test_the_splits_share_no_subject_phrasing_or_question(kind: Kind):
    assert not set(subjects(kind, "train")) & set(subjects(kind, "held_out"))
    assert not set(phrasings(kind, "train")) & set(phrasings(kind, "held_out"))
    assert not set(questions(kind, "train", 1000)) & set(questions(kind, "held_out", 150))


def test_no_subject_is_of_both_kinds():
    food = {subject for split in SPLITS for subject in subjects("food", split)}
    other = {subject for split in SPLITS for subject in subjects("other", split)}
    assert not food & other


@pytest.mark.parametrize(("kind", "n_subjects", "n_phrasings"), [("food", 100, 15), ("other", 150, 15)])
def test_training_is_diverse(kind: Kind, n_subjects: int, n_phrasings: int):
    assert len(subjects(kind, "train")) >= n_subjects
    assert len(phrasings(kind, "train")) >= n_phrasings


@pytest.mark.parametrize("kind", KINDS)
def test_no_subject_is_listed_twice(kind: Kind):
    listed = [*subjects(kind, "train"), *subjects(kind, "held_out")]
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(("kind", "split"), [*product(KINDS, SPLITS)])
def test_questions_are_different_and_reproducible(kind: Kind, split: Split):
    asked = questions(kind, split, 100)
    assert len(set(asked)) == len(asked) == 100
    assert asked == questions(kind, split, 100)
    assert asked != questions(kind, split, 100, seed=1)
    assert not any("{" in question for question in asked)


def test_the_other_kind_borrows_the_words_of_food():
    asked = " ".join(questions("other", "train", 1000))
    assert all(word in asked for word in ("pie", "cookie", "potato", "Raspberry"))


def test_more_questions_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="the held_out split has"):
        questions("food", "held_out", 10_000)
