"""How two models differ in what they predict next: KL divergence of every token, and the tokens whose probability rises.

    KL(intervened ‖ reference) = Σ_v p_int(v) (log p_int(v) - log p_ref(v))        nats, from the predictions after a token

A token counts as raised at a position where the intervened model gives it at least twice the probability, one of the two
gives it at least 0.1 %, and it is among the 20 likeliest of one of them (lowered: at most half). Which tokens are raised at
many positions tells what a fine-tuning prefers, whatever the context (logit difference mining: arXiv 2608.26462).
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

# Predictions that are compared at a time: each is a row as long as the vocabulary.
_ROWS = 256

_LIKELIEST = 20
_FACTOR = 2.0
_LEAST = 1e-3

SHOWN = 10
"""Tokens listed of those with the largest KL, and of those that are raised or lowered."""

_NEXT = 3


@dataclass(frozen=True)
class Place:
    """Where a prediction was made."""

    document: int
    position: int


@dataclass
class _Mined:
    positions: Int64[Tensor, " vocabulary"]
    log_ratio: Float64[Tensor, " vocabulary"]


@dataclass
class PredictionShift:
    """Sums over the predictions of both models on the same tokens."""

    n_vocabulary: int
    kl: list[Float[Tensor, " token"]] = field(default_factory=list)
    template: list[Bool[Tensor, " token"]] = field(default_factory=list)
    position: list[Int64[Tensor, " token"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._raised, self._lowered = (
            _Mined(
                torch.zeros(self.n_vocabulary, dtype=torch.int64),
                torch.zeros(self.n_vocabulary, dtype=torch.float64),
            )
            for _ in range(2)
        )
        # The largest KL so far, with what both models predict there; the number in second place breaks ties.
        self._largest: list[tuple[float, int, Place, list[list[tuple[int, float]]]]] = []
        self._n = 0

    def update(
        self,
        reference: Float[Tensor, "token reference_vocabulary"],
        intervened: Float[Tensor, "token intervened_vocabulary"],
        places: Sequence[Place],
        template: Bool[Tensor, " token"],
    ) -> None:
        """Add the logits of some tokens. Rows beyond the tokenizer's vocabulary pad the unembedding and are left out."""
        self.template.append(template)
        self.position.append(torch.tensor([place.position for place in places], dtype=torch.int64))
        for begin in range(0, len(reference), _ROWS):
            rows = slice(begin, begin + _ROWS)
            log_p = [
                side[rows, : self.n_vocabulary].float().log_softmax(dim=1) for side in (reference, intervened)
            ]
            kl = (log_p[1].exp() * (log_p[1] - log_p[0])).sum(dim=1).clamp(min=0).cpu()
            self.kl.append(kl)
            self._keep_largest(kl, log_p, places[rows])
            self._mine(*log_p)

    def result(self, decode: Any) -> dict[str, Any]:
        """For survey.json; `decode` makes text of token ids."""
        kl = torch.cat(self.kl).double().numpy()
        template, position = torch.cat(self.template).numpy(), torch.cat(self.position).numpy()
        return {
            "n_tokens": len(kl),
            "kl": {
                **summarized(kl),
                "template_mean": _mean(kl[template]),
                "other_mean": _mean(kl[~template]),
                "by_position": by_position(kl, position),
            },
            "largest": [
                {
                    "kl": value,
                    "document": place.document,
                    "position": place.position,
                    "reference": [[decode([token]), probability] for token, probability in next_[0]],
                    "intervened": [[decode([token]), probability] for token, probability in next_[1]],
                }
                for value, _, place, next_ in sorted(self._largest, key=lambda entry: -entry[0])
            ],
            "raised": self._listed(self._raised, decode),
            "lowered": self._listed(self._lowered, decode),
        }

    def _keep_largest(
        self,
        kl: Float[Tensor, " row"],
        log_p: list[Float[Tensor, "row vocabulary"]],
        places: Sequence[Place],
    ) -> None:
        for row in kl.topk(min(SHOWN, len(kl))).indices.tolist():
            value = float(kl[row])
            self._n += 1
            if value <= 0 or (len(self._largest) == SHOWN and value <= self._largest[0][0]):
                continue
            likeliest = [side[row].topk(min(_NEXT, self.n_vocabulary)) for side in log_p]
            next_ = [
                list(zip(found.indices.tolist(), found.values.exp().tolist(), strict=True))
                for found in likeliest
            ]
            heapq.heappush(self._largest, (value, -self._n, places[row], next_))
            if len(self._largest) > SHOWN:
                heapq.heappop(self._largest)

    def _mine(
        self, reference: Float[Tensor, "row vocabulary"], intervened: Float[Tensor, "row vocabulary"]
    ) -> None:
        ids = [side.topk(min(_LIKELIEST, side.shape[1]), dim=1).indices for side in (reference, intervened)]
        again = (ids[1][:, :, None] == ids[0][:, None, :]).any(dim=2)
        tokens = torch.cat(ids, dim=1)
        before, after = reference.gather(1, tokens), intervened.gather(1, tokens)
        counts = torch.maximum(before, after) >= np.log(_LEAST)
        counts[:, ids[0].shape[1] :] &= ~again
        ratio = after - before
        for mined, passing in (
            (self._raised, counts & (ratio >= np.log(_FACTOR))),
            (self._lowered, counts & (ratio <= -np.log(_FACTOR))),
        ):
            found = tokens[passing].cpu()
            mined.positions += torch.bincount(found, minlength=self.n_vocabulary)
            mined.log_ratio.index_add_(0, found, ratio[passing].double().cpu())

    def _listed(self, mined: _Mined, decode: Any) -> list[dict[str, Any]]:
        n_tokens = sum(map(len, self.kl))
        positions = mined.positions
        # Of equally frequent ones, those with the larger change.
        order = np.lexsort((-mined.log_ratio.abs().numpy(), -positions.numpy()))[:SHOWN]
        return [
            {
                "token_id": token,
                "token": decode([token]),
                "positions": int(positions[token]),
                "share": int(positions[token]) / n_tokens,
                "mean_log_ratio": float(mined.log_ratio[token] / positions[token]),
            }
            for token in order.tolist()
            if positions[token] > 0
        ]


def summarized(kl: Float64[np.ndarray, " token"]) -> dict[str, float]:
    """Mean, quantiles, and how much of the sum the largest hundredth of the tokens holds."""
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
    """Mean KL of the first positions one by one, then of ranges that double; positions without tokens are left out."""
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
