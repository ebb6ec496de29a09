"""Reading `.pt` files, the one place where `torch.load` is allowed.

Several tools store dictionaries with `torch.save`, a pickle. `weights_only=True` reads tensors and plain values (numbers, strings,
lists, dicts) and refuses everything else, so that a file never runs code.
"""

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ...errors import FormatError, first_line


def read_torch_file(path: Path) -> dict[str, Any]:
    """Read a dict of tensors and plain values; tensors stay on disk until they are used, where the file allows it.

    Raises:
        FormatError: The file is damaged, is no dict, or holds more than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        raise FormatError(
            f"{path}: holds more than tensors and plain values ({first_line(error)}), and reading it would run code; save its state_dict alone"
        ) from None
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise FormatError(f"{path}: not a file of torch.save ({first_line(error)}); copy it again") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise FormatError(f"{path}: holds a {type(content).__name__}, not a dict of named tensors")
    return content
