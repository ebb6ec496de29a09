from typing import Any

import pyarrow as pa
import torch

from analysis.latents.dictionary_view import DictionaryView, view_of
from analysis.latents.logit_lens import count_readable, lens_directions, lens_nulls, logits_table, n_read
from analysis.tables.columns import LOGITS
from crosscoder.config import CrosscoderConfig, ReLU
from crosscoder.dictionary.crosscoder import Crosscoder

from .matrix_reader import MatrixReader

VOCABULARY = ["zero", "one", "two", "three"]


READER = MatrixReader(torch.eye(4))


def table_of(view: DictionaryView, alive: list[bool], count: int, vocabularies: Any = None) -> pa.Table:
    vocabularies = vocabularies or (VOCABULARY, VOCABULARY)
    mask = torch.tensor(alive)
    nulls = lens_nulls(view, READER, mask, count, seed=0)
    return logits_table(view, READER, mask, count, vocabularies, nulls, 0.05)


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
    table = table_of(view(rows), [True], 2)
    assert table.schema.equals(LOGITS.schema())
    assert entries(table, model="reference", side="top") == [("one", 2.0), ("zero", 1.0)]
    assert entries(table, model="reference", side="bottom") == [("three", -1.0), ("two", 0.0)]
    assert entries(table, model="intervened", side="top") == [("two", 10.0), ("one", 4.0)]
    assert entries(table, model="difference", side="top")[0] == ("two", 10.0)


def test_directions_that_are_too_short_have_no_rows() -> None:
    """A row a thousand times shorter than the other model's, and the difference of two equal rows."""
    rows = [[1e-4, 0, 0, 0, 1.0, 0, 0, 0], [1.0, 1, 0, 0, 1.0, 1, 0, 0], [1.0, 0, 0, 0, 0, 0, 0, 0]]
    table = table_of(view(rows), [True, True, False], 1)
    found = {(row["latent"], row["model"]) for row in table.to_pylist()}
    assert found == {(0, "intervened"), (0, "difference"), (1, "reference"), (1, "intervened")}


def test_one_direction_of_a_pooled_or_difference_dictionary() -> None:
    rows = [[0.0, 3.0, 0.0, 0.0]]
    pooled = table_of(view(rows, ("pooled",)), [True], 1)
    assert entries(pooled, model="reference", side="top") == [("one", 3.0)]
    assert entries(pooled, model="intervened", side="top") == [("one", 6.0)]
    difference = table_of(view(rows, ("difference",)), [True], 1)
    assert {row["model"] for row in difference.to_pylist()} == {"difference"}
    assert entries(difference, model="difference", side="top") == [("one", 6.0)]


def test_an_unembedding_longer_than_the_vocabulary() -> None:
    table = table_of(view([[0.0, 0, 0, 9.0, 0, 0, 0, 1.0]]), [True], 1, (VOCABULARY[:3], VOCABULARY))
    assert entries(table, model="reference", side="top") == [("<id 3>", 9.0)]


def test_models_of_different_width_have_no_difference() -> None:
    config = CrosscoderConfig(
        d_models=(2, 3), model_names=("reference", "intervened"), n_latents=1, sparsity=ReLU(target_l0=1)
    )
    assert set(lens_directions(view_of(Crosscoder(config), (2, 3), "paired"))) == {
        "reference",
        "intervened",
    }


def test_a_list_says_whether_it_beats_random_directions() -> None:
    """Sixty latents write noise, and four also a row of the unembedding; all changes of direction lie along one row."""
    generator = torch.Generator().manual_seed(0)
    width = 24
    families = torch.randn(30, width, generator=generator).repeat_interleave(4, dim=0)
    rows = families + 0.3 * torch.randn(120, width, generator=generator)
    reader = MatrixReader(rows)
    latents = torch.randn(64, width, generator=generator)
    latents[:4] = rows[:16:4]
    decoder = torch.cat([latents, latents + 0.1 * torch.rand(64, 1, generator=generator) * rows[40]], dim=1)
    seen = view(decoder.tolist(), width=width)
    alive = torch.ones(64, dtype=torch.bool)
    nulls = lens_nulls(seen, reader, alive, 4, seed=0)
    vocabulary = [f"{token // 4}" for token in range(120)]
    table = logits_table(seen, reader, alive, 4, (vocabulary, vocabulary), nulls, 0.05)
    frame: Any = table.to_pandas()
    lists = frame.groupby(["latent", "model", "side"])[["alignment", "p_value", "q_value", "readable"]]
    assert (lists.nunique() == 1).all(axis=None)
    assert ((frame["q_value"] <= 0.05) == frame["readable"]).all()
    readable: Any = lists.first()["readable"].unstack(["model", "side"])
    assert readable["reference", "top"][:4].all() and readable["reference", "top"][4:].mean() < 0.1
    # Every difference is along one row: the random directions it is compared with are those of the model.
    assert readable["difference", "top"].all() and not readable["difference", "bottom"].any()
    counts = count_readable(table)
    assert counts["difference"] == {
        "bottom": {"lists": 64, "readable": 0},
        "top": {"lists": 64, "readable": 64},
    }
    steps: list[int] = []
    lens_nulls(seen, reader, alive, 4, 0, steps.append)
    logits_table(seen, reader, alive, 4, (vocabulary, vocabulary), nulls, 0.05, steps.append)
    assert sum(steps) == n_read(seen, alive)
