"""What the shape of the repository promises: who imports whom, how modules are named, what the public door offers."""

import ast
import importlib
import inspect
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import crosscoder

ROOT = Path(__file__).parents[1]
PACKAGES = ("crosscoder", "training", "analysis")
MAY_IMPORT = {"crosscoder": set(), "training": {"crosscoder"}, "analysis": {"crosscoder"}}
VAGUE = {"utils", "util", "helpers", "common", "base", "types", "constants", "misc"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

MIRRORS = {
    # A section of the settings is named after the package or module that it configures.
    "crosscoder": {"activations", "controls", "dictionary", "pair", "run", "sparsity", "text"},
    "training": set(),
    # Two models without a common space are attributed by the same steps, each in a module of its own.
    "analysis": {"activations", "attribution", "carrying_latents"},
}
"""Names that two modules of one package share on purpose."""
LONGEST = 400
"""Lines of a module."""
AT_THE_ROOT = 8
"""Modules at the root of `crosscoder` and of `analysis`."""

MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of all absolute imports, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_there_are_modules_in_every_package() -> None:
    assert {name_of(path).partition(".")[0] for path in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_keeps_the_rules(path: Path) -> None:
    """Packages import only what they may, relatively within; names say something; no postponed annotations."""
    package = path.relative_to(ROOT).parts[0]
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    names = imported(tree)
    assert names & set(PACKAGES) <= MAY_IMPORT[package]
    assert "__future__" not in names
    assert not {part.removesuffix(".py") for part in path.relative_to(ROOT).parts} & VAGUE
    if text.strip():
        assert ast.get_docstring(tree), "a module says what it is for"


def names_in(package: str) -> Counter[str]:
    """How many modules and folders of a package have each name."""
    inside = [path.relative_to(ROOT / package) for path in MODULES if (ROOT / package) in path.parents]
    folders = {folder for path in inside for folder in path.parents if folder.name}
    return Counter([path.stem for path in inside if path.stem != "__init__"] + [one.name for one in folders])


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_has_one_home(package: str) -> None:
    """Whoever looks for a module by its name finds one; the exceptions are real."""
    assert {name for name, count in names_in(package).items() if count > 1 and name != "__main__"} == MIRRORS[
        package
    ]


@pytest.mark.parametrize("package", ["crosscoder", "analysis"])
def test_the_root_of_a_package_is_short(package: str) -> None:
    root = [path for path in MODULES if path.parent == ROOT / package]
    assert len(root) <= AT_THE_ROOT


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_fits_on_a_few_screens(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_the_contract_can_fail() -> None:
    tree = ast.parse("def f():\n    from analysis.labels.rule import label\n    import training.stages")
    assert imported(tree) == {"analysis", "training"}


def test_public_names_are_sorted_complete_and_load() -> None:
    assert crosscoder.__all__ == sorted(crosscoder.__all__)
    assert set(crosscoder.__all__) == {*crosscoder._HOMES, *crosscoder._ABOVE}
    for name in crosscoder.__all__:
        value = getattr(crosscoder, name)
        assert inspect.isclass(value) or callable(value)
        assert value.__module__ == crosscoder._ABOVE.get(name, value.__module__)
        assert value.__module__.startswith("crosscoder.") or name in crosscoder._ABOVE
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = crosscoder.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_console_scripts_load() -> None:
    scripts = PROJECT["project"]["scripts"]
    assert list(scripts) == ["crosscoder"]
    for target in scripts.values():
        module, _, attribute = target.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))


def test_every_direct_dependency_is_pinned_and_installed_as_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    assert next(iter(pins.items())) == ("torch", "2.13.0")
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + [need for extra in extras.values() for need in extra]
    names = {re.split(r"[<>=!~\[ ]", need)[0] for need in wanted}
    # An extra may ask for another extra of the project itself.
    assert names - {PROJECT["project"]["name"]} <= pins.keys()
