"""A short rule for where a latent fires: a family of items, and the few items on which it fires.

The rule is the one that describes the firings on the find set in the fewest bits, counting the bits of the rule itself. An item is
added only if it saves more bits than it costs to name, so shorter rules are preferred (minimum description length: Rissanen 1978; for
rules, Quinlan and Rivest 1989). The rule is scored on other documents (`auroc`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.special import gammaln

from .explanation_files import FAMILY_NAMES
from .token_families import TokenFamily

_NEGATE_ABOVE = 0.5
"""A latent that fires on more than this share of tokens gets a negated rule: where it does not fire."""


class Rule(NamedTuple):
    """The latent fires on tokens whose item is among `items`; if negated, on all other tokens."""

    family: TokenFamily
    items: tuple[int, ...]
    """Indices of items in the order of selection: the one that saves the most bits comes first."""
    negated: bool
    bits_saved: float
    """Bits saved by the rule compared with encoding the firings without one; negative if the rule costs more than it saves."""

    def holds(self) -> Bool[np.ndarray, " token"]:
        """Whether the rule holds on each token."""
        inside = np.zeros(len(self.family.texts), dtype=bool)
        inside[list(self.items)] = True
        return inside[self.family.key] ^ self.negated

    @property
    def item_texts(self) -> tuple[str, ...]:
        """Texts of the items."""
        return tuple(self.family.texts[item] for item in self.items)


def rule_text(family: str, items: Sequence[str], negated: bool) -> str:
    """Return a rule as text, with the items in quotation marks."""
    named = ", ".join(f"“{item}”" for item in items)
    return f"{FAMILY_NAMES[family]} {'not ' if negated else ''}in {{{named}}}"


def learn_rule(
    fired: Bool[np.ndarray, " token"],
    find_set: Bool[np.ndarray, " token"],
    families: Sequence[TokenFamily],
    max_items: int,
) -> Rule:
    """Return the best rule with at least one item, even if it saves no bits.

    Args:
        fired: Whether the latent fires on each token; used only on the find set.
        find_set: Whether each token is in the find set.
        max_items: Maximum number of items in a rule.
    """
    negated = bool(fired[find_set].mean() > _NEGATE_ABOVE)
    wanted = fired[find_set] ^ negated
    best = None
    for family in families:
        items, bits = _select_items(wanted, family.key[find_set], max_items)
        bits += np.log2(len(families))
        if best is None or bits < best[0]:
            best = bits, family, items
    assert best is not None  # `token_families` returns at least one family where tokens differ
    bits, family, items = best
    (without,) = _bits(np.array([float(wanted.size)]), np.array([float(wanted.sum())]))
    return Rule(family, tuple(items), negated, float(without - bits))


def _select_items(
    wanted: Bool[np.ndarray, " token"], key: Int64[np.ndarray, " token"], max_items: int
) -> tuple[list[int], float]:
    """Select items greedily, each time the one that leaves the fewest bits, until the count stops falling; return the items and the bits."""
    size = np.bincount(key).astype(np.float64)
    hits = np.bincount(key[wanted], minlength=len(size)).astype(np.float64)
    n_known, total, all_hits = int((size > 0).sum()), size.sum(), hits.sum()
    # On the other items it fires less often than on average: they would describe where it does not fire.
    open_items = np.flatnonzero((hits > 0) & (hits * total >= size * all_hits))
    taken: list[int] = []
    inside, inside_hits = 0.0, 0.0
    best = np.inf
    while len(taken) < max_items and len(open_items):
        n, k = inside + size[open_items], inside_hits + hits[open_items]
        bits = _bits(n, k) + _bits(total - n, all_hits - k)
        bits += _bits_of_naming(n_known, len(taken) + 1) + np.log2(max_items)
        # Ties go to the lower index, so the result does not depend on the order of tokens.
        chosen = int(np.argmin(bits))
        if bits[chosen] >= best:
            break
        best, inside, inside_hits = float(bits[chosen]), n[chosen], k[chosen]
        taken.append(int(open_items[chosen]))
        open_items = np.delete(open_items, chosen)
    return taken, best


def _bits(n: Float64[np.ndarray, " item"], k: Float64[np.ndarray, " item"]) -> Float64[np.ndarray, " item"]:
    """Return the bits needed to encode which k of n: first k, then one of the subsets of size k (Cover 1973)."""
    return np.log2(n + 1) + (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / np.log(2)


def _bits_of_naming(known: int, taken: int) -> float:
    """Return the bits needed to name `taken` of `known` items."""
    chosen = gammaln(known + 1) - gammaln(taken + 1) - gammaln(known - taken + 1)
    return float(chosen / np.log(2))
