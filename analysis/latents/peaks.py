"""Which documents show a latent best: its strongest, and a fair sample of all it fires in, in one pass and bounded memory.

A document stands for a latent by its strongest token. Two lists are kept for each latent: the documents with the largest
peaks, and those with the smallest seeded random numbers, a uniform sample without replacement. Both lists are the same in
whatever order the documents come.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from crosscoder.activations.batch import ActivationBatch
from crosscoder.dictionary.sparse_latents import SparseLatents

from .document_runs import document_runs
from .hashing import hashed, uniform

# Candidates that are gathered before a list is cut back; about 40 bytes each.
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
        self.seed = seed
        self._top = _Shortlist(n_top)
        self._sample = _Shortlist(n_sample)

    def update(self, batch: ActivationBatch, sparse_latents: SparseLatents) -> None:
        """Add some tokens; a document may go on in the next batch."""
        peaks = _peaks_of(batch, sparse_latents.cpu())
        self._top.add(peaks, sparse_latents.shape[1])
        if self._sample.count:
            pair = hashed(peaks.document, self.seed).astype(np.int64) ^ peaks.latent
            drawn = replace(peaks, key=-uniform(hashed(pair, self.seed)))
            self._sample.add(drawn, sparse_latents.shape[1])

    @property
    def top(self) -> Peaks:
        """The documents with the largest peaks of each latent, strongest first."""
        return self._top.result()

    @property
    def sample(self) -> Peaks:
        """A uniform sample of the documents each latent fires in."""
        return self._sample.result()


class _Shortlist:
    """The few entries of each latent with the largest keys."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._parts = [Peaks.empty()]
        self._pending = 0
        self._floor = np.zeros(0)

    def add(self, peaks: Peaks, n_latents: int) -> None:
        """Add entries, each document of a latent once."""
        if not len(self._floor):
            self._floor = np.full(n_latents, -np.inf)
        # Most entries of a long pass do not come near the list of a latent that fires often.
        peaks = peaks.take(peaks.key >= self._floor[peaks.latent])
        self._parts.append(peaks)
        self._pending += len(peaks)
        if self._pending > _PENDING:
            self.result()

    def result(self) -> Peaks:
        """The lists, cut back."""
        listed = Peaks.joined(self._parts).strongest(self.count)
        last = listed.rank() == self.count - 1
        self._floor[listed.latent[last]] = listed.key[last]
        self._parts, self._pending = [listed], 0
        return listed


def _peaks_of(batch: ActivationBatch, sparse_latents: SparseLatents) -> Peaks:
    """Where each latent is strongest in each document of a batch."""
    document = batch.document.cpu()
    _, local = document.unique_consecutive(return_inverse=True)
    runs = document_runs(sparse_latents, local)
    first, latent = runs.first.numpy(), runs.latent.numpy()
    order = sparse_latents.by_latent
    token, value = sparse_latents.token[order].numpy(), sparse_latents.value[order].numpy()
    if not len(first):
        return Peaks.empty()
    peak = np.maximum.reduceat(value, first)
    length = np.diff(first, append=len(value))
    position = batch.position.cpu().numpy().astype(np.int64)
    elsewhere = np.iinfo(np.int64).max
    places = np.where(value == np.repeat(peak, length), position[token], elsewhere)
    peak = peak.astype(np.float64)
    return Peaks(
        latent,
        document.numpy().astype(np.int64)[token[first]],
        np.minimum.reduceat(places, first),
        peak,
        peak,
    )
