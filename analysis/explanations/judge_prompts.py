"""Prompts for chat models: the author explains a latent, and the judge predicts from an explanation where the latent fires.

Both scores are from Paulo et al. 2024 (arXiv 2410.13928), with one excerpt per question:

    detection   does the latent fire anywhere in this excerpt?   excerpts in which it fires, and others
    fuzzing     does it fire on the marked tokens?               excerpts in which it fires, with its tokens or others marked

The author also sees the contribution of the latent to each model.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from ..judges.chat_models import Question
from .excerpts import Excerpt, Excerpts, marked

_LISTED = 6
_TOKENS_WRITTEN = "the reference {reference:.3g}, the intervened model {intervened:.3g}"

_AUTHOR = """A dictionary was trained on the activations of two versions of a language model: the reference, and the intervened model, \
which was made from it. One of its units (a latent) fires on some tokens. Below are excerpts of text in which it fires, with those tokens \
between << and >>, how strongly it fires on them (from 1 to 10), and how much it writes into each of the two models at its strongest \
token. After them come excerpts in which it does not fire.

{fires}

It does not fire in these:

{silent}

In one short sentence: on what does it fire? Say what the marked tokens, or the text before them, have in common; name a difference \
between the two models only where the numbers show one. Answer with that sentence alone."""

_DETECTION = """A unit of a language model fires on some tokens of some texts. Somebody describes it so:

{explanation}

Here is an excerpt of a text:

{text}

By that description, does the unit fire on any token of this excerpt? Answer with Yes or No."""

_FUZZING = """A unit of a language model fires on some tokens of some texts. Somebody describes it so:

{explanation}

Here is an excerpt of a text, in which some tokens are between << and >>:

{text}

By that description, are the tokens between << and >> those on which the unit fires? Answer with Yes or No."""


def author_question(excerpts: Excerpts, max_tokens: int) -> Question:
    """Return the question that asks for an explanation."""
    strongest = max(float(excerpt.value.max()) for excerpt in excerpts.shown)
    fires = "\n\n".join(_shown(excerpt, strongest) for excerpt in excerpts.shown)
    silent = "\n\n".join("".join(excerpt.tokens) for excerpt in excerpts.shown_silent)
    return Question(_AUTHOR.format(fires=fires, silent=silent or "(none was found)"), "text", max_tokens)


def detection_question(explanation: str, excerpt: Excerpt) -> Question:
    """Return the question whether the latent fires in an excerpt."""
    return Question(_DETECTION.format(explanation=explanation, text="".join(excerpt.tokens)))


def fuzzing_question(explanation: str, excerpt: Excerpt, marks: Bool[np.ndarray, " token"]) -> Question:
    """Return the question whether the latent fires on the marked tokens."""
    return Question(_FUZZING.format(explanation=explanation, text=marked(excerpt.tokens, marks)))


def decoy_marks(excerpt: Excerpt, seed: Sequence[int]) -> Bool[np.ndarray, " token"] | None:
    """Sample as many tokens as the latent fires on from those on which it does not; None if there are too few."""
    silent = np.flatnonzero(excerpt.measured & ~excerpt.fires)
    count = int(excerpt.fires.sum())
    if count > len(silent):
        return None
    marks = np.zeros(len(excerpt.tokens), dtype=bool)
    marks[np.random.default_rng(list(seed)).choice(silent, count, replace=False)] = True
    return marks


def _shown(excerpt: Excerpt, strongest: float) -> str:
    order = np.argsort(-excerpt.value, kind="stable")[:_LISTED]
    listed = ", ".join(
        f"“{excerpt.tokens[at]}” {max(1, round(10 * float(excerpt.value[at]) / strongest))}"
        for at in order.tolist()
        if excerpt.value[at] > 0
    )
    at = int(order[0])
    written = _TOKENS_WRITTEN.format(
        reference=float(excerpt.reference[at]), intervened=float(excerpt.intervened[at])
    )
    return f"{marked(excerpt.tokens, excerpt.fires)}\nfires on: {listed}; writes into {written}"
