"""The demo: settings of a run on the pair of models that needs no account and no model hub.

The real pair is SmolLM2-135M-Instruct and the same model with the adapter of `refuse_food/`. Where the packages that
carry the model and the prose are not installed, a toy pair that ships with the project takes its place.

    python -m crosscoder.demo runs/embedded

makes the real reference and the texts alone, for other runs.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ..config import RunConfig
from ..config.load import load_config
from ..runtime.device import has_bfloat16_units, resolve_device
from .corpus import ADAPTER, write_demo_texts
from .prose import find_passages
from .smollm2 import INSTALL_COMMAND, NAME, find_gguf, prepare
from .toy import FOLDER as TOY_PAIR
from .toy import write_texts as write_stories

SETTINGS = Path(__file__).parent
"""Where `demo.yaml` and `toy.yaml` lie."""


def demo_config(folder: Path, toy: bool = False) -> tuple[RunConfig, str]:
    """Settings of the demo that writes to `folder`, and one line that says which pair it compares.

    Models and texts are put beside the run folder, in `embedded/`, once.
    """
    place = folder.parent / "embedded"
    if toy or find_gguf() is None or find_passages() is None:
        why = "as asked" if toy else f"for the real pair: {INSTALL_COMMAND}"
        texts = write_stories(place / "stories")
        return _config("toy.yaml", folder, TOY_PAIR / "reference", TOY_PAIR / "intervened", texts), (
            f"comparing a toy pair trained on planted stories ({why})"
        )
    reference, texts = prepare_reference(place)
    config = _config("demo.yaml", folder, reference, ADAPTER, texts, (f"pair.reference.dtype={_dtype()}",))
    return config, (
        f"comparing {NAME} with itself under an adapter that makes it refuse questions about food"
    )


def prepare_reference(place: Path) -> tuple[Path, dict[str, Path]]:
    """The real reference, and the texts by name: both are put into `place`, once.

    Raises:
        DataError: A package that carries them is not installed.
    """
    return prepare(place / NAME), write_demo_texts(place / "texts")


def _dtype() -> str:
    """The precision that both models run fastest in on this machine; their weights are stored in less."""
    return "bfloat16" if has_bfloat16_units(resolve_device("pair.device", "auto")) else "float32"


def _config(
    name: str,
    folder: Path,
    reference: Path,
    intervened: Path,
    texts: dict[str, Path],
    more: Sequence[str] = (),
) -> RunConfig:
    kind = "adapter" if intervened == ADAPTER else "model"
    sources = [{"name": source, "path": str(path.resolve())} for source, path in texts.items()]
    words = [
        f"output={folder}",
        f"pair.reference.model={reference.resolve()}",
        f"pair.intervened.{kind}={intervened.resolve()}",
        f"text.sources={json.dumps(sources)}",
        *more,
    ]
    return load_config(SETTINGS / name, words)
