"""The nearest latents that fire: equal to a brute-force search, and the same on the page as in the file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import analysis.latents.neighbors as module
from analysis.browser.neighbor_section import by_latent
from analysis.latents.dictionary_view import view_of
from analysis.latents.neighbors import neighbors, neighbors_of
from analysis.tables.columns import NEIGHBORS, NEIGHBORS_KEPT
from analysis.tables.parquet import write_parquet
from crosscoder.errors import FormatError
from crosscoder.planted import SMALL, PlantedPair
from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..page_views import read_table
from ..run_folder import N_LATENTS, make_run_folder
from ..table_checks import described


def rows(n_latents: int = 30) -> Tensor:
    return torch.randn(n_latents, 6, generator=torch.Generator().manual_seed(0))


def one_by_one(values: Tensor, alive: Tensor, latent: int) -> list[int]:
    cosines = torch.cosine_similarity(values, values[latent][None], dim=1)
    others = [other for other in range(len(values)) if other != latent and alive[other]]
    return sorted(others, key=lambda other: -float(cosines[other]))


@pytest.mark.parametrize("entries", [2**26, 64])
def test_neighbors_equal_a_brute_force_search(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENTRIES", entries)
    values, alive = rows(), torch.arange(30) % 4 > 0
    found = neighbors(values, alive, 3)
    assert set(found.latent.tolist()) == set(alive.nonzero().flatten().tolist())
    for latent in found.latent.unique().tolist():
        mine = found.latent == latent
        assert found.neighbor[mine].tolist() == one_by_one(values, alive, latent)[:3]
        assert bool((found.cosine[mine].diff() <= 0).all())


@pytest.mark.parametrize("n_alive", [0, 1, 2])
def test_few_latents_that_fire_have_few_neighbors(n_alive: int) -> None:
    found = neighbors(rows(), torch.arange(30) < n_alive)
    assert len(found.latent) == (2 if n_alive == 2 else 0)
    assert len(found.table()) == len(found.latent)


def test_two_parts_of_a_feature_find_each_other(tmp_path: Path) -> None:
    pair = PlantedPair(counts=SMALL)
    dictionary = pair.dictionary(extra_latents=1)
    with torch.no_grad():
        dictionary.W_dec[-1] = 0.3 * dictionary.W_dec[2]
    view = view_of(dictionary, pair.d_models, "paired")
    table: Any = neighbors_of(view, torch.ones(view.n_latents, dtype=torch.int64)).to_pandas()
    nearest = table[table["rank"] == 0].set_index("latent")
    last = view.n_latents - 1
    assert nearest.loc[2, "neighbor"] == last and nearest.loc[last, "neighbor"] == 2
    assert nearest.loc[2, "cosine"] == pytest.approx(1)
    path = tmp_path / "neighbors.parquet"
    write_parquet(path, neighbors_of(view, torch.ones(view.n_latents, dtype=torch.int64)))
    described(path, NEIGHBORS)


def test_the_page_lists_those_of_the_file(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run")
    found = neighbors(rows(N_LATENTS), torch.arange(N_LATENTS) != 3)
    write_parquet(folder.neighbors, found.table())
    write_page(folder)
    table = read_table(folder.neighbors)
    view = visit(folder, "#latent=5")
    view.wait_for_latent(5)
    mine = table[table["latent"] == 5]
    shown = view.page.locator(".nearest li")
    assert shown.count() == len(mine) == NEIGHBORS_KEPT
    for item, (_, row) in zip(shown.all(), mine.iterrows(), strict=True):
        assert f"latent {row['neighbor']:.0f}" in item.inner_text()
        assert f"{row['cosine']:.2f}".replace("-", "−") in item.inner_text()
    shown.first.locator("a").click()
    view.wait_for_latent(int(mine["neighbor"].iloc[0]))
    view = visit(folder, "#latent=3")
    view.wait_for_latent(3)
    assert view.page.locator(".nearest").count() == 0


def test_a_file_of_another_dictionary_is_refused(tmp_path: Path) -> None:
    folder: RunFolder = make_run_folder(tmp_path / "run")
    write_parquet(
        folder.neighbors, neighbors(rows(N_LATENTS + 9), torch.ones(N_LATENTS + 9, dtype=torch.bool)).table()
    )
    with pytest.raises(FormatError, match="does not belong to this dictionary"):
        write_page(folder)


def test_lists_have_an_entry_for_every_latent() -> None:
    found, cosine = by_latent(
        {
            "latent": np.array([1]),
            "rank": np.array([0]),
            "neighbor": np.array([2]),
            "cosine": np.array([0.5]),
        },
        3,
    )
    assert found[1, 0] == 2 and (found[0] == -1).all() and np.isnan(cosine[2]).all() and cosine[1, 0] == 0.5
