"""What analysis observes of a latent, in two plain sentences: the part of its explanation that no behavior changes.

Nothing here interprets: it says where a latent fires, what it writes and where, which tokens that points at, and how sure the
label is. Token text goes in as it is; the pages escape it.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# A source that holds this share of the firings, or more, is named alone.
_NEARLY_ALL = 0.95
_TOKENS_NAMED = 4
# Template tokens are mentioned from this share of the firings on.
_TEMPLATE_WORTH_SAYING = 0.1


class Facts(NamedTuple):
    """What a sentence is made from. Numbers that were not measured are NaN."""

    label: str
    reason: str
    density: float
    n_tokens: int
    n_documents: int
    firings_by_source: Mapping[str, int]
    template_share: float
    peak_tokens: Sequence[str]
    """The token at the peak of each top example, strongest first; empty where tokens are not known."""
    relative_norm: float
    points_at: Mapping[str, Sequence[str]]
    """Top tokens of the logit lens for `reference`, `intervened`, `difference`, as far as they exist."""
    density_by_model: tuple[float, float] | None = None
    """Firing rates in reference and intervened model, where each is encoded alone."""


def observation(facts: Facts) -> str:
    """The sentences of one latent."""
    if facts.n_tokens == 0:
        return "Fired on no held-out token."
    return f"{_where(facts)} {_what(facts)}"


def _where(facts: Facts) -> str:
    documents = f"{facts.n_documents} document{'s' * (facts.n_documents != 1)}"
    parts = [f"Fires on {share_text(facts.density)} of held-out tokens ({facts.n_tokens} in {documents})"]
    total = sum(facts.firings_by_source.values())
    if len(facts.firings_by_source) > 1 and total:
        name, most = max(facts.firings_by_source.items(), key=lambda item: item[1])
        share = most / total
        if share == 1:
            parts.append(f"all of them in {name}")
        elif share >= _NEARLY_ALL:
            parts.append(f"nearly all of them in {name} ({share_text(share)})")
        else:
            parts.append(f"most often in {name} ({share_text(share)} of them)")
    if facts.template_share >= _TEMPLATE_WORTH_SAYING:
        parts.append(f"{share_text(facts.template_share)} of them on tokens of the chat template")
    if facts.peak_tokens:
        counts = Counter(facts.peak_tokens).most_common(_TOKENS_NAMED)
        named = ", ".join(f"“{token}”" + (f" ×{count}" if count > 1 else "") for token, count in counts)
        parts.append(f"at its {len(facts.peak_tokens)} strongest peaks on {named}")
    return ", ".join(parts) + "."


def _what(facts: Facts) -> str:
    parts = []
    if facts.density_by_model is not None:
        reference, intervened = facts.density_by_model
        parts.append(
            f"Fires on {share_text(reference)} of the reference's tokens and {share_text(intervened)} of the intervened model's"
        )
    elif math.isnan(facts.relative_norm):
        parts.append("Describes a part of intervened - reference")
    else:
        parts.append(_into(facts.relative_norm))
    model, tokens = _pointed(facts)
    if tokens:
        named = ", ".join(f"“{token}”" for token in tokens[:_TOKENS_NAMED])
        parts.append(f"and, through the logit lens, {model} points at {named}")
    verdict = "undetermined" if facts.label == "undetermined" else f"observed as {facts.label}"
    return f"{' '.join(parts)}; {verdict}: {facts.reason}."


def _into(relative_norm: float) -> str:
    if relative_norm >= 2 / 3:
        side = "mostly into the intervened model"
    elif relative_norm <= 1 / 3:
        side = "mostly into the reference"
    else:
        side = "into both models"
    return f"Writes {side} (relative norm {relative_norm:.2f})"


def _pointed(facts: Facts) -> tuple[str, Sequence[str]]:
    """The table that says most: of the side it leans to, or of the difference where both models are written to alike."""
    if facts.relative_norm <= 1 / 3:
        order = (("reference", "that direction"), ("difference", "the change"))
    elif facts.relative_norm >= 2 / 3:
        order = (("intervened", "that direction"), ("difference", "the change"))
    elif facts.label in ("rotated", "rescaled") or math.isnan(facts.relative_norm):
        order = (("difference", "the difference"), ("intervened", "the direction"))
    else:
        order = (
            ("intervened", "the intervened model's direction"),
            ("reference", "the reference's direction"),
        )
    for model, name in order:
        if facts.points_at.get(model):
            return name, facts.points_at[model]
    return "", ()


def share_text(value: float) -> str:
    """A share in percent, with two significant digits below 10 %."""
    percent = 100 * abs(value)
    if percent < 0.01:
        return "0 %" if percent == 0 else "less than 0.01 %"
    return (
        f"{'−' if value < 0 else ''}{percent:.0f} %"
        if percent >= 10
        else f"{'−' if value < 0 else ''}{percent:.2g} %"
    )
