from pathlib import Path

import numpy as np
import pytest

from crosscoder.activations.user_files import BLOCK_ROWS, open_files
from crosscoder.config import FileActivations
from crosscoder.errors import DataError
from training.sources import FileSource


def files(folder: Path, n_rows: int = 700, documents: np.ndarray | None = None) -> FileActivations:
    random = np.random.default_rng(0)
    for name in ("reference", "intervened"):
        np.save(folder / f"{name}.npy", random.normal(size=(n_rows, 3)).astype(np.float32))
    if documents is not None:
        np.save(folder / "documents.npy", documents)
    return FileActivations(
        reference=folder / "reference.npy",
        intervened=folder / "intervened.npy",
        documents=None if documents is None else folder / "documents.npy",
        held_out=0.3,
    )


def test_every_row_is_in_one_split_and_documents_are_whole(tmp_path: Path) -> None:
    documents = np.random.default_rng(1).integers(-5, 40, 700) * 10**9
    sides = open_files(files(tmp_path, documents=documents), seed=3)
    assert sides.train.n_tokens + sides.held_out.n_tokens == 700
    trained = {int(d) for batch in sides.train.batches(64) for d in batch.document}
    held_out = {int(d) for batch in sides.held_out.batches(64) for d in batch.document}
    assert not trained & held_out
    assert trained | held_out == set(documents.tolist())
    assert len(held_out) == round(0.3 * len(set(documents.tolist())))


@pytest.mark.parametrize("seed", [0, 1])
def test_analyzed_rows_were_never_trained_on(tmp_path: Path, seed: int) -> None:
    """Training and analysis hold out the same rows."""
    config = files(tmp_path, documents=np.arange(700) // 13)
    trained = FileSource(config, seed).held_out()
    analyzed = open_files(config, seed).held_out
    for one, other in zip(trained.batches(50), analyzed.batches(50), strict=True):
        assert one.document.tolist() == other.document.tolist()
        assert one.position.tolist() == other.position.tolist()
        assert one.values.tolist() == other.values.tolist()


def test_without_documents_rows_come_in_blocks(tmp_path: Path) -> None:
    sides = open_files(files(tmp_path), seed=0)
    assert sides.document.tolist() == [row // BLOCK_ROWS for row in range(700)]


def test_one_document_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing can be held out"):
        open_files(files(tmp_path, n_rows=100), seed=0)


def test_snapshots_follow_reference_and_intervened(tmp_path: Path) -> None:
    config = files(tmp_path)
    for name in ("first", "second"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(1).normal(size=(700, 4)).astype(np.float32))
    chain = config.model_copy(update={"snapshots": (tmp_path / "first.npy", tmp_path / "second.npy")})
    ends, whole = open_files(config, seed=0), open_files(chain, seed=0)
    assert whole.train.d_models == (3, 3, 4, 4)
    for one, other in zip(ends.train.batches(64), whole.train.batches(64), strict=True):
        assert one.document.tolist() == other.document.tolist()
        assert one.values.tolist() == other.values[:, :6].tolist()
    np.save(tmp_path / "second.npy", np.zeros((699, 4), dtype=np.float32))
    with pytest.raises(DataError, match=r"activations\.snapshots\.1: .*second\.npy has 699 rows"):
        open_files(chain, seed=0)


def test_files_of_unequal_length(tmp_path: Path) -> None:
    config = files(tmp_path)
    np.save(config.intervened, np.zeros((699, 3), dtype=np.float32))
    with pytest.raises(DataError, match="699 rows"):
        open_files(config, seed=0)
