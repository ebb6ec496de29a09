"""What the analysis observes of a latent, in two sentences: the part of its explanation that does not depend on behaviors.

They do not interpret. They state where a latent fires, which model it writes into, which tokens its direction promotes, and its label
with the reason. Token text is inserted unescaped; the pages escape it.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# "nearly all" is used for a source with at least this share of the firings.
_NEARLY_ALL = 0.95
_TOKENS_NAMED = 4
# Firings on template tokens are mentioned if their share is at least this.
_MIN_TEMPLATE_SHARE = 0.1

_VERDICTS = {
    "undetermined": "undetermined",
    "shared": "observed as shared, which means the same in both models as far as this dictionary sees",
}


class LatentFacts(NamedTuple):
    """Input of the sentences. Numbers that were not measured are NaN."""

    label: str
    reason: str
    density: float
    n_tokens: int
    n_documents: int
    firings_by_source: Mapping[str, int]
    template_share: float
    peak_tokens: Sequence[str]
    """The peak token of each top example, strongest first; empty without tokens."""
    relative_norm: float
    top_tokens: Mapping[str, Sequence[str]]
    """Top tokens of the logit lens for those of `reference`, `intervened` and `difference` that are measured; empty for a direction that does not
    read as tokens."""
    density_by_model: tuple[float, float] | None = None
    """Firing rates in reference and intervened model, if the dictionary encodes each separately."""


def observation(facts: LatentFacts) -> str:
    """Return the sentences on one latent."""
    if facts.n_tokens == 0:
        return "Fired on no held-out token."
    return f"{_firing_sentence(facts)} {_writing_sentence(facts)}"


def _firing_sentence(facts: LatentFacts) -> str:
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
    if facts.template_share >= _MIN_TEMPLATE_SHARE:
        parts.append(f"{share_text(facts.template_share)} of them on tokens of the chat template")
    if facts.peak_tokens:
        counts = Counter(facts.peak_tokens).most_common(_TOKENS_NAMED)
        named = ", ".join(f"“{token}”" + (f" ×{count}" if count > 1 else "") for token, count in counts)
        parts.append(f"with its {len(facts.peak_tokens)} strongest peaks on {named}")
    return ", ".join(parts) + "."


def _writing_sentence(facts: LatentFacts) -> str:
    parts = []
    if facts.density_by_model is not None:
        reference, intervened = facts.density_by_model
        parts.append(
            f"Fires on {share_text(reference)} of the reference's tokens and {share_text(intervened)} of the intervened model's"
        )
    elif math.isnan(facts.relative_norm):
        parts.append("Represents part of intervened - reference")
    else:
        parts.append(_writes_into(facts.relative_norm))
    direction, tokens = _top_tokens(facts)
    if tokens:
        named = ", ".join(f"“{token}”" for token in tokens[:_TOKENS_NAMED])
        parts.append(f"and the top tokens of {direction} through the logit lens are {named}")
    elif direction:
        parts.append(f"and {direction} does not read as tokens through the logit lens")
    verdict = _VERDICTS.get(facts.label, f"observed as {facts.label}")
    return f"{', '.join(parts)}; {verdict}: {facts.reason}."


def _writes_into(relative_norm: float) -> str:
    if relative_norm >= 2 / 3:
        side = "mostly into the intervened model"
    elif relative_norm <= 1 / 3:
        side = "mostly into the reference"
    else:
        side = "into both models"
    return f"Writes {side} (relative norm {relative_norm:.2f})"


def _top_tokens(facts: LatentFacts) -> tuple[str, Sequence[str]]:
    """Choose the most informative logit table: that of the model the latent writes into, or that of the difference.

    One that reads as tokens comes first; without any, the tokens are empty, and the name is empty if nothing is measured.
    """
    if facts.relative_norm <= 1 / 3:
        order = (("reference", "that direction"), ("difference", "the change"))
    elif facts.relative_norm >= 2 / 3:
        order = (("intervened", "that direction"), ("difference", "the change"))
    elif facts.label in ("replaced", "rotated", "rescaled") or math.isnan(facts.relative_norm):
        order = (("difference", "the difference"), ("intervened", "the direction"))
    else:
        order = (
            ("intervened", "the intervened model's direction"),
            ("difference", "the difference between the two directions"),
            ("reference", "the reference's direction"),
        )
    measured = [(name, facts.top_tokens[model]) for model, name in order if model in facts.top_tokens]
    return next((found for found in measured if found[1]), measured[0] if measured else ("", ()))


def share_text(value: float) -> str:
    """Return a share in percent, with two significant digits below 10 %."""
    percent = 100 * abs(value)
    if percent < 0.01:
        return "0 %" if percent == 0 else "less than 0.01 %"
    return (
        f"{'−' if value < 0 else ''}{percent:.0f} %"
        if percent >= 10
        else f"{'−' if value < 0 else ''}{percent:.2g} %"
    )
