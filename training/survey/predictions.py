"""How the next-token predictions of two models differ: KL divergence at every token, and the tokens whose probability rises.

    KL(intervened ‖ reference) = Σ_v p_int(v) (log p_int(v) - log p_ref(v))        nats, for the prediction after a token

A token is raised at a position if the intervened model gives it at least twice the probability (lowered: at most half), at least
one of the models gives it 0.1 %, and it is among the 20 likeliest tokens of either. Tokens that are raised at many positions show
what the intervened model prefers in any context (logit difference mining: arXiv 2608.26462).
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

# Predictions compared at a time; each is a row over the vocabulary.
_ROWS = 256

_N_CANDIDATES = 20
_MIN_RATIO = 2.0
_MIN_PROBABILITY = 1e-3

N_LISTED = 10
"""Listed positions of the largest KL, and listed tokens that are raised or lowered most often."""

# Predictions of each model that are listed at a position.
_N_PREDICTIONS = 3


@dataclass(frozen=True)
class TokenPosition:
    """The token after which a prediction was made."""

    document: int
    position: int


@dataclass
class _TokenCounts:
    """Number of positions and sum of log ratios for each token of the vocabulary."""

    positions: Int64[Tensor, " vocabulary"]
    log_ratio: Float64[Tensor, " vocabulary"]


@dataclass
class PredictionShift:
    """Accumulates the comparison of both models' predictions on the same tokens."""

    n_vocabulary: int
    kl: list[Float[Tensor, " token"]] = field(default_factory=list)
    template: list[Bool[Tensor, " token"]] = field(default_factory=list)
    position: list[Int64[Tensor, " token"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._raised, self._lowered = (
            _TokenCounts(
                torch.zeros(self.n_vocabulary, dtype=torch.int64),
                torch.zeros(self.n_vocabulary, dtype=torch.float64),
            )
            for _ in range(2)
        )
        # Heap of the largest KL so far, with the predictions of both models; the second entry breaks ties.
        self._largest: list[tuple[float, int, TokenPosition, list[list[tuple[int, float]]]]] = []
        self._n = 0

    def update(
        self,
        reference: Float[Tensor, "token reference_vocabulary"],
        intervened: Float[Tensor, "token intervened_vocabulary"],
        positions: Sequence[TokenPosition],
        template: Bool[Tensor, " token"],
    ) -> None:
        """Add the logits of some tokens; logits beyond the tokenizer's vocabulary are padding and are ignored."""
        self.template.append(template)
        self.position.append(torch.tensor([at.position for at in positions], dtype=torch.int64))
        for begin in range(0, len(reference), _ROWS):
            rows = slice(begin, begin + _ROWS)
            log_p = [
                side[rows, : self.n_vocabulary].float().log_softmax(dim=1) for side in (reference, intervened)
            ]
            kl = (log_p[1].exp() * (log_p[1] - log_p[0])).sum(dim=1).clamp(min=0).cpu()
            self.kl.append(kl)
            self._keep_largest(kl, log_p, positions[rows])
            self._count_changes(*log_p)

    def result(self, decode: Any) -> dict[str, Any]:
        """Return the entry `predictions` of survey.json; `decode` turns token ids into text."""
        kl = torch.cat(self.kl).double().numpy()
        template, position = torch.cat(self.template).numpy(), torch.cat(self.position).numpy()
        return {
            "n_tokens": len(kl),
            "kl": {
                **summarize(kl),
                "template_mean": _mean(kl[template]),
                "other_mean": _mean(kl[~template]),
                "by_position": by_position(kl, position),
            },
            "largest": [
                {
                    "kl": value,
                    "document": at.document,
                    "position": at.position,
                    "reference": [[decode([token]), probability] for token, probability in predictions[0]],
                    "intervened": [[decode([token]), probability] for token, probability in predictions[1]],
                }
                for value, _, at, predictions in sorted(self._largest, key=lambda entry: -entry[0])
            ],
            "raised": self._most_frequent(self._raised, decode),
            "lowered": self._most_frequent(self._lowered, decode),
        }

    def _keep_largest(
        self,
        kl: Float[Tensor, " row"],
        log_p: list[Float[Tensor, "row vocabulary"]],
        positions: Sequence[TokenPosition],
    ) -> None:
        for row in kl.topk(min(N_LISTED, len(kl))).indices.tolist():
            value = float(kl[row])
            self._n += 1
            if value <= 0 or (len(self._largest) == N_LISTED and value <= self._largest[0][0]):
                continue
            likeliest = [side[row].topk(min(_N_PREDICTIONS, self.n_vocabulary)) for side in log_p]
            predictions = [
                list(zip(found.indices.tolist(), found.values.exp().tolist(), strict=True))
                for found in likeliest
            ]
            heapq.heappush(self._largest, (value, -self._n, positions[row], predictions))
            if len(self._largest) > N_LISTED:
                heapq.heappop(self._largest)

    def _count_changes(
        self, reference: Float[Tensor, "row vocabulary"], intervened: Float[Tensor, "row vocabulary"]
    ) -> None:
        ids = [
            side.topk(min(_N_CANDIDATES, side.shape[1]), dim=1).indices for side in (reference, intervened)
        ]
        in_both = (ids[1][:, :, None] == ids[0][:, None, :]).any(dim=2)
        tokens = torch.cat(ids, dim=1)
        before, after = reference.gather(1, tokens), intervened.gather(1, tokens)
        candidate = torch.maximum(before, after) >= np.log(_MIN_PROBABILITY)
        candidate[:, ids[0].shape[1] :] &= ~in_both
        ratio = after - before
        for counts, passing in (
            (self._raised, candidate & (ratio >= np.log(_MIN_RATIO))),
            (self._lowered, candidate & (ratio <= -np.log(_MIN_RATIO))),
        ):
            found = tokens[passing].cpu()
            counts.positions += torch.bincount(found, minlength=self.n_vocabulary)
            counts.log_ratio.index_add_(0, found, ratio[passing].double().cpu())

    def _most_frequent(self, counts: _TokenCounts, decode: Any) -> list[dict[str, Any]]:
        n_tokens = sum(map(len, self.kl))
        positions = counts.positions
        # Ties are broken by the larger change.
        order = np.lexsort((-counts.log_ratio.abs().numpy(), -positions.numpy()))[:N_LISTED]
        return [
            {
                "token_id": token,
                "token": decode([token]),
                "positions": int(positions[token]),
                "share": int(positions[token]) / n_tokens,
                "mean_log_ratio": float(counts.log_ratio[token] / positions[token]),
            }
            for token in order.tolist()
            if positions[token] > 0
        ]


def summarize(kl: Float64[np.ndarray, " token"]) -> dict[str, float]:
    """Mean, quantiles, and the share of the sum that the top 1 % of the tokens hold."""
    largest = np.sort(kl)[::-1][: max(1, round(len(kl) / 100))]
    total = float(kl.sum())
    return {
        "mean": float(kl.mean()),
        "median": float(np.median(kl)),
        "p90": float(np.quantile(kl, 0.9)),
        "p99": float(np.quantile(kl, 0.99)),
        "max": float(kl.max()),
        "largest_hundredth": float(largest.sum()) / total if total > 0 else 0.0,
    }


def by_position(
    kl: Float64[np.ndarray, " token"], position: Int64[np.ndarray, " token"]
) -> list[dict[str, Any]]:
    """Mean KL at each of the first positions, then over ranges that double in size; ranges without tokens are omitted."""
    edges = [0, 1, 2, 3, 4]
    while edges[-1] <= position.max():
        edges.append(2 * edges[-1])
    return [
        {
            "first": first,
            "last": end - 1,
            "n_tokens": int(here.sum()),
            "mean": float(kl[here].mean()),
        }
        for first, end in zip(edges, edges[1:], strict=False)
        if (here := (position >= first) & (position < end)).any()
    ]


def _mean(values: Float64[np.ndarray, " token"]) -> float | None:
    return float(values.mean()) if len(values) else None
