"""Writes the dictionary of a run in another tool's format, under RUN/exports."""

from pathlib import Path
from typing import Any

from ...run.folder import RunFolder
from ..storage import load_crosscoder, read_record
from . import crosscoder_learning, saelens, saelens_views


def export(folder: RunFolder, to: str, place: Path) -> None:
    """Write the dictionary to the folder `place`.

    saelens              one SAE on the concatenated activations of all models; below it, transcoder/MODEL from these to one model
    crosscoder_learning  a folder that diffing-toolkit opens

    Raises:
        FormatError: The dictionary has no counterpart in that format, or is damaged.
    """
    crosscoder = load_crosscoder(folder.crosscoder)
    if to == "crosscoder_learning":
        crosscoder_learning.write(crosscoder, place)
        return
    metadata = _metadata(read_record(folder.crosscoder)["provenance"].get("pair") or {})
    saelens.export_saelens(crosscoder, place, metadata)
    saelens_views.write_views(crosscoder, place / "transcoder", metadata)


def _metadata(pair: dict[str, Any]) -> dict[str, str]:
    sides = [side for side in pair.values() if isinstance(side, dict)]
    return {
        "model_name": " | ".join(str(side["model"]) for side in sides),
        "hook_name": " | ".join(str(side["hookpoint"]) for side in sides),
    }
