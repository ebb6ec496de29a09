"""crosscoder: explains what changed between two language models, feature by feature, and how strong the evidence is.

Axis names in shape annotations:
`token` one position of a document · `model` the reference, the intervened model, then any snapshots between them
(`checkpoint`: the same models in order of time) · `d_model` the width of one model at its hookpoint · `width` the sum of all
d_model (the activations of all models, concatenated) · `latent` a learned unit of the dictionary · `document` one text ·
`vocabulary` the tokens of a language model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .activations.batch import ActivationBatch
    from .config import CrosscoderConfig, RunConfig
    from .dictionary.crosscoder import Crosscoder
    from .dictionary.dialects.import_dictionary import load_crosscoder
    from .dictionary.dialects.saelens_views import sae
    from .dictionary.storage import save_crosscoder
    from .errors import CrosscoderError

    Run: Any

# Loaded on first use, so that `crosscoder --help` answers without importing torch.
_HOMES = {
    "ActivationBatch": "activations.batch",
    "Crosscoder": "dictionary.crosscoder",
    "CrosscoderConfig": "config",
    "CrosscoderError": "errors",
    "RunConfig": "config",
    "load_crosscoder": "dictionary.dialects.import_dictionary",
    "sae": "dictionary.dialects.saelens_views",
    "save_crosscoder": "dictionary.storage",
}

# Defined in `analysis`, which imports this package, and therefore loaded by name.
_ABOVE = {"Run": "analysis.notebook.run"}

__all__ = [
    "ActivationBatch",
    "Crosscoder",
    "CrosscoderConfig",
    "CrosscoderError",
    "Run",
    "RunConfig",
    "load_crosscoder",
    "sae",
    "save_crosscoder",
]


def __getattr__(name: str) -> object:
    if name in _ABOVE:
        return getattr(import_module(".command.packages", __name__).module(_ABOVE[name]), name)
    if name not in _HOMES:
        raise AttributeError(f"module 'crosscoder' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
