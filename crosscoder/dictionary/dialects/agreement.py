"""Whether the parts of a foreign dictionary agree: its settings with its weights, and its tensors with what its dialect reads.

A tensor that nothing reads may be part of what the other tool computes, and settings of another size belong to another dictionary. Both
are refused, because the codes could be wrong without a sign of it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ...errors import FormatError
from .dictionary_files import SourceFiles


def refuse_other_tensors(
    files: SourceFiles, tensors: Mapping[str, Any], known: Iterable[str], prefix: str | None = None
) -> None:
    """Raise FormatError if there are tensors besides the known ones and those whose names start with `prefix`."""
    other = sorted(
        name
        for name in tensors.keys() - set(known)
        if isinstance(tensors[name], Tensor) and (prefix is None or not name.startswith(prefix))
    )
    if other:
        more = ", …" if len(other) > 4 else ""
        raise FormatError(
            f"{files.place}: holds tensors that this format does not have ({', '.join(other[:4])}{more}), so what it computes is not known; "
            "save the dictionary alone"
        )


def refuse_contradictions(files: SourceFiles, settings: Mapping[str, Any], **weights: object) -> None:
    """Raise FormatError if a setting of one of these names has another value than the weights; None in the settings says nothing."""
    for name, value in weights.items():
        stated = settings.get(name)
        if stated is not None and stated != value:
            raise FormatError(
                f"{files.place}: its settings say {name} {stated}, and its weights {value}; take settings and weights of the same dictionary"
            )


def refuse_integers(place: str, name: str, tensor: Tensor) -> None:
    """Raise FormatError if weights are integers, which are those of a quantization whose scales are elsewhere."""
    if not tensor.is_floating_point():
        raise FormatError(
            f"{place}: {name} holds numbers of type {str(tensor.dtype).removeprefix('torch.')}, as after a quantization; give them as "
            "floating-point numbers"
        )
