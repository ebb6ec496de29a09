"""Texts that have nothing to do with a behavior: what an edit does there is its side effect."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from crosscoder.config.behavior import Behavior
from crosscoder.errors import ConfigError, DataError, did_you_mean
from crosscoder.text.documents import Documents
from crosscoder.text.text_files import read_file

from ..latents.trained_run import TrainedRun
from .prompts import IntervenedTokens, Prompt, encode

_TOKENS = 64
"""Of each text are read."""


def unrelated_prompts(behavior: Behavior, run: TrainedRun) -> list[Prompt]:
    """Texts that have nothing to do with the behavior, where side effects are measured: those of its settings, or held-out documents of
    the run; some of them, cut.

    Raises:
        ConfigError: The run does not have a text source that is named.
        DataError: There is no text.
    """
    if isinstance(behavior.elsewhere, Path):
        prompts = encode(read_file(behavior.elsewhere, "elsewhere"), run.pair)
    else:
        chosen = _held_out(run.documents, behavior.elsewhere)
        prompts = [_prompt_of(run.documents, int(index)) for index in chosen]
    every = max(1, -(-len(prompts) // behavior.elsewhere_limit))
    cut = [prompt.cut(_TOKENS) for prompt in prompts[::every]]
    if not cut:
        raise DataError(f"elsewhere: {behavior.elsewhere} holds no text; give some, or leave the setting out")
    return cut


def _prompt_of(documents: Documents, index: int) -> Prompt:
    """A document in the tokens that the models read."""
    aligned, own = documents.alignment, None
    if aligned is not None:
        places = aligned.places[documents.offsets[index] : documents.offsets[index + 1]]
        own = IntervenedTokens(documents.tokens_of(index, 1).astype(np.int64), places)
    return Prompt("", documents.tokens_of(index).astype(np.int64), own)


def _held_out(documents: Documents, sources: tuple[str, ...] | None) -> Int64[np.ndarray, " document"]:
    """Held-out documents of some sources, or of all. Raises ConfigError for a source that the run does not have."""
    names = documents.source_names
    for source in sources or ():
        if source not in names:
            raise ConfigError(
                f"elsewhere: the run has no text source {source!r}{did_you_mean(source, names)}; it has {', '.join(names)}"
            )
    found = documents.split(held_out=True)
    wanted = [names.index(source) for source in sources or names]
    return found[np.isin(documents.source[found], wanted)]
