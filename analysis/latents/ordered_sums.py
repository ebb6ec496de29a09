"""Sums over tokens that no bootstrap block keeps, such as those behind a fraction of variance explained.

Documents are read in groups of blocks (`block_groups`). Each group has its own sums, which are added in the order of the groups. So the
result has the same bits whichever process read which group.
"""

from collections.abc import Iterable, Mapping

from jaxtyping import Float64
from torch import Tensor

Sums = dict[str, Float64[Tensor, "..."]]
"""Sums by name."""


class OrderedSums:
    """The sums of groups, added as soon as all groups before are there. Others wait, so memory grows with the groups that come too early."""

    def __init__(self) -> None:
        self._first: Sums | None = None
        """The sums of the groups before `_n_first`."""
        self._n_first = 0
        self._waiting: dict[int, tuple[int, Sums]] = {}
        """Sums by the number of the first group in them, with the number after that of the last one."""

    def add(self, group: int, sums: Sums) -> None:
        """Add the sums of one group."""
        self._add(group, group + 1, sums)

    def total(self, unfinished: Sums | None = None) -> Sums:
        """Return the sums of all groups, then of one more that is not finished yet."""
        assert not self._waiting, f"the group {self._n_first} is missing"
        parts = [part for part in (self._first, unfinished) if part is not None]
        return _added(parts)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors, for `join` in another process."""
        found = dict(self._waiting)
        if self._first is not None:
            found[0] = self._n_first, self._first
        return {
            f"{begin}/{end}/{name}": value
            for begin, (end, sums) in found.items()
            for name, value in sums.items()
        }

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Add the groups of another process."""
        found: dict[tuple[int, int], Sums] = {}
        for key, value in tensors.items():
            begin, end, name = key.split("/", 2)
            found.setdefault((int(begin), int(end)), {})[name] = value
        for (begin, end), sums in found.items():
            self._add(begin, end, sums)

    def _add(self, begin: int, end: int, sums: Sums) -> None:
        self._waiting[begin] = end, sums
        while (following := self._waiting.pop(self._n_first, None)) is not None:
            self._n_first, sums = following
            self._first = _added([sums] if self._first is None else [self._first, sums])


def _added(parts: Iterable[Sums]) -> Sums:
    first, *others = parts
    return {name: sum((other[name] for other in others), value) for name, value in first.items()}


def with_prefixes(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the named tensors of several parts as one mapping, with the name of the part before each."""
    return {f"{part}/{name}": value for part, tensors in parts.items() for name, value in tensors.items()}


def under(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the named tensors of one part of `with_prefixes`."""
    begin = f"{part}/"
    return {name.removeprefix(begin): value for name, value in tensors.items() if name.startswith(begin)}
