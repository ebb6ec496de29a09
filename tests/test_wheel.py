"""The wheel: its content, and that it works next to other modules named `training` and `analysis`."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"crosscoder", "training", "analysis"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=300)
    (built,) = folder.glob("crosscoder-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a fresh environment that shares all other packages with this one; return its scripts folder."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(folder),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*command, str(wheel)], check=True, timeout=300)
    # Appended to the path without processing its .pth files, so the editable install of this tree is not visible.
    Path(paths["purelib"], "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return Path(paths["scripts"])


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    """Make a working directory with modules of the same names as two of our packages."""
    (tmp_path / "training.py").write_text("raise SystemExit('the decoy ran')\n")
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "__init__.py").write_text("raise SystemExit('the decoy ran')\n")
    return tmp_path


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_the_wheel_holds_three_packages_and_their_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES
    tracked = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tracked <= set(names)
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_command_runs_next_to_decoys(installed: Path, decoys: Path) -> None:
    for program in ([installed / "crosscoder"], [installed / "python", "-m", "crosscoder"]):
        done = run(*program, "--help", folder=decoys)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: crosscoder" in done.stdout


def test_the_console_command_runs_our_packages_next_to_decoys(installed: Path, decoys: Path) -> None:
    (decoys / "files.yaml").write_text(
        "output: run\nactivations: {kind: files, reference: a.npy, intervened: b.npy}\n"
    )
    done = run(installed / "crosscoder", "train", "files.yaml", folder=decoys)
    assert done.returncode == 2
    assert "a.npy" in done.stderr
    assert "decoy" not in done.stderr


def test_the_module_names_the_decoy_that_it_will_not_run(installed: Path, decoys: Path) -> None:
    (decoys / "files.yaml").write_text(
        "output: run\nactivations: {kind: files, reference: a.npy, intervened: b.npy}\n"
    )
    done = run(installed / "python", "-m", "crosscoder", "train", "files.yaml", folder=decoys)
    assert done.returncode == 2
    assert done.stderr.startswith(f"crosscoder: training: Python finds {decoys / 'training.py'}, expected ")
    assert done.stderr.count("\n") == 1


def test_imports_resolve_to_the_wheel(installed: Path, tmp_path: Path) -> None:
    program = "import analysis, crosscoder, training; print(*(m.__file__ for m in (analysis, crosscoder, training)))"
    done = run(installed / "python", "-c", program, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(Path(name).is_relative_to(installed.parent) for name in done.stdout.split())
