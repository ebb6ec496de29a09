"""A short rule for where a latent fires: a family of items, and the few items under which it does.

The rule is the one with which the firings of the documents for finding are described in the fewest bits, the rule included: an item
enters only where it saves more than naming it costs, so a shorter rule is preferred as far as the data allow (minimum description
length: Rissanen 1978; for rules, Quinlan and Rivest 1989). How good it is, is said on other documents (`auroc`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.special import gammaln

from .explanation_files import FAMILY_NAMES
from .token_families import Family

_MANY = 0.5
"""A latent that fires on more than this share of tokens is told by where it is silent."""


class Rule(NamedTuple):
    """The latent fires on a token whose item is among `items`, or, negated, where it is not."""

    family: Family
    items: tuple[int, ...]
    """Numbers of items, in the order in which they were taken: what saved most comes first."""
    negated: bool
    bits_saved: float
    """By describing the firings with the rule instead of by their number alone; below zero the rule does not pay."""

    def holds(self) -> Bool[np.ndarray, " token"]:
        """For every token of the family."""
        inside = np.zeros(len(self.family.texts), dtype=bool)
        inside[list(self.items)] = True
        return inside[self.family.key] ^ self.negated

    @property
    def item_texts(self) -> tuple[str, ...]:
        """What the items are called."""
        return tuple(self.family.texts[item] for item in self.items)


def rule_text(family: str, items: Sequence[str], negated: bool) -> str:
    """A rule as it is read; items in quotation marks."""
    named = ", ".join(f"“{item}”" for item in items)
    return f"{FAMILY_NAMES[family]} {'not ' if negated else ''}in {{{named}}}"


def learn_rule(
    fired: Bool[np.ndarray, " token"],
    finding: Bool[np.ndarray, " token"],
    kinds: Sequence[Family],
    most_items: int,
) -> Rule:
    """The best rule of at least one item, whether it pays or not.

    Args:
        fired: Whether the latent fires, for every token of the families; looked at only where `finding`.
        most_items: Named by a rule.
    """
    negated = bool(fired[finding].mean() > _MANY)
    wanted = fired[finding] ^ negated
    best = None
    for kind in kinds:
        items, bits = _taken(wanted, kind.key[finding], most_items)
        bits += np.log2(len(kinds))
        if best is None or bits < best[0]:
            best = bits, kind, items
    assert best is not None  # tokens always differ
    bits, kind, items = best
    (without,) = _bits(np.array([float(wanted.size)]), np.array([float(wanted.sum())]))
    return Rule(kind, tuple(items), negated, float(without - bits))


def _taken(
    wanted: Bool[np.ndarray, " token"], key: Int64[np.ndarray, " token"], most_items: int
) -> tuple[list[int], float]:
    """Items one after the other, each the one with which the fewest bits are left, as long as they become fewer; and the bits."""
    size = np.bincount(key).astype(np.float64)
    hits = np.bincount(key[wanted], minlength=len(size)).astype(np.float64)
    n_known, total, all_hits = int((size > 0).sum()), size.sum(), hits.sum()
    # Under the others it fires less often than elsewhere: that would be a rule for where it is silent.
    open_items = np.flatnonzero((hits > 0) & (hits * total >= size * all_hits))
    taken: list[int] = []
    inside, inside_hits = 0.0, 0.0
    best = np.inf
    while len(taken) < most_items and len(open_items):
        n, k = inside + size[open_items], inside_hits + hits[open_items]
        bits = _bits(n, k) + _bits(total - n, all_hits - k)
        bits += _bits_of_naming(n_known, len(taken) + 1) + np.log2(most_items)
        # Of equal ones the lower number, so that the order of tokens is of no matter.
        chosen = int(np.argmin(bits))
        if bits[chosen] >= best:
            break
        best, inside, inside_hits = float(bits[chosen]), n[chosen], k[chosen]
        taken.append(int(open_items[chosen]))
        open_items = np.delete(open_items, chosen)
    return taken, best


def _bits(n: Float64[np.ndarray, " item"], k: Float64[np.ndarray, " item"]) -> Float64[np.ndarray, " item"]:
    """To say which k of n: first how many, then which of the choices of so many (Cover 1973)."""
    return np.log2(n + 1) + (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / np.log(2)


def _bits_of_naming(known: int, taken: int) -> float:
    """Which `taken` of `known` items."""
    chosen = gammaln(known + 1) - gammaln(taken + 1) - gammaln(known - taken + 1)
    return float(chosen / np.log(2))
