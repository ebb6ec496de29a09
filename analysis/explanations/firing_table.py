"""Firings of selected latents on held-out tokens, with their contributions to both models: rules are learned from them and explanations
are scored on them.

Documents are split into a find set and a claim set by their number and the seed of the run. Rules and explanations are found on the same
find set and checked on the same claim set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from tqdm import tqdm

from crosscoder.activations.batch import ActivationReader
from crosscoder.dictionary.sparse_latents import SparseLatents

from ..latents.dictionary_view import DictionaryView
from ..latents.hashing import hashed, uniform
from ..latents.held_out_pass import batches_for

_SPLIT_STREAM, _DRAW_STREAM = 1, 2


def document_draw(document: Int64[np.ndarray, " item"], seed: int, stream: int) -> np.ndarray:
    """Return a number in [0, 1) for each document, independent of the one that determines its bootstrap block."""
    once = hashed(document, seed + stream).astype(np.int64)
    return uniform(hashed(once, seed + stream))


def in_find_set(document: Int64[np.ndarray, " item"], seed: int) -> Bool[np.ndarray, " item"]:
    """Whether each document is in the half that rules and explanations are found on; the other half is the claim set."""
    return document_draw(document, seed, _SPLIT_STREAM) < 0.5


@dataclass(frozen=True)
class FiringTable:
    """Held-out tokens and the firings of selected latents on them, sorted by token."""

    latents: tuple[int, ...]
    document: Int64[np.ndarray, " token"]
    position: Int64[np.ndarray, " token"]
    """Position of each token in its document."""
    token: Int64[np.ndarray, " firing"]
    """Index of the token in `document`."""
    place: Int64[np.ndarray, " firing"]
    """Index of the latent in `latents`."""
    value: Float32[np.ndarray, " firing"]
    reference: Float32[np.ndarray, " firing"]
    """Contribution to the reference: the latent's value times the norm of its direction, in raw units."""
    intervened: Float32[np.ndarray, " firing"]

    def of(self, latent: int) -> Int64[np.ndarray, " chosen"]:
        """Return the indices of the firings of one latent."""
        return np.flatnonzero(self.place == self.latents.index(latent))


def gather_firings(
    reader: ActivationReader,
    view: DictionaryView,
    latents: Sequence[int],
    max_tokens: int,
    seed: int,
    progress: Callable[[int], object] = lambda _: None,
) -> FiringTable:
    """Collect the firings in one pass over held-out tokens.

    Args:
        latents: Latents whose firings are kept; about 24 bytes per firing.
        max_tokens: In a longer text, documents are sampled to read about this many tokens.
        progress: Called with the number of tokens of each batch.
    """
    share = max_tokens / max(reader.n_tokens, 1)
    place_of = torch.full((view.n_latents,), -1, dtype=torch.int64)
    place_of[list(latents)] = torch.arange(len(latents))
    no_index, no_value = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    tokens, parts = [(no_index, no_index)], [(no_index, no_index, no_value, no_value, no_value)]
    n_tokens = 0
    for batch in batches_for(view, reader):
        progress(len(batch.values))
        document = batch.document.cpu().numpy().astype(np.int64)
        rows = np.flatnonzero(document_draw(document, seed, _DRAW_STREAM) < share)
        if not len(rows):
            continue
        tokens.append((document[rows], batch.position.cpu().numpy().astype(np.int64)[rows]))
        codes = view.encode(batch.values[torch.from_numpy(rows)])
        parts.append(_kept(codes.sparse_latents, view.contributions(codes), place_of, n_tokens))
        n_tokens += len(rows)
    document, position = (np.concatenate(column) for column in zip(*tokens, strict=True))
    token, place, *contributions = (np.concatenate(column) for column in zip(*parts, strict=True))
    return FiringTable(
        tuple(int(latent) for latent in latents), document, position, token, place, *contributions
    )


def read_firings(
    reader: ActivationReader,
    view: DictionaryView,
    latents: Sequence[int],
    max_tokens: int,
    seed: int,
    label: str,
) -> FiringTable:
    """`gather_firings` with a progress bar."""
    with tqdm(total=reader.n_tokens, desc=label, unit=" tokens", unit_scale=True) as bar:
        return gather_firings(reader, view, latents, max_tokens, seed, bar.update)


def _kept(
    firings: SparseLatents,
    contributions: tuple[SparseLatents, SparseLatents],
    place_of: torch.Tensor,
    first_token: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    place = place_of[firings.latent.cpu()]
    kept = place >= 0
    value, reference, intervened = (
        code.cpu().value[kept].float().numpy() for code in (firings, *contributions)
    )
    return firings.token.cpu()[kept].numpy() + first_token, place[kept].numpy(), value, reference, intervened
