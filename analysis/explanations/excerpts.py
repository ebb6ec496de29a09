"""Excerpts of held-out documents in which a latent fires or does not: explanations are written from them and scored on them.

Documents are cut into excerpts of equal length. The author sees excerpts of the find set, and scores are measured on the claim set. No
two excerpts of the same kind come from one document, so they are independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

from ..latents.token_context import DocumentContext
from .firing_table import FiringTable, in_find_set

_MIN_TOKENS = 4
"""Minimum number of tokens in an excerpt that the dictionary reads."""


@dataclass(frozen=True)
class Excerpt:
    """Consecutive tokens of a document."""

    document: int
    start: int
    """Position of the first token in its document."""
    tokens: tuple[str, ...]
    measured: Bool[np.ndarray, " token"]
    """Tokens that the dictionary reads; the others are masked."""
    value: Float32[np.ndarray, " token"]
    reference: Float32[np.ndarray, " token"]
    """Contribution of the latent to the reference."""
    intervened: Float32[np.ndarray, " token"]
    rule_holds: bool | None
    """Whether the latent's rule holds on any of these tokens; None without a rule."""

    @property
    def fires(self) -> Bool[np.ndarray, " token"]:
        """The tokens on which the latent fires."""
        return self.value > 0


class Excerpts(NamedTuple):
    """The excerpts of one latent."""

    shown: tuple[Excerpt, ...]
    """Shown to the author: the strongest, then others over the range of its peaks."""
    shown_silent: tuple[Excerpt, ...]
    scored: tuple[Excerpt, ...]
    """Excerpts in which it fires, in random order."""
    scored_silent: tuple[Excerpt, ...]


class ExcerptFinder:
    """Finds excerpts for any latent of a table."""

    def __init__(
        self, firings: FiringTable, context: DocumentContext, length: int, seed: int, split_seed: int
    ) -> None:
        """`split_seed`, the seed of the run, determines the find set; `seed` selects the excerpts."""
        self.firings, self.context, self.length, self.seed = firings, context, length, seed
        document, position = firings.document, firings.position
        keys = np.stack([document, position // length], axis=1)
        found, of_token, size = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        self._document, self._start = found[:, 0], found[:, 1] * length
        self._of_token = of_token.reshape(-1)
        self._usable = size >= _MIN_TOKENS
        self._in_find_set = in_find_set(self._document, split_seed)

    def find(
        self,
        latent: int,
        shown: int,
        silent: int,
        scored: int,
        rule: Bool[np.ndarray, " token"] | None = None,
    ) -> Excerpts:
        """Return at most the given number of each kind, and twice `scored` excerpts in which it fires, because there are two scores.

        Args:
            rule: Whether the latent's rule holds on each token of the table.
        """
        chosen = self.firings.of(latent)
        peak = np.zeros(len(self._document), dtype=np.float32)
        np.maximum.at(peak, self._of_token[self.firings.token[chosen]], self.firings.value[chosen])
        random = np.random.default_rng([self.seed, latent]).permutation(len(peak))
        fires, usable = peak > 0, self._usable

        def take(wanted: np.ndarray, order: np.ndarray, most: int) -> np.ndarray:
            """Return the first wanted excerpt of each document in the given order."""
            ordered = order[wanted[order]]
            _, first = np.unique(self._document[ordered], return_index=True)
            return ordered[np.sort(first)][:most]

        strongest = take(fires & self._in_find_set & usable, np.argsort(-peak, kind="stable"), len(peak))
        rows = (
            _top_and_spread(strongest, shown),
            take(~fires & self._in_find_set & usable, random, silent),
            take(fires & ~self._in_find_set & usable, random, 2 * scored),
            take(~fires & ~self._in_find_set & usable, random, scored),
        )
        return Excerpts(*(tuple(self._excerpt(int(row), chosen, rule) for row in part) for part in rows))

    def _excerpt(
        self, row: int, chosen: Int64[np.ndarray, " firing"], rule: Bool[np.ndarray, " token"] | None
    ) -> Excerpt:
        document, start = int(self._document[row]), int(self._start[row])
        of_document = self.context.length_of(np.array([document]))[0]
        positions = np.arange(start, min(start + self.length, int(of_document)))
        measured = np.zeros(len(positions), dtype=bool)
        inside = np.flatnonzero(self._of_token == row)
        measured[self.firings.position[inside] - start] = True
        shown = self.context.show(np.full(len(positions), document), positions)
        columns = {
            name: np.zeros(len(positions), dtype=np.float32) for name in ("value", "reference", "intervened")
        }
        firing = chosen[self._of_token[self.firings.token[chosen]] == row]
        at = self.firings.position[self.firings.token[firing]] - start
        for name, column in columns.items():
            column[at] = getattr(self.firings, name)[firing]
        tokens = zip(shown.tokens.to_pylist(), shown.special.to_pylist(), strict=True)
        return Excerpt(
            document,
            start,
            tuple(_as_text(token) if special else token for token, special in tokens),
            measured,
            **columns,
            rule_holds=None if rule is None else bool(rule[inside].any()),
        )


def _top_and_spread(strongest: Int64[np.ndarray, " excerpt"], count: int) -> Int64[np.ndarray, " chosen"]:
    """Select half from the top and the rest at even steps below, so weak firings are included."""
    top = strongest[: -(-count // 2)]
    rest = strongest[len(top) :]
    n_rest = min(count - len(top), len(rest))
    places = (np.arange(n_rest) * len(rest)) // max(n_rest, 1) + len(rest) // (2 * max(n_rest, 1))
    return np.concatenate([top, rest[places]])


def _as_text(special: str) -> str:
    """Return a special token as text that no chat model parses as a special token."""
    return f"[{special.strip('<|>')}]"


def marked(tokens: Sequence[str], marks: Bool[np.ndarray, " token"]) -> str:
    """Return tokens as running text, with each run of marked tokens between << and >>."""
    pieces = []
    for index, (token, mark) in enumerate(zip(tokens, marks, strict=True)):
        opens = mark and not (index and marks[index - 1])
        closes = mark and not (index + 1 < len(tokens) and marks[index + 1])
        pieces.append(f"{'<<' if opens else ''}{token}{'>>' if closes else ''}")
    return "".join(pieces)
