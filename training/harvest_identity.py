"""The identity of a harvest: what determines its bytes, and whether stored activations are those of a run."""

from typing import Any

from crosscoder.activations.shards import Manifest
from crosscoder.config import RunConfig
from crosscoder.config.text import ANSWERS
from crosscoder.errors import FormatError
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.documents import Documents

from .outside_activations import OutsideActivations

# Entries of the pair's identity that do not affect the activations: a moved folder holds the same model.
_NAMES = ("model", "revision", "adapter")

FIDELITY = "fidelity"
"""Entry of the identity of activations from outside that says how they compare with the models' own. It is measured once."""


def harvest_identity(
    config: RunConfig, pair: ModelPair, documents: Documents, outside: OutsideActivations | None = None
) -> dict[str, Any]:
    """Everything that determines the bytes of a harvest. `outside` is None if the models compute the activations."""
    text: dict[str, Any] = {"digest": documents.digest()}
    if config.text is not None and config.text.answers:
        # Named, so that a harvest of other answers is refused as such.
        text["answers"] = documents.readings[documents.source_names.index(ANSWERS)]["digest"]
    return {
        "settings": harvest_settings(config),
        "pair": pair.identity(),
        "text": text,
        "outside": None if outside is None else outside.identity(),
    }


def harvest_settings(config: RunConfig) -> dict[str, Any]:
    """The part of `harvest_identity` that is known without the models."""
    return {
        # Where the shards lie, and how they are read back, changes none of their bytes.
        "activations": config.activations.model_dump(mode="json", exclude={"store"}),
        "outlier_multiple": config.tokens.outlier_multiple,
        "seed": config.seed,
    }


def check_identity(manifest: Manifest, identity: dict[str, Any], location: str) -> None:
    """Refuse stored activations whose identity differs. Parts that `identity` leaves out are not compared.

    Raises:
        FormatError: They differ; the message names the first difference.
    """
    for part, wanted in identity.items():
        if part == "outside":
            _check_origin(manifest.identity.get(part), wanted, manifest.complete, location)
            continue
        stored, asked = _flatten(manifest.identity.get(part)), _flatten(wanted)
        for key in sorted(stored.keys() | asked.keys()):
            name = key.rpartition(".")[2]
            # The buffer of a stream shuffles training tokens alone; the shards on disk do not depend on it.
            # Earlier records have no digest of the settings.
            unknown = name == "settings" and stored.get(key) is None
            if name not in (*_NAMES, "buffer_tokens") and not unknown and stored.get(key) != asked.get(key):
                raise FormatError(
                    f"{location}: holds the activations of another run: {part}.{key} was {stored.get(key)!r}, now it is "
                    f"{asked.get(key)!r}; choose another output folder, or remove this one"
                )


def _check_origin(
    stored: dict[str, Any] | None, asked: dict[str, Any] | None, complete: bool, location: str
) -> None:
    """Refuse to mix activations that the models compute with those that another program computed, or those of two extractions. A finished
    harvest is used by whatever reads it."""
    if stored is None and asked is not None:
        raise FormatError(
            f"{location}: holds activations that the models computed, so none are taken from files; choose another output folder, or remove "
            "this one"
        )
    if stored is not None and asked is None and not complete:
        raise FormatError(
            f"{location}: holds a part of a harvest from files, which the models do not finish; run `crosscoder harvest CONFIG --from-files "
            "FOLDER` again, or remove this folder"
        )
    if stored is not None and asked is not None:
        before = {name: value for name, value in stored.items() if name != FIDELITY}
        if before != asked:
            raise FormatError(
                f"{location}: holds the activations of other files than those of --from-files; give those, choose another output folder, or "
                "remove this one"
            )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts into one with dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= _flatten(entry, f"{prefix}.{key}" if prefix else str(key))
    return flat
