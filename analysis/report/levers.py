"""Levers: edits of the intervened model that undo a shift, each with its cost and with what random latents or a random direction undo."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .wording import Part, say

COST = 0.1
"""Largest acceptable cost of a lever: nats of KL on unrelated text."""


@dataclass(frozen=True)
class Lever:
    """One edit of the intervened model."""

    name: str
    share: float
    """Share of the shift that it undoes; 0 if it has no estimate."""
    random: float | None
    """Share that random latents undo on average, or a random direction of the same norm; None if there was none to compare with."""
    kl: float
    """Cost on unrelated text, nats."""
    proven: bool
    """Whether it undoes more than its random control: the check of the latents passed, or the interval lies above the random direction's."""

    @property
    def within_cost(self) -> bool:
        """Whether the cost is acceptable."""
        return self.kl <= COST

    def compared(self) -> Part:
        """Return the share beside that of its random control."""
        if self.random is None:
            return " (not compared with a random edit)"
        return say(
            " (a random edit of the same size {random:percent}{unproven})",
            random=self.random,
            unproven="" if self.proven else ", so that this is no more than chance does",
        )


def levers_of(causal: dict[str, Any]) -> Iterator[Lever]:
    """Yield every lever; removal is measured in generated answers if there are any."""
    removal = (causal["answers"] or causal)["together"]["necessity"]
    yield Lever(
        "removing the named latents from the intervened model (both models run)",
        removal["value"] or 0.0,
        removal["random_mean"],
        causal["removal_cost"]["kl"]["value"],
        bool(removal["passed"]),
    )
    rows = [row for row in causal["steering"] if row["model"] == "intervened"]
    random = next((row["share"] for row in rows if row["direction"] == "random"), None)
    for row in rows:
        if row["direction"] != "named latents":
            continue
        share = row["share"]
        yield Lever(
            "steering the intervened model with a constant direction made of the named latents",
            share["value"] or 0.0,
            None if random is None else random["value"],
            row["kl"]["value"],
            _above(share, random),
        )


def _above(share: dict[str, Any], random: dict[str, Any] | None) -> bool:
    """Whether a share's interval lies above 0 and above the interval of a random direction."""
    if random is None or share["low"] is None:
        return False
    # A random direction has one dose; undoing nothing is its floor.
    return share["low"] > max(0.0, random["value"] if random["high"] is None else random["high"])
