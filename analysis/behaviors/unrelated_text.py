"""Texts unrelated to a behavior, on which the side effects of an edit are measured."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from crosscoder.config.behavior import Behavior
from crosscoder.config.text import ANSWERS
from crosscoder.errors import ConfigError, DataError, did_you_mean
from crosscoder.text.documents import Documents
from crosscoder.text.text_files import read_file

from ..latents.trained_run import TrainedRun
from .prompts import IntervenedTokens, Prompt, encode, evenly_spaced

_TOKENS = 64
"""Maximum number of tokens of each text."""


def unrelated_prompts(behavior: Behavior, run: TrainedRun) -> list[Prompt]:
    """Return truncated texts unrelated to the behavior: from the file in its settings, or held-out documents of the run.

    Raises:
        ConfigError: The run has no text source of that name.
        DataError: There is no text.
    """
    if isinstance(behavior.elsewhere, Path):
        prompts = encode(read_file(behavior.elsewhere, "elsewhere"), run.pair)
    else:
        indices = _held_out(run.documents, behavior.elsewhere or _unasked(run))
        prompts = [_prompt_of(run.documents, int(index)) for index in indices]
    cut = [prompt.cut(_TOKENS) for prompt in evenly_spaced(prompts, behavior.elsewhere_limit)]
    if not cut:
        raise DataError(f"elsewhere: {behavior.elsewhere} holds no text; give some, or leave the setting out")
    return cut


def _prompt_of(documents: Documents, index: int) -> Prompt:
    """Return a document as a prompt in the tokens of both models."""
    aligned, intervened = documents.alignment, None
    if aligned is not None:
        counterparts = aligned.places[documents.offsets[index] : documents.offsets[index + 1]]
        intervened = IntervenedTokens(documents.tokens_of(index, 1).astype(np.int64), counterparts)
    return Prompt("", documents.tokens_of(index).astype(np.int64), intervened)


def _unasked(run: TrainedRun) -> tuple[str, ...]:
    """Return the names of the sources without the models' own answers, which show the behaviors."""
    text = run.config.text
    joined = text is not None and text.answers
    return tuple(name for name in run.documents.source_names if not (joined and name == ANSWERS))


def _held_out(documents: Documents, sources: tuple[str, ...]) -> Int64[np.ndarray, " document"]:
    """Return the held-out documents of the given sources. Raises ConfigError for an unknown source."""
    names = documents.source_names
    for source in sources:
        if source not in names:
            raise ConfigError(
                f"elsewhere: the run has no text source {source!r}{did_you_mean(source, names)}; it has {', '.join(names)}"
            )
    held_out = documents.split(held_out=True)
    wanted = [names.index(source) for source in sources]
    return held_out[np.isin(documents.source[held_out], wanted)]
