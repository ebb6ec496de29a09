"""The fixtures are what the tools of today write and compute: those that can be installed write them anew.

`make peers` installs them. The others need a clone of their repository (`tests/peer_dictionaries.py`).
"""

import importlib.util
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.foreign_dictionaries import FIXTURES
from tests.processes import run_python

pytestmark = pytest.mark.slow  # importing the tools takes several seconds


@pytest.mark.parametrize("peer", ["sparsify", "llamascopium"])
def test_a_tool_writes_its_fixtures_anew(peer: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed; make peers installs it")
    # A process of its own: the tool's warnings are not ours.
    done = run_python("-m", "tests.peer_dictionaries", peer, str(tmp_path), timeout=300)
    assert done.returncode == 0, done.stderr
    kept = sorted(path.relative_to(FIXTURES) for path in (FIXTURES / peer).rglob("*") if path.is_file())
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert written == kept
    for name in kept:
        if name.suffix in (".safetensors", ".st"):
            ours, theirs = load_file(FIXTURES / name), load_file(tmp_path / name)
            assert ours.keys() == theirs.keys(), name
            for key, tensor in ours.items():
                assert tensor.allclose(theirs[key], rtol=1e-5, atol=1e-6), (name, key)
        else:
            ours, theirs = (json.loads((folder / name).read_text()) for folder in (FIXTURES, tmp_path))
            assert ours == theirs, name
