"""Selects the prompts and tokens to which most of a named latent's share of a shift is attributed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from crosscoder.errors import FormatError

from ..behaviors.behavior_files import BehaviorFolder
from ..tables.read_columns import read_columns

PROMPTS = 5
"""Prompts kept per latent: those on which it carries most of the shift."""

TOKENS = 48
"""Most tokens kept per prompt."""

_MAX_CHARACTERS = 400
"""Most characters kept of a prompt or answer."""

_TEXTS = ("prompt", "reference_answer", "intervened_answer")


def attributed_tokens(
    behavior_folder: BehaviorFolder, named: Sequence[int], direction: float
) -> dict[int, list[dict[str, Any]]]:
    """Return the prompts on which each named latent carries most of the shift, strongest first, with their tokens.

    Each prompt has its texts, both models' values, the sum of the latent's values, and `tokens`: [position, token, value] in
    order. The value is null on context tokens, on which only other named latents fire.

    Args:
        direction: Sign of the shift.

    Raises:
        FormatError: A file is missing, damaged, or names an unknown prompt.
    """
    names = ("prompt", "row", "position", "token", "latent", "value")
    columns = read_columns(behavior_folder.tokens, names, "attribute")
    prompts = read_columns(
        behavior_folder.prompts, ("prompt", "reference", "intervened"), "attribute", optional=_TEXTS[1:]
    )
    n_prompts = len(prompts["prompt"])
    if len(columns["prompt"]) and columns["prompt"].max() >= n_prompts:
        raise FormatError(
            f"{behavior_folder.tokens}: holds prompt {columns['prompt'].max()}, but {behavior_folder.prompts.name} has {n_prompts}; "
            "run crosscoder attribute again"
        )
    found = {}
    for latent in named:
        firings = np.flatnonzero(columns["latent"] == latent)
        values = direction * columns["value"][firings].astype(np.float64)
        sums = np.bincount(columns["prompt"][firings], weights=values, minlength=n_prompts)
        strongest = [int(prompt) for prompt in np.argsort(-sums, kind="stable")[:PROMPTS] if sums[prompt] > 0]
        found[latent] = [
            {
                **{name: _truncated(prompts[name][prompt]) for name in _TEXTS if name in prompts},
                "values": [float(prompts[model][prompt]) for model in ("reference", "intervened")],
                "sum": float(direction * sums[prompt]),
                **_strongest_row(columns, firings[columns["prompt"][firings] == prompt], direction),
            }
            for prompt in strongest
        ]
    return found


def _strongest_row(
    columns: dict[str, np.ndarray], firings: Int64[np.ndarray, " firing"], direction: float
) -> dict[str, Any]:
    """Return the tokens of the row with the largest sum, and the number of rows; a prompt has one row per continuation."""
    rows, row_of = np.unique(columns["row"][firings], return_inverse=True)
    sums = np.bincount(row_of, weights=direction * columns["value"][firings])
    row = rows[int(np.argmax(sums))]
    firings = firings[columns["row"][firings] == row]
    # Rows are numbered within a batch, so only prompt and row together identify one.
    in_row = np.flatnonzero((columns["row"] == row) & (columns["prompt"] == columns["prompt"][firings[0]]))
    tokens = dict(zip(columns["position"][in_row].tolist(), columns["token"][in_row], strict=True))
    values = dict(zip(columns["position"][firings].tolist(), columns["value"][firings].tolist(), strict=True))
    peak = max(values, key=lambda position: direction * values[position])
    # The latent's firings first, largest to smallest; then context tokens, nearest to the peak first.
    order = sorted(
        tokens,
        key=lambda position: (-abs(values.get(position, 0.0)), position not in values, abs(position - peak)),
    )
    kept = sorted(order[:TOKENS])
    return {
        "rows": len(rows),
        "left_out": len(tokens) - len(kept),
        "tokens": [[position, str(tokens[position]), _rounded(values.get(position))] for position in kept],
    }


def _rounded(value: float | None) -> float | None:
    """Round to six significant digits, more than the page shows."""
    return None if value is None else float(f"{value:.6g}")


def _truncated(text: Any) -> str:
    full = str(text)
    return full if len(full) <= _MAX_CHARACTERS else full[:_MAX_CHARACTERS] + " …"
