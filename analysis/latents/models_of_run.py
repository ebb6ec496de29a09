"""Whether the models that were loaded are those that a run was made with: a folder of a model can be written over."""

from collections.abc import Iterable, Mapping
from typing import Any

from crosscoder.errors import PairError
from crosscoder.language_models.pair import ModelPair
from crosscoder.run.folder import RunFolder

_DIGESTS = ("weights", "settings", "adapter_weights", "context_digest")
"""Entries of a model's record in the manifest that determine its activations."""


def check_models(folder: RunFolder, pair: ModelPair) -> None:
    """Check that models, tokenizers and chat templates are those that the harvest of the run recorded; before a harvest, any are.

    Raises:
        PairError: They have changed.
    """
    made_with = folder.read_manifest().get("pair")
    if made_with is None:
        return
    found = pair.identity()
    for keys in _compared_keys(made_with):
        before, now = _value_at(made_with, keys), _value_at(found, keys)
        if before != now:
            raise PairError(
                f"{folder.path}: {'.'.join(keys)} was {before!r} when the run was made and is now {now!r}, so the dictionary does not "
                "apply to it; restore the original, or make a new run"
            )


def _compared_keys(record: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from ((name, part) for part in _DIGESTS if part in value)
        else:
            yield (name,)


def _value_at(record: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
