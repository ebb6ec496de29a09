"""Packs inside the page or in separate files, and removal of those of an earlier build."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.bench import large_run
from analysis.browser import build
from analysis.browser.files import PackFiles
from analysis.tables.analysis_files import load_results
from tests.analysis.page_views import write_page

from ..page_views import page_files
from ..run_folder import make_run_folder


def test_the_limit_decides_between_one_file_and_a_folder(tmp_path: Path) -> None:
    """With a limit equal to the total size all packs stay inside; one byte less, and every pack is a file."""
    packs = ["a" * 10, "b" * 20, "c" * 30]
    inside = PackFiles(tmp_path, limit=60)
    inside.take(packs)
    assert (inside.inside, inside.names, inside.nonce, inside.record()) == (packs, [], None, None)
    assert not (tmp_path / "data").exists()
    outside = PackFiles(tmp_path, limit=59)
    outside.take(packs)
    assert outside.inside == []
    texts = [(tmp_path / "data" / f"{name}.js").read_text() for name in outside.names]
    assert texts == [
        f'crosscoderPack("{name}","{pack}");\n' for name, pack in zip(outside.names, packs, strict=True)
    ]


def test_at_most_the_limit_is_held_in_memory(tmp_path: Path) -> None:
    taken = PackFiles(tmp_path, limit=50)

    def packs() -> Iterator[str]:
        for index in range(40):
            # The packs taken before this one.
            assert sum(map(len, taken.inside)) <= 50
            yield f"{index:010d}"

    taken.take(packs())
    assert len(taken.names) == 40


def test_files_of_an_earlier_build_are_removed_and_other_files_kept(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=130)
    write_page(folder, 0)
    first = set(page_files(folder))
    note = folder.browser / "data" / "note.js"
    note.write_text("mine")
    make_other = make_run_folder(tmp_path / "other", n_latents=130, seed=1)
    folder.examples.write_bytes(make_other.examples.read_bytes())
    write_page(folder, 0)
    second = set(page_files(folder))
    assert first & second == {"index.html"}
    assert len(second) == len(first) + 1
    note.unlink()
    write_page(folder)
    assert set(page_files(folder)) == {"index.html"}
    assert not (folder.browser / "data").exists()


def test_an_interrupted_build_leaves_the_previous_page_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=130)
    write_page(folder, 0)
    before = page_files(folder)
    other = make_run_folder(tmp_path / "other", n_latents=130, seed=1)
    folder.examples.write_bytes(other.examples.read_bytes())
    monkeypatch.setattr(build, "overview_pack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_page(folder, 0)
    after = page_files(folder)
    assert before.items() < after.items()
    monkeypatch.undo()
    write_page(folder, 0)
    assert len(page_files(folder)) == len(before)


def test_a_synthetic_run_has_every_latent_and_number(tmp_path: Path) -> None:
    folder = large_run.write_large_run(tmp_path / "run", 1200)
    results = load_results(folder)
    alive = results.features["label"] != "dead"
    examples = results.examples().to_pandas()
    assert set(examples["latent"]) == set(results.features.loc[alive, "latent"])
    assert (examples.groupby("latent").size() == large_run.N_EXAMPLES).all()
    assert set(results.features["label"]) == {*large_run._LABELS, "shared"}
    write_page(folder)
