"""Settings of several runs: what differs, and what is equal."""

import json
from pathlib import Path

from analysis.comparison.compared_runs import read_runs
from analysis.comparison.compared_settings import compare_settings
from crosscoder.run.folder import RunFolder

from .compared_run_folders import make_bare_run, make_run


def differing(*folders: RunFolder) -> dict[str, list[str]]:
    _, rows = compare_settings(read_runs([folder.path for folder in folders]))
    return {row.name: [cell.shown.text for cell in row.cells] for row in rows}


def test_only_settings_that_differ_are_listed(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a")
    other = make_run(tmp_path / "b", sparsity={"kind": "topk", "k": 6}, lr=3e-3, log_every=7)
    assert differing(one, other) == {
        "crosscoder.sparsity.kind": ["batch_topk", "topk"],
        "crosscoder.sparsity.k": ["4", "6"],
        "training.lr": ["0.001", "0.003"],
    }


def test_equal_settings_are_named_in_one_line(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
    equal, rows = compare_settings(read_runs([one.path, other.path]))
    assert [row.name for row in rows] == ["seed"]
    assert "crosscoder.n_latents 60" in equal.text
    assert "intervened model SmolLM2-135M-Instruct + refuse-food (5d1c0f7a 9ab20077)" in equal.text


def test_models_are_the_same_by_their_weights(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "a"), make_run(tmp_path / "b", pair={"weights": "0123456789"})
    assert list(differing(one, other)) == ["reference model", "intervened model"]


def test_the_text_is_the_same_by_its_digest(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    for folder, digest in zip(folders, ("6b465709aaaa", "e8fc2273aaaa"), strict=True):
        manifest = json.loads(folder.manifest.read_text())
        folder.manifest.write_text(json.dumps(manifest | {"data": {"fingerprint": digest}}))
    assert differing(*folders) == {"digest of the text": ["6b465709", "e8fc2273"]}


def test_settings_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    folders = [make_bare_run(tmp_path / "a"), make_run(tmp_path / "b"), make_bare_run(tmp_path / "c")]
    folders[2].config.write_text("colour: red\n")
    assert differing(*folders)["crosscoder.n_latents"] == ["128", "60", "cannot be read"]
