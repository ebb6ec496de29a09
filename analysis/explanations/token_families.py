"""The token features that a rule can use: the token, the previous token, both, the source, the template. Each partitions tokens into items."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from crosscoder.text.documents import Documents

# Stands for the token before the first token of a document.
_NOTHING = -1

_IN_TEMPLATE = "the chat template"


class TokenFamily(NamedTuple):
    """A partition of tokens into items."""

    name: str
    key: Int64[np.ndarray, " token"]
    """Index of each token's item."""
    texts: Sequence[str]
    """Text of each item; for `token`, `previous_token` and `pair`, the text of the tokens."""


def token_families(
    documents: Documents,
    vocabulary: Sequence[str],
    document: Int64[np.ndarray, " token"],
    position: Int64[np.ndarray, " token"],
) -> list[TokenFamily]:
    """Return the families that distinguish these tokens; a family with a single item is omitted."""
    place = documents.offsets[document] + position
    token = documents.token_ids[place].astype(np.int64)
    before = np.where(position > 0, documents.token_ids[place - 1], _NOTHING).astype(np.int64)
    source, template = documents.source[document].astype(np.int64), documents.template[place]

    def text(token_id: int) -> str:
        return "" if token_id == _NOTHING else vocabulary[token_id]

    size = len(vocabulary)
    found = []
    for name, key, text_of in (
        ("token", token, text),
        ("previous_token", before, lambda item: text(item) or "the start of a document"),
        ("pair", (before + 1) * size + token, lambda item: text(item // size - 1) + text(item % size)),
        ("source", source, lambda item: documents.source_names[item]),
        ("place", source * 2 + template, lambda item: _place(documents.source_names, item)),
    ):
        items, code = np.unique(key, return_inverse=True)
        if len(items) < 2 or (name == "place" and not 0 < template.mean() < 1):
            continue
        found.append(TokenFamily(name, code.astype(np.int64), [text_of(int(item)) for item in items]))
    return found


def _place(source_names: Sequence[str], item: int) -> str:
    name, in_template = source_names[item // 2], item % 2
    if len(source_names) == 1:
        return _IN_TEMPLATE if in_template else "text outside of the chat template"
    return f"{_IN_TEMPLATE} in {name}" if in_template else f"text of {name}"
