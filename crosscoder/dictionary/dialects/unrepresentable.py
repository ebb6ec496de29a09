"""Known formats whose dictionaries ours cannot represent at all: recognized, so that the refusal can say why."""

from collections.abc import Callable
from typing import NoReturn

from ...errors import FormatError
from .dialect import Dialect, Reading
from .dictionary_files import SourceFiles
from .open_questions import Questions


def _is_tied(files: SourceFiles) -> bool:
    shapes = files.shapes(files.weights())
    return len(shapes.get("W_enc", ())) == 4 and len(shapes.get("b_enc", ())) == 2


def _is_weakly_causal(files: SourceFiles) -> bool:
    return any(name.startswith("params_layer_") and name.endswith(".safetensors") for name in files.names)


def _refusing(reason: str) -> Callable[[SourceFiles, Questions], Reading]:
    def read(files: SourceFiles, _: Questions) -> NoReturn:
        raise FormatError(f"{files.place}: {reason}")

    return read


TIED = Dialect(
    "tied_crosscoder",
    _is_tied,
    _refusing(
        "a tied crosscoder has three codes, of one model, the other and both; our dictionary has one code for all models"
    ),
)
CAUSAL = Dialect(
    "gemma_scope_crosscoder",
    _is_weakly_causal,
    _refusing(
        "a Gemma Scope 2 crosscoder reads several layers of one model, each code from the layers before it; our dictionary compares "
        "models at one hookpoint"
    ),
)
