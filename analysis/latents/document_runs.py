"""The documents in which each latent fires, from the firings of a batch."""

from typing import NamedTuple

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from crosscoder.dictionary.sparse_latents import SparseLatents


class DocumentRuns(NamedTuple):
    """Runs of firings with the same latent and document, with firings sorted by latent."""

    first: Int64[Tensor, " run"]
    """Index of the run's first firing in the order `by_latent`."""

    latent: Int64[Tensor, " run"]

    document: Int64[Tensor, " run"]


def document_runs(sparse_latents: SparseLatents, document: Int[Tensor, " token"]) -> DocumentRuns:
    """Return the runs of a batch, sorted by latent. Tokens of one document must be contiguous."""
    order = sparse_latents.by_latent
    latent, documents = sparse_latents.latent[order], document.long()[sparse_latents.token[order]]
    fresh = torch.ones_like(latent, dtype=torch.bool)
    fresh[1:] = (latent[1:] != latent[:-1]) | (documents[1:] != documents[:-1])
    first = fresh.nonzero().squeeze(1)
    return DocumentRuns(first, latent[first], documents[first])
