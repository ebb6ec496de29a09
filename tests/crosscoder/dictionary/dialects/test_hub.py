"""Dictionaries on the Hub: only one folder is downloaded, and the commit that was read is recorded."""

import fnmatch
import shutil
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from crosscoder import load_crosscoder
from crosscoder.config.dictionary_source import DictionarySource
from crosscoder.dictionary.dialects.hub import is_hub_id
from crosscoder.dictionary.dialects.import_dictionary import import_dictionary
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.errors import FormatError
from tests.dictionaries import small_crosscoder
from tests.foreign_dictionaries import FIXTURES, PAIR, POOLED

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOT_FOUND: Any = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
REPOSITORY = "science-of-finetuning/crosscoder"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A repository with two dictionaries in folders, one at its top, and a large file that nobody needs."""
    repository, cache = tmp_path / "remote", tmp_path / "hub" / "snapshots" / COMMIT
    shutil.copytree(FIXTURES / "crosscoder_learning" / "relu", repository)
    shutil.copytree(FIXTURES / "sparsify" / "topk", repository / "layers.5")
    shutil.copytree(FIXTURES / "sparsify" / "topk", repository / "layers.5" / "older")
    save_crosscoder(small_crosscoder("relu", "two"), repository / "ours")
    (repository / "video.mp4").write_bytes(b"large")
    seen: dict[str, Any] = {}

    def snapshot_download(
        repo_id: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        seen.update(repository=repo_id, revision=revision)
        for path in sorted(repository.rglob("*")):
            name = path.relative_to(repository).as_posix()
            allowed = any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns)
            if (
                path.is_file()
                and allowed
                and not any(fnmatch.fnmatch(name, pattern) for pattern in ignore_patterns)
            ):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, cache / name)
        cache.mkdir(parents=True, exist_ok=True)
        seen["files"] = sorted(
            path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()
        )
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return seen


def test_the_top_folder_alone_is_downloaded(remote: dict[str, Any]) -> None:
    found = import_dictionary(DictionarySource(source=REPOSITORY, revision="v1", **PAIR))
    assert remote["files"] == ["config.json", "model.safetensors"]
    assert (remote["repository"], remote["revision"]) == (REPOSITORY, "v1")
    origin = found.provenance["imported"]
    assert (origin["source"], origin["revision"]) == (REPOSITORY, COMMIT)
    assert sorted(origin["sha256"]) == ["config.json", "model.safetensors"]


def test_a_subfolder_alone_is_downloaded(remote: dict[str, Any]) -> None:
    crosscoder = load_crosscoder(REPOSITORY, subfolder="layers.5", **POOLED)
    assert remote["files"] == ["layers.5/cfg.json", "layers.5/sae.safetensors"]
    assert crosscoder.config.model_names == ("pooled",)


def test_our_own_dictionary_on_the_hub_is_loaded(remote: dict[str, Any]) -> None:
    found = import_dictionary(DictionarySource(source=REPOSITORY, subfolder="ours"))
    assert found.crosscoder.config == small_crosscoder("relu", "two").config
    assert found.provenance["imported"]["revision"] == COMMIT


def test_a_folder_without_a_dictionary_names_the_option(remote: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"no files of a dictionary in nowhere/.*--subfolder"):
        load_crosscoder(REPOSITORY, subfolder="nowhere")


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("offline\nmore"),
        OSError("no route"),
        *(
            kind("404 not found\nmore", response=NOT_FOUND)
            for kind in (RepositoryNotFoundError, RevisionNotFoundError)
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_downloaded_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FormatError, match=f"{REPOSITORY}: cannot be downloaded from the Hub") as caught:
        load_crosscoder(REPOSITORY)
    assert "\n" not in str(caught.value)


def test_a_path_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("org/name")
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert not is_hub_id("org/name")
    for path in ("/tmp/x", "./org/name", "name", "a/b/c", "~/org", "../name"):
        assert not is_hub_id(path)
