"""In which documents each latent fires, from the firings of a batch: what counts and lists of documents are made of."""

from typing import NamedTuple

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from crosscoder.dictionary.sparse_latents import SparseLatents


class DocumentRuns(NamedTuple):
    """Firings in the order of their latents are runs of one latent and one document each."""

    first: Int64[Tensor, " run"]
    """Place of a run's first firing in the order `by_latent`."""

    latent: Int64[Tensor, " run"]

    document: Int64[Tensor, " run"]


def document_runs(sparse_latents: SparseLatents, document: Int[Tensor, " token"]) -> DocumentRuns:
    """The runs of a batch, by latent; `document` is that of each token, and those of one document lie together."""
    order = sparse_latents.by_latent
    latent, documents = sparse_latents.latent[order], document.long()[sparse_latents.token[order]]
    fresh = torch.ones_like(latent, dtype=torch.bool)
    fresh[1:] = (latent[1:] != latent[:-1]) | (documents[1:] != documents[:-1])
    first = fresh.nonzero().squeeze(1)
    return DocumentRuns(first, latent[first], documents[first])
