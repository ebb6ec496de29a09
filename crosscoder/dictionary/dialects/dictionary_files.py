"""The files of a dictionary that another tool wrote, read without running anything in them."""

import hashlib
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ...config.yaml_1_2 import describe_syntax_error, read_yaml
from ...errors import FormatError, first_line
from ...runtime.json_text import json_of
from .torch_files import read_torch_file

_WEIGHTS = (".safetensors", ".pt", ".pth", ".npz")
_COMPILED = "_orig_mod."
"""What `torch.compile` puts before the names of parameters."""


class SourceFiles:
    """The files of one folder. Whatever is read is remembered, with its digest, as the origin of the dictionary."""

    def __init__(self, place: Path, called: str | None = None) -> None:
        """Take a folder, or one file of weights with the settings beside it.

        Args:
            called: What messages call it, if it lies in a folder that nobody knows.

        Raises:
            FormatError: There is nothing at `place`.
        """
        if not place.exists():
            raise FormatError(f"{place}: not found; give a folder, a file or a Hub id such as org/name")
        self.place = called or str(place)
        """What messages call it."""
        self.folder = place if place.is_dir() else place.parent
        names = sorted(path.name for path in self.folder.iterdir() if path.is_file())
        if place.is_file():
            names = [name for name in names if name == place.name or not name.endswith(_WEIGHTS)]
        self.names = tuple(names)
        self.folders = tuple(sorted(path.name for path in self.folder.iterdir() if path.is_dir()))
        self._read: set[str] = set()
        self.tensors = cache(self._tensors)

    def weights(self, *preferred: str) -> str | None:
        """Return the first of the preferred names that exists, or the only file of weights; None if neither is there."""
        for name in preferred:
            if name in self.names:
                return name
        found = [name for name in self.names if name.endswith(_WEIGHTS)]
        return found[0] if len(found) == 1 else None

    def required_weights(self, *preferred: str) -> str:
        """Return what `weights` returns, where a dialect was named that may not fit.

        Raises:
            FormatError: There is none, or several of the preferred ones that do not hold the same.
        """
        name = self.weights(*preferred)
        if name is None:
            raise FormatError(
                f"{self.place}: has no file of weights that this dialect reads ({', '.join(preferred)}); name the folder or the file"
            )
        for other in preferred:
            if other in self.names and other != name and not self._same_tensors(name, other):
                raise FormatError(
                    f"{self.place}: holds {name} and {other}, which differ; name the file that is meant as the source"
                )
        return name

    def _same_tensors(self, first: str, second: str) -> bool:
        one, other = self.tensors(first), self.tensors(second)
        self._read.discard(second)
        tensors = {name for name, value in {**one, **other}.items() if isinstance(value, Tensor)}
        return tensors <= one.keys() & other.keys() and all(
            torch.equal(one[name], other[name]) or bool((one[name].isnan() & other[name].isnan()).all())
            for name in tensors
        )

    def settings(self, *names: str) -> dict[str, Any]:
        """Return the content of the first of these JSON or YAML files that exists; empty if none does.

        Raises:
            FormatError: The file is damaged, or holds no settings by name.
        """
        for name in names:
            if name in self.names:
                return self._settings(self.folder / name)
        return {}

    def shapes(self, name: str | None) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor in a file of weights; empty without a file."""
        if name is None:
            return {}
        path = self.folder / name
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "pt") as file:
                    return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise FormatError(f"{path}: not a safetensors file ({error}); copy it again") from None
        return {
            key: tuple(value.shape) for key, value in self.tensors(name).items() if isinstance(value, Tensor)
        }

    def _tensors(self, name: str) -> dict[str, Any]:
        """Return the tensors of a file of weights by name, and the plain values of a `.pt` file."""
        path = self.folder / name
        self._read.add(name)
        if path.suffix == ".safetensors":
            try:
                content: dict[str, Any] = dict(load_file(path))
            except (SafetensorError, OSError) as error:
                raise FormatError(f"{path}: not a safetensors file ({error}); copy it again") from None
        elif path.suffix == ".npz":
            content = _read_npz(path)
        else:
            content = read_torch_file(path)
        return {key.replace(_COMPILED, ""): value for key, value in content.items()}

    def _settings(self, path: Path) -> dict[str, Any]:
        self._read.add(path.name)
        try:
            content = json_of(path) if path.suffix == ".json" else read_yaml(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise FormatError(f"{path}: not YAML ({describe_syntax_error(error)}); copy it again") from None
        except ValueError as error:
            raise FormatError(f"{path}: not JSON ({error}); copy it again") from None
        if not isinstance(content, dict):
            raise FormatError(
                f"{path}: holds a {type(content).__name__}, not settings by name; copy it again"
            )
        return content

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 digest of every file that was read."""
        found = {}
        for name in sorted(self._read):
            with (self.folder / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return found


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {key: torch.from_numpy(np.ascontiguousarray(file[key])) for key in file.files}
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path}: not an archive of numeric arrays ({first_line(error)})") from None
