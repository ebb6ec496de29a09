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

    random_largest: Finite | None
    """Largest such share of the random latents; null if none were drawn."""

    n_random: Count
    """Number of sets of random latents."""

    p_value: Finite | None
    """Share of the random sets, with the latents themselves counted as one, that reach the effect; null if none were drawn."""

    passed: bool
    """Whether the interval lies above 0.01 and random latents do not reach the effect."""


class CarryingLatent(ReportPart):
    """A latent that carries some of the shift."""

    latent: Count
    """Index, counted from 0, as in features.parquet."""

    evidence: Evidence
    """Strongest supported claim: observed, associated with the shift on held-out prompts, or a cause of it there."""

    attribution: Finite | None
    """Its share of the shift by integrated gradients, on held-out prompts; null if the metric has no gradient."""

    necessity: CausalCheck
    """Effect of removing only this latent from the intervened model."""

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
    """Whether the shift is above its noise floor and as large as its settings require. If not, it is not attributed."""

    reference: Estimate
    """Metric in the reference, on held-out prompts."""

    intervened: Estimate
    """Metric in the intervened model, on held-out prompts."""

    shift: Estimate
    """Intervened model minus reference."""

    floor: NotNegative
    """Noise floor: the shift that chance reaches."""

    p_value: Finite
    """p-value of the paired permutation test."""

    sentences: tuple[Sentence, ...]
    """The results in words, no stronger than the evidence."""

    explanation: Explanation | None
    """Where the shift comes from; null if no shift is established or it was not attributed."""
