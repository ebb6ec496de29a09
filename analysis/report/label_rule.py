"""The rule that decides every label, in words and with its limits."""

from .phrases import NOT_MEASURED, Number
from .schema import Statement
from .wording import say

_SENTENCES = (
    (
        "new, lost",
        "the weaker decoder norm is at most {weak_norm:g} of the stronger; the upper bounds of ν error and ν reconstruction are at most "
        "{nu_error:g} and {nu_reconstruction:g} (latent scaling, Minder et al. 2025); and no other latent writes the same or a similar "
        "direction (cosine of {rotated_cosine:g} or more) into the other model. On the tokens that the stronger model alone chooses along this "
        "direction, the other model holds a share of at most {nu_unselected:g} (upper bound): the latent's own firings are chosen by both models. "
        "Norms alone never decide.",
    ),
    (
        "replaced",
        "one direction of the reference gave way to another direction of the intervened model on the same tokens: a latent that would be lost fires "
        "on the same tokens as one that would be new (Jaccard index of at least {replaced_jaccard:g}), or one latent writes a different direction "
        "into each model (cosine below {rotated_cosine:g}), and latent scaling finds each absent from the other model.",
    ),
    (
        "rotated",
        "the cosine of the latent's two decoder directions is below {rotated_cosine:g}, and so are the upper bounds of ν reconstruction toward "
        "both models, each of which holds what it writes. The second condition excludes latents that share one feature: each of them seems to rotate, but their sum does not.",
    ),
    (
        "rescaled, shared",
        "the cosine of the latent's two decoder directions is at least {shared_cosine:g}. It is shared if the weaker norm is at least "
        "{shared_ratio:g} of the stronger, and rescaled if it is less and latent scaling agrees. Shared means the same as far as this dictionary "
        "sees: a change that it does not reconstruct is in no latent.",
    ),
    (
        "reweighted",
        "one model has the direction at least {rate_ratio:g} times as often as the other, interval included. In a crosscoder: a latent that "
        "would be new or lost, but another latent writes its direction (cosine of {shared_cosine:g} or more) into the other model on other "
        "tokens.",
    ),
    (
        "q-values",
        "every label that claims a change needs a q-value of at most {false_discovery_rate:g}. It is the larger of two numbers: a false-discovery "
        "rate of sampling noise, and the fraction of false labels expected under the null pairs tried (two models that differ by as much, but in no "
        "feature). The second is no false-discovery rate: a change of a kind that no null pair has can beat it.",
    ),
    (
        "found again",
        "every label that claims a change needs the latent to be found again by all other trainings (controls.seeds), and by at least "
        "{replications:g}: another seed, on one half of the training documents, gives a latent of the same directions (cosine of at least "
        "{replication_cosine:g}) with the same label. What one training alone finds is undetermined.",
    ),
    (
        "undetermined",
        "the latent fired in fewer than {min_documents:g} held-out documents, or the measures disagree.",
    ),
    (
        "intervals",
        "{confidence:percent} intervals, from resampling whole held-out documents. They show how the numbers would vary with other text, "
        "not with another training run; that is what the other trainings show.",
    ),
)

_LATER_LIMITS = ("nu_unselected", "replaced_jaccard", "replications", "replication_cosine")


def rule_statements(rule: dict[str, Number]) -> tuple[Statement, ...]:
    """Return a statement for every label of the rule, and for its q-values and intervals."""
    if not rule:
        return (Statement(name="rule", text=say(NOT_MEASURED), verdict=NOT_MEASURED),)
    # Rules of earlier releases lack some limits.
    known: dict[str, Number | None] = {**dict.fromkeys(_LATER_LIMITS), **rule}
    return tuple(Statement(name=name, text=say(template, **known)) for name, template in _SENTENCES)
