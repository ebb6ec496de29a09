"""Which lists of tokens say more than those of random directions.

Nearly every direction has top tokens once it is put through an unembedding. Whether they say anything of the direction is asked of the
*alignment* of a list: the mean, over its tokens t, of the cosine between what the unembedding reads of the direction and the token's row,

    alignment(d) = mean_t ⟨e, w_t − w̄⟩ / (‖e‖ ‖w_t − w̄‖),    e = final norm(d),

with the opposite sign for the tokens with the smallest logits. Rows are centered over the vocabulary, because w̄ adds one constant to all
logits. Their lengths are divided out, because tokens with long rows lead the lists of many directions.

It is compared with the alignment of random directions of the same model: mixtures Σ_j g_j d_j / ‖d_j‖ of the decoder rows of all its latents
with g_j ~ N(0, 1). They are Gaussian with the second moment of the rows, so the outlier dimensions of a model and the gain of its final norm
act on both alike. The p-value is (1 + draws that reach the list) / (1 + draws) (Phipson and Smyth 2010). Beyond the largest tenth of the draws
it comes from a generalized Pareto tail (Pickands 1975; by moments, Hosking and Wallis 1987), as Knijnenburg et al. 2009 do for permutations: the
few lists of a large dictionary that do read could not pass a correction otherwise. Benjamini and Hochberg (1995) correct it over the
lists of one table and side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from scipy.stats import false_discovery_control
from torch import Tensor

SIDES = ("top", "bottom")

DRAWS = 1000
"""Random directions for each model: a hundred of them in the tail that is fitted."""

# Directions read at a time.
_CHUNK = 256

# Share of the draws that the tail is fitted to.
_TAIL = 0.1

# Float32 rounding of an alignment; a direction ties with itself.
_ROUNDING = 1e-6


@runtime_checkable
class DirectionReader(Protocol):
    """The part of `ModelPair` that the logit lens needs."""

    def direction_logits(
        self, directions: Float[Tensor, "latent d_model"], model: int
    ) -> Float[Tensor, "latent vocabulary"]:
        """Return directions through the final norm and the unembedding of a model."""
        ...

    def token_cosines(
        self,
        directions: Float[Tensor, "latent d_model"],
        logits: Float[Tensor, "latent vocabulary"],
        token_ids: Int[Tensor, "latent rank"],
        model: int,
    ) -> Float[Tensor, "latent rank"]:
        """Return the cosines of directions, after the final norm, with the centered rows of some tokens in the unembedding."""
        ...


class TokenLists(NamedTuple):
    """The tokens with the most extreme logits of some directions, on one side, the most extreme first."""

    token_ids: Int[Tensor, "latent rank"]
    values: Float[Tensor, "latent rank"]
    """Logits."""

    cosines: Float64[np.ndarray, "latent rank"]
    """Cosines with the tokens' rows, with the opposite sign for the smallest logits."""


class ListTests(NamedTuple):
    """What the null says of the lists of one table and side."""

    alignments: Float64[np.ndarray, " latent"]
    p_values: Float64[np.ndarray, " latent"]
    q_values: Float64[np.ndarray, " latent"]
    readable: Bool[np.ndarray, " latent"]


@dataclass(frozen=True)
class NullLists:
    """The lists of random directions of one model."""

    cosines: dict[str, Float64[np.ndarray, "draw rank"]]
    """By side."""

    def p_values(
        self, side: str, cosines: Float64[np.ndarray, "latent rank"]
    ) -> Float64[np.ndarray, " latent"]:
        """Return the p-values of lists that are as long as those of the null, or shorter."""
        length = cosines.shape[1]
        null = self.cosines[side][:, :length].mean(axis=1)
        return tail_p_values(cosines.mean(axis=1), null)

    def test(self, side: str, cosines: Float64[np.ndarray, "latent rank"], rate: float) -> ListTests:
        """Return which lists read as tokens at a false-discovery rate, all lists of a table and side together."""
        p_values = self.p_values(side, cosines)
        q_values = false_discovery_control(p_values, method="bh") if len(p_values) else p_values
        return ListTests(cosines.mean(axis=1), p_values, q_values, q_values <= rate)


def token_lists(
    reader: DirectionReader,
    directions: Float[Tensor, "latent d_model"],
    model: int,
    count: int,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, TokenLists]:
    """Return the `count` top and bottom tokens of directions, a few directions at a time."""
    parts: dict[str, list[TokenLists]] = {side: [] for side in SIDES}
    for chunk in directions.split(_CHUNK):
        for side, lists in _lists_of_chunk(reader, chunk, model, count).items():
            parts[side].append(lists)
        progress(len(chunk))
    return {
        side: TokenLists(
            torch.cat([lists.token_ids for lists in found]),
            torch.cat([lists.values for lists in found]),
            np.concatenate([lists.cosines for lists in found]),
        )
        for side, found in parts.items()
    }


def _lists_of_chunk(
    reader: DirectionReader, directions: Float[Tensor, "latent d_model"], model: int, count: int
) -> dict[str, TokenLists]:
    logits = reader.direction_logits(directions, model)
    found = {}
    for side, sign in (("top", 1), ("bottom", -1)):
        ends = logits.topk(min(count, logits.shape[1]), dim=1, largest=sign > 0)
        cosines = sign * reader.token_cosines(directions, logits, ends.indices, model)
        found[side] = TokenLists(
            ends.indices.cpu(), ends.values.float().cpu(), cosines.double().cpu().numpy()
        )
    return found


def random_directions(
    rows: Float[Tensor, "latent d_model"], count: int, generator: torch.Generator
) -> Float[Tensor, "draw d_model"]:
    """Return Gaussian mixtures of the unit vectors along `rows`, each as long as a row is on average."""
    units = torch.nn.functional.normalize(rows.float(), dim=1)
    length = rows.float().norm(dim=1).mean()
    mixed = [
        torch.randn(min(_CHUNK, count - first), len(rows), generator=generator).to(units) @ units
        for first in range(0, count, _CHUNK)
    ]
    return torch.nn.functional.normalize(torch.cat(mixed), dim=1) * length


def null_lists(
    reader: DirectionReader,
    rows: Float[Tensor, "latent d_model"],
    model: int,
    count: int,
    seed: int,
    progress: Callable[[int], object] = lambda _: None,
) -> NullLists:
    """Return the lists of `DRAWS` random directions that are made of `rows`, the decoder rows of a model.

    Args:
        count: Tokens of the longest list that is compared with them.
    """
    directions = random_directions(rows, DRAWS, torch.Generator().manual_seed(seed))
    lists = token_lists(reader, directions, model, count, progress)
    return NullLists({side: lists[side].cosines for side in SIDES})


def tail_p_values(
    found: Float64[np.ndarray, " test"], null: Float64[np.ndarray, " draw"]
) -> Float64[np.ndarray, " test"]:
    """Return the one-sided p-values of `found` against draws of the null, with a generalized Pareto tail beyond the largest tenth.

    The shape of the tail is not below 0: it never ends, and a p-value is never 0 by construction.
    """
    draws = np.sort(null)
    n, n_tail = len(draws), max(2, round(_TAIL * len(draws)))
    p_values = (1 + n - np.searchsorted(draws, found - _ROUNDING)) / (1 + n)
    start, largest = draws[n - n_tail - 1], draws[n - n_tail :]
    mean, variance = float((largest - start).mean()), float((largest - start).var(ddof=1))
    if variance <= _ROUNDING**2:
        return p_values
    shape = max(0.0, (1 - mean**2 / variance) / 2)
    scale = mean * (1 - shape)
    beyond = np.maximum(found - start, 0.0)
    surviving = (np.exp(-beyond / scale) if shape == 0 else (1 + shape * beyond / scale) ** (-1 / shape)) * (
        n_tail / n
    )
    return np.where(found > start, np.maximum(surviving, np.finfo(np.float64).tiny), p_values)
