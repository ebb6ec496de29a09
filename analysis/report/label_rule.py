"""The rule behind every label, in words with its limits."""

from .phrases import NOT_MEASURED, Number
from .schema import Statement
from .wording import say

_SENTENCES = (
    (
        "new, lost",
        "the weaker decoder norm is at most {weak_norm:g} of the stronger, and the upper bounds of ν error and ν reconstruction are at "
        "most {nu_error:g} and {nu_reconstruction:g} (latent scaling, Minder et al. 2025), and no other latent writes a direction of a "
        "cosine of {rotated_cosine:g} or more to it into the other model. Norms alone never decide.",
    ),
    (
        "rotated",
        "cosine of the two directions below {rotated_cosine:g}, and upper bounds of ν reconstruction below it toward both sides: latents "
        "that split one feature turn against each other, and together into nothing.",
    ),
    (
        "rescaled, shared",
        "cosine above {shared_cosine:g}; shared where the weaker norm is at least {shared_ratio:g} of the stronger, rescaled where it "
        "is below.",
    ),
    (
        "reweighted",
        "one model holds the direction at least {rate_ratio:g} times as often, interval included. Of a crosscoder: a latent as new or lost "
        "as those above, whose direction another latent writes into the other model (cosine above {shared_cosine:g}) on other tokens.",
    ),
    (
        "q-values",
        "whatever claims a change needs one of at most {false_discovery_rate:g}: chance, and what latents with the same label explain "
        "where they fire in a null, a pair that differs as much and in no feature.",
    ),
    ("undetermined", "seen in fewer than {min_documents:g} held-out documents, or the measures disagree."),
    (
        "intervals",
        "{confidence:percent} intervals, from resampling whole held-out documents. They say how the numbers would vary with other text, "
        "not with another training run.",
    ),
)


def rule_statements(rule: dict[str, Number]) -> tuple[Statement, ...]:
    """A statement for every label that the rule gives, and one for its intervals."""
    if not rule:
        return (Statement(name="rule", text=say(NOT_MEASURED), verdict=NOT_MEASURED),)
    return tuple(Statement(name=name, text=say(template, **rule)) for name, template in _SENTENCES)
