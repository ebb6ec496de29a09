"""Which documents show a latent best: its strongest, and a fair sample of all it fires in, in one pass and bounded memory.

A document stands for a latent by its strongest token. Two lists are kept for each latent: the documents with the largest
peaks, and those with the smallest seeded random numbers, a uniform sample without replacement. Both lists are the same in
whatever order the documents come.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from crosscoder.activations import ActivationBatch

from .firings import Firings
from .hashing import scramble, uniform

# Candidates that are gathered before the lists are cut back; about 40 bytes each.
_PENDING = 1_000_000


@dataclass(frozen=True)
class Peaks:
    """One entry a pair of latent and document, by latent, then by decreasing key."""

    latent: Int64[np.ndarray, " entry"]
    document: Int64[np.ndarray, " entry"]
    position: Int64[np.ndarray, " entry"]
    """Where in the document the latent is strongest; the first such place."""
    peak: Float64[np.ndarray, " entry"]
    key: Float64[np.ndarray, " entry"]
    """What the entries of a latent are ranked by."""

    def __len__(self) -> int:
        return len(self.latent)

    def take(self, chosen: np.ndarray) -> "Peaks":
        """The entries at the given places, or those marked."""
        return Peaks(
            self.latent[chosen],
            self.document[chosen],
            self.position[chosen],
            self.peak[chosen],
            self.key[chosen],
        )

    def rank(self) -> Int64[np.ndarray, " entry"]:
        """Place of each entry among those of its latent, from 0."""
        fresh = np.flatnonzero(np.diff(self.latent, prepend=-1))
        return np.arange(len(self)) - np.repeat(fresh, np.diff(fresh, append=len(self)))

    def by_document(self) -> "Peaks":
        """Each pair of latent and document once, by its strongest token."""
        pairs = self.take(np.lexsort((self.position, -self.peak, self.document, self.latent)))
        return pairs.take(
            (np.diff(pairs.latent, prepend=-1) != 0) | (np.diff(pairs.document, prepend=-1) != 0)
        )

    def strongest(self, count: int) -> "Peaks":
        """The `count` documents of each latent with the largest keys; among equal keys the lower document."""
        # A document that was cut in two by batches is in here twice until now.
        once = self.by_document()
        ranked = once.take(np.lexsort((once.document, -once.key, once.latent)))
        return ranked.take(ranked.rank() < count)

    @classmethod
    def joined(cls, parts: list["Peaks"]) -> "Peaks":
        """All entries of several lists."""
        names = ("latent", "document", "position", "peak", "key")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @classmethod
    def empty(cls) -> "Peaks":
        """No entry."""
        whole = np.zeros(0, dtype=np.int64)
        return cls(whole, whole, whole, np.zeros(0), np.zeros(0))


class PeakAccumulator:
    """Add batches with `update`; then `top` and `sample`."""

    def __init__(self, n_top: int, n_sample: int, seed: int) -> None:
        self.n_top = n_top
        self.n_sample = n_sample
        self.seed = seed
        self._top = [Peaks.empty()]
        self._sample = [Peaks.empty()]
        self._pending = 0

    def update(self, batch: ActivationBatch, firings: Firings) -> None:
        """Add some tokens; a document may go on in the next batch."""
        token = firings.token.cpu().numpy()
        latent = firings.latent.cpu().numpy()
        value = firings.value.double().cpu().numpy()
        document = batch.document.cpu().numpy().astype(np.int64)[token]
        position = batch.position.cpu().numpy().astype(np.int64)[token]
        peaks = Peaks(latent, document, position, value, value).by_document()
        self._top.append(peaks)
        if self.n_sample:
            pair = scramble(peaks.document, self.seed).astype(np.int64) ^ peaks.latent
            self._sample.append(replace(peaks, key=-uniform(scramble(pair, self.seed))))
        self._pending += len(peaks)
        if self._pending > _PENDING:
            self._cut()

    @property
    def top(self) -> Peaks:
        """The documents with the largest peaks of each latent, strongest first."""
        self._cut()
        return self._top[0]

    @property
    def sample(self) -> Peaks:
        """A uniform sample of the documents each latent fires in."""
        self._cut()
        return self._sample[0]

    def _cut(self) -> None:
        self._top = [Peaks.joined(self._top).strongest(self.n_top)]
        self._sample = [Peaks.joined(self._sample).strongest(self.n_sample)]
        self._pending = 0
