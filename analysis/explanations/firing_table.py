"""Where some latents fire on held-out tokens, each firing with what it writes into both models: what rules are learnt from and
explanations are scored on.

Claims are made on other documents than those that anything was found on. Which part a document belongs to follows from its number
and the seed of the run, so the rule of a latent and its explanations are found on the same part and checked on the same other part.
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


def drawn(document: Int64[np.ndarray, " item"], seed: int, stream: int) -> np.ndarray:
    """A number in [0, 1) for each document, other than the one that decides what it is resampled with."""
    once = hashed(document, seed + stream).astype(np.int64)
    return uniform(hashed(once, seed + stream))


def for_finding(document: Int64[np.ndarray, " item"], seed: int) -> Bool[np.ndarray, " item"]:
    """Whether a document is of the half that rules and explanations are found on; the other half is for claims."""
    return drawn(document, seed, _SPLIT_STREAM) < 0.5


@dataclass(frozen=True)
class FiringTable:
    """Some held-out tokens, and the firings of some latents on them, token after token."""

    latents: tuple[int, ...]
    document: Int64[np.ndarray, " token"]
    position: Int64[np.ndarray, " token"]
    """Of each token in its document."""
    token: Int64[np.ndarray, " firing"]
    """Row of the token, in the order of `document`."""
    place: Int64[np.ndarray, " firing"]
    """Of the latent in `latents`."""
    value: Float32[np.ndarray, " firing"]
    reference: Float32[np.ndarray, " firing"]
    """What is written into the reference: the latent's value times the norm of its direction, raw units."""
    intervened: Float32[np.ndarray, " firing"]

    def of(self, latent: int) -> Int64[np.ndarray, " chosen"]:
        """The firings of one latent."""
        return np.flatnonzero(self.place == self.latents.index(latent))


def gather_firings(
    reader: ActivationReader,
    view: DictionaryView,
    latents: Sequence[int],
    most_tokens: int,
    seed: int,
    progress: Callable[[int], object] = lambda _: None,
) -> FiringTable:
    """Read through held-out tokens once.

    Args:
        latents: Whose firings are kept; about 24 bytes each.
        most_tokens: Of a longer text, documents are drawn so that about so many tokens are read.
        progress: Is told of the tokens that pass by.
    """
    share = most_tokens / max(reader.n_tokens, 1)
    place_of = torch.full((view.n_latents,), -1, dtype=torch.int64)
    place_of[list(latents)] = torch.arange(len(latents))
    nothing, no_value = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    tokens, parts = [(nothing, nothing)], [(nothing, nothing, no_value, no_value, no_value)]
    n_tokens = 0
    for batch in batches_for(view, reader):
        progress(len(batch.values))
        document = batch.document.cpu().numpy().astype(np.int64)
        rows = np.flatnonzero(drawn(document, seed, _DRAW_STREAM) < share)
        if not len(rows):
            continue
        tokens.append((document[rows], batch.position.cpu().numpy().astype(np.int64)[rows]))
        codes = view.encode(batch.values[torch.from_numpy(rows)])
        parts.append(_kept(codes.sparse_latents, view.contributions(codes), place_of, n_tokens))
        n_tokens += len(rows)
    document, position = (np.concatenate(column) for column in zip(*tokens, strict=True))
    token, place, *written = (np.concatenate(column) for column in zip(*parts, strict=True))
    return FiringTable(tuple(int(latent) for latent in latents), document, position, token, place, *written)


def read_firings(
    reader: ActivationReader,
    view: DictionaryView,
    latents: Sequence[int],
    most_tokens: int,
    seed: int,
    named: str,
) -> FiringTable:
    """`gather_firings` with a bar that is `named`."""
    with tqdm(total=reader.n_tokens, desc=named, unit=" tokens", unit_scale=True) as bar:
        return gather_firings(reader, view, latents, most_tokens, seed, bar.update)


def _kept(
    firings: SparseLatents,
    written: tuple[SparseLatents, SparseLatents],
    place_of: torch.Tensor,
    first_token: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    place = place_of[firings.latent.cpu()]
    kept = place >= 0
    value, reference, intervened = (code.cpu().value[kept].float().numpy() for code in (firings, *written))
    return firings.token.cpu()[kept].numpy() + first_token, place[kept].numpy(), value, reference, intervened
