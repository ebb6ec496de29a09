"""The rule that decides every label, in words and with its limits."""

from .phrases import NOT_MEASURED, Number
from .schema import Statement
from .wording import say

_SENTENCES = (
    (
        "new, lost",
        "the weaker decoder norm is at most {weak_norm:g} of the stronger; the upper bounds of ν error and ν reconstruction are at most "
        "{nu_error:g} and {nu_reconstruction:g} (latent scaling, Minder et al. 2025); and no other latent writes the same or a similar "
        "direction (cosine of {rotated_cosine:g} or more) into the other model. Norms alone never decide.",
    ),
    (
        "rotated",
        "the cosine of the latent's two decoder directions is below {rotated_cosine:g}, and so are the upper bounds of ν reconstruction toward "
        "both models. The second condition excludes latents that share one feature: each of them seems to rotate, but their sum does not.",
    ),
    (
        "rescaled, shared",
        "the cosine of the latent's two decoder directions is at least {shared_cosine:g}. It is shared if the weaker norm is at least "
        "{shared_ratio:g} of the stronger, and rescaled if it is less and latent scaling agrees.",
    ),
    (
        "reweighted",
        "one model has the direction at least {rate_ratio:g} times as often as the other, interval included. In a crosscoder: a latent that "
        "would be new or lost, but another latent writes its direction (cosine of {shared_cosine:g} or more) into the other model on other "
        "tokens.",
    ),
    (
        "q-values",
        "every label that claims a change needs a q-value of at most {false_discovery_rate:g}. It accounts for chance, and for latents with the "
        "same label in a null pair (two models that differ by as much, but in no feature) that explain as much where they fire.",
    ),
    (
        "undetermined",
        "the latent fired in fewer than {min_documents:g} held-out documents, or the measures disagree.",
    ),
    (
        "intervals",
        "{confidence:percent} intervals, from resampling whole held-out documents. They show how the numbers would vary with other text, "
        "not with another training run.",
    ),
)


def rule_statements(rule: dict[str, Number]) -> tuple[Statement, ...]:
    """Return a statement for every label of the rule, and for its q-values and intervals."""
    if not rule:
        return (Statement(name="rule", text=say(NOT_MEASURED), verdict=NOT_MEASURED),)
    return tuple(Statement(name=name, text=say(template, **rule)) for name, template in _SENTENCES)
