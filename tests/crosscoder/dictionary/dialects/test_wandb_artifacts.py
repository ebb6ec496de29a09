"""Dictionaries that runs logged to wandb are loaded by name; the API of wandb is a fake that serves folders."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from wandb.errors import AuthenticationError, CommError, UsageError

from crosscoder import load_crosscoder
from crosscoder.config import CrosscoderConfig, JumpReLU
from crosscoder.config.dictionary_source import DictionarySource
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.dialects.import_dictionary import import_dictionary
from crosscoder.dictionary.dialects.saelens import export_saelens
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.errors import ConfigError, CrosscoderError, FormatError, ResourceError
from tests.dictionaries import raw_activations, small_crosscoder

NAME = "team/proj ect/crosscoder-1a2b:latest"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for each artifact, TEAM/PROJECT/NAME; every one is version v3, and also called latest."""
    remote = tmp_path / "remote"

    class Artifact:
        version = "v3"

        def __init__(self, folder: Path) -> None:
            self.folder = folder

        def download(self, root: str) -> str:
            shutil.copytree(self.folder, root, dirs_exist_ok=True)
            return root

    class Api:
        def artifact(self, name: str) -> Artifact:
            folder, _, version = name.partition(":")
            if version not in ("latest", "v3") or not (remote / folder).is_dir():
                raise CommError(f"artifact '{name}' not found\nmore")
            return Artifact(remote / folder)

    monkeypatch.setattr(wandb, "Api", Api)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    save_crosscoder(small_crosscoder("batch_topk", "two"), remote / NAME.partition(":")[0], {"pair": None})
    return remote


def test_what_a_run_logged_is_the_same_dictionary(remote: Path, tmp_path: Path) -> None:
    found = import_dictionary(DictionarySource(source=f"wandb:{NAME}"))
    values, logged = raw_activations((6, 6)), small_crosscoder("batch_topk", "two")
    assert torch.equal(found.crosscoder.encode(values), logged.encode(values))
    assert found.provenance["imported"]["source"] == f"wandb:{NAME}"
    # The version is recorded, because what `latest` stands for changes.
    assert found.provenance["imported"]["revision"] == "v3"
    assert (tmp_path / "cache" / "crosscoder" / "team" / "proj ect" / "crosscoder-1a2b" / "v3").is_dir()


def test_an_artifact_may_hold_files_of_another_tool_in_a_folder(remote: Path) -> None:
    config = CrosscoderConfig(
        d_models=(6,), model_names=("pooled",), n_latents=8, sparsity=JumpReLU(target_l0=None)
    )
    export_saelens(Crosscoder(config), remote / "team" / "p" / "mine" / "layer.3")
    found = load_crosscoder("wandb:team/p/mine:v3", subfolder="layer.3")
    assert found.config.n_latents == 8


def test_an_altered_artifact_is_refused(remote: Path) -> None:
    weights = remote / "team" / "proj ect" / "crosscoder-1a2b" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(FormatError, match="does not match the digest"):
        load_crosscoder(f"wandb:{NAME}")


@pytest.mark.parametrize(
    "name",
    ["", "name", "project/name", "team/project/name", "team/project/name:", "a/b/c/d:v0", "../../etc:v0", "a/../b:v0", "a/b/c:.."],
)  # fmt: skip
def test_what_is_no_name_of_an_artifact_is_refused(name: str, remote: Path) -> None:
    with pytest.raises(ConfigError, match="give wandb:ENTITY/PROJECT/NAME:VERSION"):
        load_crosscoder(f"wandb:{name}")


def test_a_missing_artifact_is_one_line(remote: Path) -> None:
    with pytest.raises(
        FormatError, match=r"cannot be downloaded from wandb .artifact 'team/p/other:v0' not found.$"
    ):
        load_crosscoder("wandb:team/p/other:v0")


@pytest.mark.parametrize(
    "error",
    [UsageError("No authentication configured.\nmore"), AuthenticationError("bad key")],
    ids=lambda error: type(error).__name__,
)
def test_without_a_login_it_says_how_to_log_in(
    error: Exception, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def api() -> Any:
        raise error

    monkeypatch.setattr(wandb, "Api", api)
    with pytest.raises(ResourceError, match=r"not logged in .*; type `wandb login`") as caught:
        load_crosscoder(f"wandb:{NAME}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "mode"),
    [("WANDB_MODE", "offline", "offline"), ("WANDB_MODE", "dryrun", "offline"), ("WANDB_DISABLED", "true", "disabled")],
)  # fmt: skip
def test_nothing_is_asked_of_wandb_where_it_is_switched_off(
    variable: str, value: str, mode: str, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(wandb, "Api", lambda: pytest.fail("asked"))
    with pytest.raises(ConfigError, match=f"wandb is {mode} here"):
        load_crosscoder(f"wandb:{NAME}")


def test_a_revision_is_no_version(remote: Path) -> None:
    with pytest.raises(CrosscoderError, match="revision: has no effect on wandb:"):
        load_crosscoder(f"wandb:{NAME}", revision="v0")
