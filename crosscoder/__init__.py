"""crosscoder: what changed between two language models, feature by feature, and how sure that is.

Axis words used in every shape annotation of the project:
`token` one position of a document · `model` the reference, then the intervened model, then the snapshots between them where
there are any (a `checkpoint` is one of all these in the order of time) · `d_model` the width of one model at its hookpoint ·
`width` the sum of all d_model (activations of all models side by side) · `latent` a learned unit of the dictionary · `document`
one text · `vocabulary` the tokens of a language model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .activations.batch import ActivationBatch
    from .config import CrosscoderConfig, RunConfig
    from .dictionary.crosscoder import Crosscoder
    from .dictionary.storage import load_crosscoder, save_crosscoder
    from .errors import CrosscoderError

    Run: Any

# Loaded on first use, so that `crosscoder --help` answers without importing torch.
_HOMES = {
    "ActivationBatch": "activations.batch",
    "Crosscoder": "dictionary.crosscoder",
    "CrosscoderConfig": "config",
    "CrosscoderError": "errors",
    "RunConfig": "config",
    "load_crosscoder": "dictionary.storage",
    "save_crosscoder": "dictionary.storage",
}

# Of a package that stands on this one, and is loaded by name.
_ABOVE = {"Run": "analysis.notebook.run"}

__all__ = [
    "ActivationBatch",
    "Crosscoder",
    "CrosscoderConfig",
    "CrosscoderError",
    "Run",
    "RunConfig",
    "load_crosscoder",
    "save_crosscoder",
]


def __getattr__(name: str) -> object:
    if name in _ABOVE:
        return getattr(import_module(".command.packages", __name__).module(_ABOVE[name]), name)
    if name not in _HOMES:
        raise AttributeError(f"module 'crosscoder' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
