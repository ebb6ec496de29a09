"""Behaviors in a report, as data."""

from typing import Literal

from .fields import Address, Count, Evidence, Finite, NotNegative, Quoted, ReportPart
from .wording import Sentence


class Estimate(ReportPart):
    """A number with its interval over prompts; null if it cannot be estimated."""

    value: Finite | None
    """The number."""

    low: Finite | None
    """Lower bound."""

    high: Finite | None
    """Upper bound."""


class Origin(ReportPart):
    """A part of the shift."""

    name: str
    """The source of this part."""

    share: Estimate
    """Share of the shift; negative for a part that opposes it."""

    meaning: str
    """Description of the source."""


class CausalCheck(ReportPart):
    """Effect of removing or adding some latents, as a share of the shift, compared with random latents of the same norm."""

    share: Estimate
    """Share of the shift that removing them undoes, or adding them produces."""

    made: bool
    """Whether the check was made. A check that cannot be passed, with too few draws or prompts, is not made."""

    why_not: Sentence | None
    """Why the check was not made, and how many draws or prompts it would need; null if it was made."""

    at_norm: Finite | None
    """The share at the norm of the random latents, which is what they are compared with; null if that is their own norm."""

    random_mean: Finite | None
    """Mean share of the random latents; null if none were drawn."""

    random_largest: Finite | None
    """Largest share of the random latents; null if none were drawn."""

    n_random: Count
    """Number of random draws."""

    excess: Estimate | None
    """The share beyond the mean of the random draws, at the same norm; null if the check was not made."""

    p_value: Finite | None
    """Share of the random draws, with the latents themselves counted as one, that reach the effect; null if the check was not made."""

    p_adjusted: Finite | None
    """p-value corrected for all checks of its family, which decides; null if the check was not made."""

    passed: bool | None
    """Whether the interval of the share lies above 0.01, that of the excess above 0, and the corrected p-value is small enough; null if the
    check was not made."""


class CarryingLatent(ReportPart):
    """A latent that carries some of the shift."""

    latent: Count
    """Index, counted from 0, as in features.parquet."""

    evidence: Evidence
    """Strongest supported claim: observed, associated with the shift on held-out prompts, or a cause of it there."""

    attribution: Finite | None
    """Its share of the shift by integrated gradients, on held-out prompts; null if the metric has no gradient."""

    necessity: CausalCheck | None
    """Effect of removing only this latent from the intervened model; null if it changes nothing on these prompts."""

    sufficiency: CausalCheck | None
    """Effect of adding only this latent to the reference's activations; null if undefined, because the models share no space."""

    link: Address
    """The latent on the page."""


class CurvePoint(ReportPart):
    """Effect of removing or adding the first latents of the ranking together."""

    latents: Count
    """Number of latents."""

    necessity: Estimate
    """Share of the shift that removing them from the intervened model undoes."""

    sufficiency: Estimate | None
    """Share of the shift that adding them to the reference's activations produces; null if undefined, because the models share no space."""


class LayerShare(ReportPart):
    """How much of the shift is present in the output of a layer."""

    layer: Count
    """The layer, counted from 0."""

    represented: Estimate
    """Share of the shift that is present there; the layers above add the rest."""

    hookpoint: bool
    """Whether the dictionary reads this layer."""


class Dose(ReportPart):
    """Steering: a constant direction added to every token of one model, and its cost on unrelated text."""

    model: Literal["reference", "intervened"]
    """The steered model: the reference in the direction of the shift, the intervened model against it."""

    direction: str
    """Direction of the named latents, the difference of means, or a random direction of the same norm."""

    dose: Finite
    """Multiple of the direction."""

    share: Estimate
    """Share of the shift that is produced in the reference, or undone in the intervened model."""

    kl: Estimate
    """KL of the next token on unrelated text, in nats."""

    perplexity: NotNegative
    """Perplexity on unrelated text without steering."""

    perplexity_changed: NotNegative
    """Perplexity on unrelated text with steering."""


class Opposing(ReportPart):
    """The latents that push against the shift; all shares are against its direction."""

    latents: tuple[CarryingLatent, ...]
    """The latents, the strongest first."""

    level: Evidence
    """Strongest supported claim about them together."""

    necessity: CausalCheck
    """By how much removing all of them from the intervened model increases the shift."""

    sufficiency: CausalCheck | None
    """By how much adding all of them to the reference's activations counters it; null if undefined, because the models share no space."""


class Stability(ReportPart):
    """Whether the causal claim about the named latents holds in the other trainings of the dictionary, each with latents of its own."""

    trainings: Count | None
    """Number of trainings in which the check was made, this run's included; null if it was not repeated."""

    causal: Count | None
    """Number of them in which the latents named there pass it; null if it was not repeated."""

    why_not: str | None
    """Why it was not repeated; null if it was."""


class Explanation(ReportPart):
    """Where an established shift comes from, and which latents carry it."""

    origins: tuple[Origin, ...]
    """Parts of the shift, on held-out prompts. What is present at the hookpoint is the sum of latents, bias, error and tokens left out.
    For models that share no space, each part is the difference of its effects within the two, and there is no bias."""

    level: Evidence
    """Strongest supported claim about the named latents together."""

    latents: tuple[CarryingLatent, ...]
    """The named latents, the strongest first."""

    necessity: CausalCheck
    """Effect of removing all of them from the intervened model. If the models share no space: of setting them to their mean, as a share of
    the intervened model's behavior beyond its mean activation."""

    sufficiency: CausalCheck | None
    """Effect of adding all of them to the reference's activations; null if undefined, because the models share no space."""

    unit: str
    """Unit of the metric in which the latents were found and `necessity` and `sufficiency` were measured."""

    stability: Stability
    """Whether the claim holds in other trainings."""

    against: Opposing | None
    """What pushes against the shift; null if no latent was found to."""

    answers_necessity: CausalCheck | None
    """`necessity` in generated answers; null if the metric is not of answers."""

    answers_sufficiency: CausalCheck | None
    """`sufficiency` in generated answers; null if the metric is not of answers."""

    curve: tuple[CurvePoint, ...]
    """Effect over the number of latents."""

    layers: tuple[LayerShare, ...]
    """Share of the shift after each layer at which it changes; empty if not measured."""

    doses: tuple[Dose, ...]
    """Effect and cost of steering."""


class BehaviorShift(ReportPart):
    """How a behavior shifted between the two models."""

    name: Quoted
    """Name of the behavior."""

    description: Quoted
    """Description in its settings."""

    unit: str
    """Unit of its metric."""

    established: bool
    """Whether the shift is above its noise floor and as large as its settings require, on enough prompts. If not, it is not attributed."""

    verdict: Literal[
        "established", "no difference", "not enough prompts", "below the noise floor", "smaller than asked"
    ]
    """Why it is not established."""

    reference: Estimate
    """Metric in the reference, on held-out prompts."""

    intervened: Estimate
    """Metric in the intervened model, on held-out prompts."""

    shift: Estimate
    """Intervened model minus reference."""

    floor: NotNegative
    """Noise floor: the shift that chance reaches."""

    p_value: Finite
    """p-value of a mean difference of 0."""

    n_prompts: Count
    """Number of held-out prompts."""

    prompts_needed: Count
    """Number of prompts below which no shift is established, however large."""

    detectable: NotNegative | None
    """Smallest shift, in the unit of the metric, that these prompts would show in four of five cases; null if they show none, or the
    spread is unknown."""

    detectable_when_enough: NotNegative | None
    """The same for `prompts_needed` prompts of the same spread, if there are fewer; null if the spread is unknown."""

    sentences: tuple[Sentence, ...]
    """The results in words, no stronger than the evidence."""

    explanation: Explanation | None
    """Where the shift comes from; null if no shift is established or it was not attributed."""

    unrelated: bool
    """Whether the settings call it unrelated to the intervention, so that it should not shift."""
