"""Latents of one run looked up in another by the directions that they write."""

from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.comparison.compare import comparison_of
from analysis.comparison.compared_runs import read_runs
from analysis.comparison.comparison_schema import Comparison, MatchCell
from analysis.comparison.latent_lookup import nearest_latents
from analysis.labels.replication import Replica, replication
from crosscoder.run.folder import RunFolder

from .compared_run_folders import N_LATENTS, make_bare_run, make_run, rotated


def compared(*folders: RunFolder) -> Comparison:
    return comparison_of(read_runs([folder.path for folder in folders]), folders[0].path)


def all_of(comparison: Comparison, run: str, other: int) -> MatchCell:
    (row,) = [row for row in comparison.latents.shares if (row.run, row.group) == (run, "all")]
    return row.cells[other]


def directions(seed: int, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(n, 6, generator=generator) for _ in range(2))
    other[::3] *= 0.01  # Of these only the direction in the first model counts.
    return one, other


def test_the_nearest_latent_is_that_of_the_naive_formula() -> None:
    ours, theirs = directions(0), directions(1)
    found = nearest_latents(ours, theirs, torch.ones(40, dtype=torch.bool))
    for latent in range(40):
        norms = [float(rows[latent].norm()) for rows in ours]
        alike = [
            min(
                float(torch.cosine_similarity(a[latent], b[candidate], dim=0))
                for a, b, norm in zip(ours, theirs, norms, strict=True)
                if norm >= 0.5 * max(norms)
            )
            for candidate in range(40)
        ]
        assert float(found.cosine[latent]) == pytest.approx(max(alike), abs=1e-5)
        assert int(found.latent[latent]) == alike.index(max(alike))


@pytest.mark.parametrize("cosine", [0.5, 0.7, 0.9])
def test_found_again_means_what_it_means_in_a_report(cosine: float) -> None:
    ours, theirs = directions(0), directions(1)
    theirs[0][:5], theirs[1][:5] = ours[0][10:15], ours[1][10:15]
    found = nearest_latents(ours, theirs, torch.ones(40, dtype=torch.bool)).cosine >= cosine
    again = replication(ours, [Replica("other", theirs, ("shared",) * 40)], cosine).by_direction
    assert found.double().tolist() == again.tolist()
    assert found.any()


def test_only_candidates_are_found() -> None:
    ours = directions(0)
    among = torch.ones(40, dtype=torch.bool)
    among[7] = False
    found = nearest_latents(ours, ours, among)
    assert (found.latent == torch.arange(40)).tolist() == among.tolist()


def test_the_shares_are_those_of_a_dictionary_that_was_turned_so(tmp_path: Path) -> None:
    """A third of the latents turned to a cosine of 0.8, a third to 0.1: two thirds are found loosely, one third closely."""
    one, other = (make_run(tmp_path / name) for name in "ab")
    third = N_LATENTS // 3
    rotated(other, one, 0.8, slice(0, third))
    rotated(other, other, 0.1, slice(third, 2 * third))
    cell = all_of(compared(one, other), "a", 1)
    assert cell.state == "measured"
    assert cell.found_closely is not None and cell.found_loosely is not None
    # In few dimensions, some of the turned latents are near another latent by chance.
    assert cell.found_closely == pytest.approx(1 / 3, abs=0.15)
    assert cell.found_loosely == pytest.approx(2 / 3, abs=0.15)


def test_other_dictionaries_are_not_found(tmp_path: Path) -> None:
    cell = all_of(compared(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)), "a", 1)
    assert cell.found_closely is not None and cell.found_closely < 0.1


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ({"hookpoint": "model.layers.3"}, "differ in the hookpoint"),
        ({"weights": "another"}, "differ in the models"),
    ],
)
def test_runs_that_read_other_activations_are_not_compared(
    tmp_path: Path, pair: dict[str, Any], said: str
) -> None:
    comparison = compared(make_run(tmp_path / "a"), make_run(tmp_path / "b", pair=pair)).latents
    assert said in comparison.statement.text
    assert (comparison.shares, comparison.latents) == ((), ())


def test_the_same_models_elsewhere_on_disk_are_the_same(tmp_path: Path) -> None:
    moved = make_run(tmp_path / "b", pair={"model": "/elsewhere/SmolLM2-135M-Instruct"}, weights=0)
    comparison = compared(make_run(tmp_path / "a"), moved)
    assert all_of(comparison, "a", 1).found_closely == 1.0
    assert [row.name for row in comparison.settings] == []


def test_runs_are_compared_within_groups_of_the_same_activations(tmp_path: Path) -> None:
    other = {"hookpoint": "model.layers.3"}
    folders = [
        make_run(tmp_path / "a"), make_run(tmp_path / "b"), make_run(tmp_path / "c", pair=other),
        make_run(tmp_path / "d", pair=other), make_bare_run(tmp_path / "e"),
    ]  # fmt: skip
    comparison = compared(*folders)
    assert comparison.latents.statement.text == (
        "Latents are compared only between dictionaries that read the same activations: a, b; c, d. The runs differ in the hookpoint. "
        "Not compared: e: it has no dictionary yet."
    )
    states = [all_of(comparison, "c", other).state for other in range(5)]
    assert states == ["not comparable", "not comparable", "itself", "measured", "not comparable"]


def test_latents_of_stated_labels_are_looked_up_one_by_one(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    rotated(folders[1], folders[0], 0.6, slice(0, N_LATENTS))
    comparison = compared(*folders)
    counts = {row.label: row.cells[0].count for row in comparison.labels}
    groups = {row.group: row.latents for row in comparison.latents.shares if row.run == "a"}
    for label in ("new", "lost", "rotated"):
        count = counts[label]
        assert count is not None and groups[label] == count.count > 0
        single = [one for one in comparison.latents.latents if (one.run, one.label) == ("a", label)]
        assert len(single) == count.count
        for one in single:
            near = one.nearest[1]
            assert near is not None and near.cosine >= 0.6 - 1e-5
