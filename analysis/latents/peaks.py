"""The documents to show for each latent: its strongest and a uniform sample, in one pass and bounded memory.

The peak of a latent in a document is its strongest token. Each latent has two lists: the documents with the largest peaks, and those with
the smallest seeded random numbers, which is a uniform sample without replacement. Neither list depends on the order of the documents.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch
from crosscoder.dictionary.sparse_latents import SparseLatents

from .document_runs import document_runs
from .hashing import hashed, uniform

# Candidates that are collected before lists are truncated; about 40 bytes each.
_PENDING = 1_000_000


@dataclass(frozen=True)
class DocumentPeaks:
    """One entry per pair of latent and document, sorted by latent, then by decreasing key."""

    latent: Int64[np.ndarray, " entry"]
    document: Int64[np.ndarray, " entry"]
    position: Int64[np.ndarray, " entry"]
    """First position in the document at which the latent is strongest."""
    peak: Float64[np.ndarray, " entry"]
    key: Float64[np.ndarray, " entry"]
    """Ranks the entries of a latent."""

    def __len__(self) -> int:
        return len(self.latent)

    def take(self, entries: np.ndarray) -> "DocumentPeaks":
        """Return the entries at these indices, or those of a mask."""
        return DocumentPeaks(
            self.latent[entries],
            self.document[entries],
            self.position[entries],
            self.peak[entries],
            self.key[entries],
        )

    def rank(self) -> Int64[np.ndarray, " entry"]:
        """Return the rank of each entry among those of its latent, from 0."""
        fresh = np.flatnonzero(np.diff(self.latent, prepend=-1))
        return np.arange(len(self)) - np.repeat(fresh, np.diff(fresh, append=len(self)))

    def by_document(self) -> "DocumentPeaks":
        """Return each pair of latent and document once, with its strongest token."""
        pairs = self.take(np.lexsort((self.position, -self.peak, self.document, self.latent)))
        return pairs.take(
            (np.diff(pairs.latent, prepend=-1) != 0) | (np.diff(pairs.document, prepend=-1) != 0)
        )

    def strongest(self, count: int) -> "DocumentPeaks":
        """Return the `count` documents of each latent with the largest keys; ties go to the lower document number."""
        # A document that was split between batches has two entries.
        once = self.by_document()
        ranked = once.take(np.lexsort((once.document, -once.key, once.latent)))
        return ranked.take(ranked.rank() < count)

    @classmethod
    def joined(cls, parts: list["DocumentPeaks"]) -> "DocumentPeaks":
        """Return the entries of several lists as one."""
        return cls(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)))

    @classmethod
    def empty(cls) -> "DocumentPeaks":
        """Return a list without entries."""
        integers = np.zeros(0, dtype=np.int64)
        return cls(integers, integers, integers, np.zeros(0), np.zeros(0))


class PeakAccumulator:
    """Accumulates the `top` documents and a `sample` from batches."""

    def __init__(self, n_top: int, n_sample: int, seed: int) -> None:
        self.seed = seed
        self._top = _Shortlist(n_top)
        self._sample = _Shortlist(n_sample)

    def update(self, batch: ActivationBatch, sparse_latents: SparseLatents) -> None:
        """Add a batch; a document may continue in the next one."""
        peaks = _peaks_of(batch, sparse_latents.cpu())
        self._top.add(peaks, sparse_latents.shape[1])
        if self._sample.count:
            pair = hashed(peaks.document, self.seed).astype(np.int64) ^ peaks.latent
            drawn = replace(peaks, key=-uniform(hashed(pair, self.seed)))
            self._sample.add(drawn, sparse_latents.shape[1])

    def tensors(self) -> dict[str, Tensor]:
        """Return both lists as named tensors, for `join` in another process."""
        lists = {
            f"{name}/{field.name}": torch.from_numpy(getattr(peaks, field.name))
            for name, peaks in (("top", self.top), ("sample", self.sample))
            for field in fields(peaks)
        }
        return {"n_latents": torch.tensor(self._top.n_latents), **lists}

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Add the lists of another process."""
        for name, shortlist in (("top", self._top), ("sample", self._sample)):
            found = (tensors[f"{name}/{field.name}"].numpy() for field in fields(DocumentPeaks))
            shortlist.add(DocumentPeaks(*found), int(tensors["n_latents"]))

    @property
    def top(self) -> DocumentPeaks:
        """Documents with the largest peaks of each latent, strongest first."""
        return self._top.result()

    @property
    def sample(self) -> DocumentPeaks:
        """Uniform sample of the documents in which each latent fires."""
        return self._sample.result()


class _Shortlist:
    """The `count` entries of each latent with the largest keys."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._parts = [DocumentPeaks.empty()]
        self._pending = 0
        self._floor = np.zeros(0)

    @property
    def n_latents(self) -> int:
        """Number of latents; 0 before anything is added."""
        return len(self._floor)

    def add(self, peaks: DocumentPeaks, n_latents: int) -> None:
        """Add entries; each pair of latent and document at most once."""
        if not len(self._floor):
            self._floor = np.full(n_latents, -np.inf)
        # In a long pass, most entries of a frequent latent are far below its list.
        peaks = peaks.take(peaks.key >= self._floor[peaks.latent])
        self._parts.append(peaks)
        self._pending += len(peaks)
        if self._pending > _PENDING:
            self.result()

    def result(self) -> DocumentPeaks:
        """Truncate the lists and return them."""
        listed = DocumentPeaks.joined(self._parts).strongest(self.count)
        last = listed.rank() == self.count - 1
        self._floor[listed.latent[last]] = listed.key[last]
        self._parts, self._pending = [listed], 0
        return listed


def _peaks_of(batch: ActivationBatch, sparse_latents: SparseLatents) -> DocumentPeaks:
    """Return the peak of each latent in each document of a batch."""
    document = batch.document.cpu()
    _, local = document.unique_consecutive(return_inverse=True)
    runs = document_runs(sparse_latents, local)
    first, latent = runs.first.numpy(), runs.latent.numpy()
    order = sparse_latents.by_latent
    token, value = sparse_latents.token[order].numpy(), sparse_latents.value[order].numpy()
    if not len(first):
        return DocumentPeaks.empty()
    peak = np.maximum.reduceat(value, first)
    length = np.diff(first, append=len(value))
    position = batch.position.cpu().numpy().astype(np.int64)
    never_first = np.iinfo(np.int64).max
    positions = np.where(value == np.repeat(peak, length), position[token], never_first)
    peak = peak.astype(np.float64)
    return DocumentPeaks(
        latent,
        document.numpy().astype(np.int64)[token[first]],
        np.minimum.reduceat(positions, first),
        peak,
        peak,
    )
