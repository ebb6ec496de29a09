"""On which tokens of which prompts a named latent carries the most of a shift."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from crosscoder.errors import FormatError

from ..behaviors.behavior_files import BehaviorFolder
from ..tables.read_columns import read_columns

PROMPTS = 5
"""Of each latent are kept in the page, those on which it carries the most."""

TOKENS = 48
"""Of each of these prompts are kept, at most."""

_LETTERS = 400
"""Of a prompt or an answer are kept, at most."""

_TEXTS = ("prompt", "reference_answer", "intervened_answer")


def attributed_tokens(
    place: BehaviorFolder, named: Sequence[int], direction: float
) -> dict[int, list[dict[str, Any]]]:
    """For each named latent the prompts on which it carries the most, the strongest first, with their tokens.

    Each prompt has its texts, both models' values, the sum of the latent's values on it, and `tokens`: [position, token, value] in
    order. Value is null where only other named latents fire: these tokens are there to be read along.

    Args:
        direction: Sign of the shift.

    Raises:
        FormatError: A file is missing, damaged, or names a prompt that is not there.
    """
    names = ("prompt", "row", "position", "token", "latent", "value")
    columns = read_columns(place.tokens, names, "attribute")
    prompts = read_columns(
        place.prompts, ("prompt", "reference", "intervened"), "attribute", optional=_TEXTS[1:]
    )
    n_prompts = len(prompts["prompt"])
    if len(columns["prompt"]) and columns["prompt"].max() >= n_prompts:
        raise FormatError(
            f"{place.tokens}: holds prompt {columns['prompt'].max()}, but {place.prompts.name} has {n_prompts}; "
            "run crosscoder attribute again"
        )
    found = {}
    for latent in named:
        own = np.flatnonzero(columns["latent"] == latent)
        pushed = direction * columns["value"][own].astype(np.float64)
        sums = np.bincount(columns["prompt"][own], weights=pushed, minlength=n_prompts)
        strongest = [int(prompt) for prompt in np.argsort(-sums, kind="stable")[:PROMPTS] if sums[prompt] > 0]
        found[latent] = [
            {
                **{name: _cut(prompts[name][prompt]) for name in _TEXTS if name in prompts},
                "values": [float(prompts[model][prompt]) for model in ("reference", "intervened")],
                "sum": float(direction * sums[prompt]),
                **_strongest_row(columns, own[columns["prompt"][own] == prompt], direction),
            }
            for prompt in strongest
        ]
    return found


def _strongest_row(
    columns: dict[str, np.ndarray], own: Int64[np.ndarray, " firing"], direction: float
) -> dict[str, Any]:
    """The tokens of the row on which it carries the most, and how many rows there are: a prompt has one a continuation."""
    rows, place = np.unique(columns["row"][own], return_inverse=True)
    sums = np.bincount(place, weights=direction * columns["value"][own])
    row = rows[int(np.argmax(sums))]
    own = own[columns["row"][own] == row]
    # Rows are counted within a batch, so a row alone names none.
    beside = np.flatnonzero((columns["row"] == row) & (columns["prompt"] == columns["prompt"][own[0]]))
    tokens = dict(zip(columns["position"][beside].tolist(), columns["token"][beside], strict=True))
    values = dict(zip(columns["position"][own].tolist(), columns["value"][own].tolist(), strict=True))
    peak = max(values, key=lambda position: direction * values[position])
    # Its own firings first, the largest before the others; then what is read along, the nearest before the others.
    order = sorted(
        tokens,
        key=lambda position: (-abs(values.get(position, 0.0)), position not in values, abs(position - peak)),
    )
    kept = sorted(order[:TOKENS])
    return {
        "rows": len(rows),
        "left_out": len(tokens) - len(kept),
        "tokens": [[position, str(tokens[position]), _short(values.get(position))] for position in kept],
    }


def _short(value: float | None) -> float | None:
    """Six digits are more than the page shows."""
    return None if value is None else float(f"{value:.6g}")


def _cut(text: Any) -> str:
    words = str(text)
    return words if len(words) <= _LETTERS else words[:_LETTERS] + " …"
