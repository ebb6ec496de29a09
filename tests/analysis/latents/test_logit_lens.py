from typing import Any

import torch
from torch import Tensor

from analysis.latents.dictionary_view import view_of
from analysis.latents.logit_lens import lens_directions, logits_table
from analysis.tables.columns import LOGITS
from crosscoder.config import CrosscoderConfig, ReLU
from crosscoder.dictionary.crosscoder import Crosscoder

VOCABULARY = ["zero", "one", "two", "three"]


class Reader:
    """Reads coordinate i as token i; the intervened model doubles the logits."""

    def direction_logits(self, directions: Tensor, model: int) -> Tensor:
        return directions * (1 + model)


def view(rows: list[list[float]], names: tuple[str, ...] = ("reference", "intervened"), width: int = 4):
    d_models = tuple(width for _ in names)
    config = CrosscoderConfig(
        d_models=d_models, model_names=names, n_latents=len(rows), sparsity=ReLU(target_l0=1)
    )
    crosscoder = Crosscoder(config)
    with torch.no_grad():
        crosscoder.W_dec.copy_(torch.tensor(rows))
    reads: Any = "paired" if len(names) == 2 else names[0]
    return view_of(crosscoder, (width, width), reads)


def entries(table, **wanted) -> list[tuple[str, float]]:
    rows = [row for row in table.to_pylist() if all(row[name] == value for name, value in wanted.items())]
    assert [row["rank"] for row in rows] == list(range(len(rows)))
    return [(row["token"], row["value"]) for row in rows]


def test_tables_of_both_models_and_of_the_difference() -> None:
    rows = [[1.0, 2.0, 0.0, -1.0, 1.0, 2.0, 5.0, -1.0]]
    table = logits_table(view(rows), Reader(), torch.tensor([True]), 2, (VOCABULARY, VOCABULARY))
    assert table.schema.equals(LOGITS.schema())
    assert entries(table, model="reference", side="top") == [("one", 2.0), ("zero", 1.0)]
    assert entries(table, model="reference", side="bottom") == [("three", -1.0), ("two", 0.0)]
    assert entries(table, model="intervened", side="top") == [("two", 10.0), ("one", 4.0)]
    assert entries(table, model="difference", side="top")[0] == ("two", 10.0)


def test_directions_that_are_too_short_have_no_rows() -> None:
    """A row a thousand times shorter than the other model's, and the difference of two equal rows."""
    rows = [[1e-4, 0, 0, 0, 1.0, 0, 0, 0], [1.0, 1, 0, 0, 1.0, 1, 0, 0], [1.0, 0, 0, 0, 0, 0, 0, 0]]
    table = logits_table(view(rows), Reader(), torch.tensor([True, True, False]), 1, (VOCABULARY, VOCABULARY))
    found = {(row["latent"], row["model"]) for row in table.to_pylist()}
    assert found == {(0, "intervened"), (0, "difference"), (1, "reference"), (1, "intervened")}


def test_one_direction_of_a_pooled_or_difference_dictionary() -> None:
    rows = [[0.0, 3.0, 0.0, 0.0]]
    pooled = logits_table(
        view(rows, ("pooled",)), Reader(), torch.tensor([True]), 1, (VOCABULARY, VOCABULARY)
    )
    assert entries(pooled, model="reference", side="top") == [("one", 3.0)]
    assert entries(pooled, model="intervened", side="top") == [("one", 6.0)]
    difference = logits_table(
        view(rows, ("difference",)), Reader(), torch.tensor([True]), 1, (VOCABULARY, VOCABULARY)
    )
    assert {row["model"] for row in difference.to_pylist()} == {"difference"}
    assert entries(difference, model="difference", side="top") == [("one", 6.0)]


def test_an_unembedding_longer_than_the_vocabulary() -> None:
    table = logits_table(
        view([[0.0, 0, 0, 9.0, 0, 0, 0, 1.0]]),
        Reader(),
        torch.tensor([True]),
        1,
        (VOCABULARY[:3], VOCABULARY),
    )
    assert entries(table, model="reference", side="top") == [("<id 3>", 9.0)]


def test_models_of_different_width_have_no_difference() -> None:
    config = CrosscoderConfig(
        d_models=(2, 3), model_names=("reference", "intervened"), n_latents=1, sparsity=ReLU(target_l0=1)
    )
    assert set(lens_directions(view_of(Crosscoder(config), (2, 3), "paired"))) == {
        "reference",
        "intervened",
    }
