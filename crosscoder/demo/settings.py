"""Settings of the demo, which needs no account and no model hub.

The real pair is SmolLM2-135M-Instruct and the same model with the adapter in `refuse_food/`. If the packages with the
model and the prose are not installed, a toy pair that ships with the project replaces it.

    python -m crosscoder.demo runs/embedded

prepares only the real reference and the texts, for other runs.
"""

import json
from pathlib import Path

from ..config import RunConfig
from ..config.load import load_config
from .corpus import ADAPTER, write_demo_texts
from .prose import find_passages
from .smollm2 import INSTALL_COMMAND, NAME, find_gguf, prepare
from .toy import FOLDER as TOY_PAIR
from .toy import write_texts as write_stories

SETTINGS = Path(__file__).parent
"""Folder of `demo.yaml` and `toy.yaml`."""


def demo_config(folder: Path, toy: bool = False) -> tuple[RunConfig, str]:
    """Return the demo's settings for the run folder `folder`, and one line that names the pair.

    Models and texts are written once to `embedded/`, next to the run folder.
    """
    embedded = folder.parent / "embedded"
    if toy or find_gguf() is None or find_passages() is None:
        why = "as requested" if toy else f"for the real pair: {INSTALL_COMMAND}"
        texts = write_stories(embedded / "stories")
        return _config("toy.yaml", folder, TOY_PAIR / "reference", TOY_PAIR / "intervened", texts), (
            f"comparing a toy pair trained on planted stories ({why})"
        )
    reference, texts = prepare_reference(embedded)
    return _config("demo.yaml", folder, reference, ADAPTER, texts), (
        f"comparing {NAME} with itself under an adapter that makes it refuse questions about food"
    )


def prepare_reference(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Write the real reference and the texts to `folder`, once; return the model folder, and the texts by name.

    Raises:
        DataError: A package with the model or the prose is not installed.
    """
    return prepare(folder / NAME), write_demo_texts(folder / "texts")


def _config(
    name: str,
    folder: Path,
    reference: Path,
    intervened: Path,
    texts: dict[str, Path],
) -> RunConfig:
    kind = "adapter" if intervened == ADAPTER else "model"
    sources = [{"name": source, "path": str(path.resolve())} for source, path in texts.items()]
    words = [
        f"output={folder}",
        f"pair.reference.model={reference.resolve()}",
        f"pair.intervened.{kind}={intervened.resolve()}",
        f"text.sources={json.dumps(sources)}",
    ]
    return load_config(SETTINGS / name, words)
