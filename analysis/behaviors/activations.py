"""Both models' activations on the prompts of a behavior, and the decomposition of their difference by the dictionary."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from crosscoder.config import TokenPolicy
from crosscoder.language_models.pair import ModelPair

from ..latents.dictionary_view import DictionaryView
from .change_decomposition import Change, Part
from .prompts import BATCH_TOKENS, Batch, Row, batches


class LatentSizes(NamedTuple):
    """How much each latent changes on a set of prompts."""

    norm: Float[Tensor, " latent"]
    """Frobenius norm of w_j d_j over all tokens."""

    firings: Int64[Tensor, " latent"]
    """Number of tokens on which it fires."""


class PromptActivations:
    """Activations of both models on rows of tokens, held in memory."""

    def __init__(
        self,
        pair: ModelPair,
        view: DictionaryView | None,
        batches: Sequence[Batch],
        activations: Sequence[tuple[Float[Tensor, "_ _ _"], ...]],
    ) -> None:
        """
        Args:
            view: Without it, the change cannot be decomposed.
            activations: Activations of all models, for each batch.
        """
        self.pair, self.batches = pair, list(batches)
        self.n_prompts = 1 + max(int(batch.prompts.max()) for batch in self.batches)
        self._view = view
        self._changes: dict[int, Change] = {}
        self._activations = list(activations)

    @classmethod
    def from_rows(
        cls,
        pair: ModelPair,
        view: DictionaryView | None,
        rows: Sequence[Row],
        policy: TokenPolicy,
        batch_tokens: int = BATCH_TOKENS,
    ) -> Self:
        """Run both models on the rows and keep the activations at the hookpoint."""
        formed = batches(rows, pair.tokenizer, policy, pair.max_positions, batch_tokens)
        return cls(
            pair, view, formed, [pair.activations(batch.token_ids, batch.attention) for batch in formed]
        )

    def change(self, index: int) -> Change:
        """Return the change on one batch."""
        assert self._view is not None
        if index not in self._changes:
            kept = self.batches[index].kept
            self._changes[index] = Change(self._view, self._activations[index], kept)
        return self._changes[index]

    def of_batch(self, index: int) -> tuple[Float[Tensor, "row token _"], ...]:
        """Return the activations of all models on one batch, in raw units."""
        return self._activations[index]

    def norm(self, part: Part) -> float:
        """Return the Frobenius norm of a part of the change over all prompts."""
        return frobenius_norm(self.change(index).part(part) for index in range(len(self.batches)))

    def latent_sizes(self) -> LatentSizes:
        """Return the size of every latent."""
        squares, firings = [], []
        for index in range(len(self.batches)):
            change = self.change(index)
            latent, n_latents = change.weights.latent, len(change.directions)
            square = (change.weights.value * change.directions.norm(dim=1)[latent]).square()
            squares.append(square.new_zeros(n_latents).index_add(0, latent, square))
            firings.append(torch.bincount(latent, minlength=n_latents))
        return LatentSizes(
            torch.stack(squares).sum(dim=0).sqrt().cpu(), torch.stack(firings).sum(dim=0).cpu()
        )

    def steering_direction(self, part: Part) -> Float[Tensor, " d_model"]:
        """Return the mean over rows of a part of the change at the last prompt token."""
        rows = []
        for index, batch in enumerate(self.batches):
            whole = self.change(index).part(part)
            rows.append(whole[torch.arange(len(whole)), batch.n_prompt.to(whole.device) - 1])
        return torch.cat(rows).mean(dim=0)


def frobenius_norm(batches: Iterable[Float[Tensor, "_ _ d_model"]]) -> float:
    """Return the norm over all batches together."""
    return sum(float(batch.square().sum()) for batch in batches) ** 0.5
