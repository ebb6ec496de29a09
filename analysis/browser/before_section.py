"""How the models differ before any dictionary, on the page: their predictions, their layers, and the difference of their activations."""

from typing import Any

from ..report.schema import BeforeDictionary
from .sentence_pieces import pieces


def before_record(before: BeforeDictionary) -> dict[str, Any] | None:
    """Return the part of the overview pack about the survey; None if nothing of it was measured."""
    measured = any(statement.verdict == "measured" for statement in before.statements)
    if not (measured or before.predictions or before.layers):
        return None
    return {
        "statements": [
            {"name": statement.name, "text": pieces(statement.text)} for statement in before.statements
        ],
        "predictions": [
            {
                "context": place.context,
                "kl": place.kl,
                "reference": pieces(place.reference),
                "intervened": pieces(place.intervened),
            }
            for place in before.predictions
        ],
        "layers": [
            {
                "name": pieces(layer.name),
                "cka": layer.cka,
                "change": layer.change,
                "hookpoint": layer.hookpoint,
            }
            for layer in before.layers
        ],
    }
