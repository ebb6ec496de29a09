"""What a rule may look at: the token, the one before, both, the source, the template. Each is a partition of tokens into items."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from crosscoder.text.documents import Documents

# Before the first token of a document there is none.
_NOTHING = -1

_IN_TEMPLATE = "the chat template"


class Family(NamedTuple):
    """One way to put every token under an item."""

    name: str
    key: Int64[np.ndarray, " token"]
    """Number of each token's item."""
    texts: Sequence[str]
    """What an item is called; of `token`, `previous_token` and `pair` it is the text of tokens."""


def families(
    documents: Documents,
    vocabulary: Sequence[str],
    document: Int64[np.ndarray, " token"],
    position: Int64[np.ndarray, " token"],
) -> list[Family]:
    """All families that tell these tokens apart; one with a single item says nothing and is left out."""
    place = documents.offsets[document] + position
    token = documents.token_ids[place].astype(np.int64)
    before = np.where(position > 0, documents.token_ids[place - 1], _NOTHING).astype(np.int64)
    source, template = documents.source[document].astype(np.int64), documents.template[place]

    def text(token_id: int) -> str:
        return "" if token_id == _NOTHING else vocabulary[token_id]

    size = len(vocabulary)
    found = []
    for name, key, called in (
        ("token", token, text),
        ("previous_token", before, lambda item: text(item) or "the start of a document"),
        ("pair", (before + 1) * size + token, lambda item: text(item // size - 1) + text(item % size)),
        ("source", source, lambda item: documents.source_names[item]),
        ("place", source * 2 + template, lambda item: _place(documents.source_names, item)),
    ):
        items, code = np.unique(key, return_inverse=True)
        if len(items) < 2 or (name == "place" and not 0 < template.mean() < 1):
            continue
        found.append(Family(name, code.astype(np.int64), [called(int(item)) for item in items]))
    return found


def _place(source_names: Sequence[str], item: int) -> str:
    name, in_template = source_names[item // 2], item % 2
    if len(source_names) == 1:
        return _IN_TEMPLATE if in_template else "text outside of the chat template"
    return f"{_IN_TEMPLATE} in {name}" if in_template else f"text of {name}"
