"""What a report says of a behavior, as data."""

from typing import Literal

from .fields import Address, Count, Evidence, Finite, NotNegative, Quoted, ReportPart
from .wording import Sentence


class Estimate(ReportPart):
    """A number with its interval over prompts; null: cannot be estimated."""

    value: Finite | None
    """The number."""

    low: Finite | None
    """Lower bound."""

    high: Finite | None
    """Upper bound."""


class Origin(ReportPart):
    """A part of the shift."""

    name: str
    """What it comes from."""

    share: Estimate
    """How much of the shift, as a share of it: shares of parts that oppose it are negative."""

    meaning: str
    """What that is."""


class CausalCheck(ReportPart):
    """What goes with some latents, as a share of the shift, beside random latents of the same size."""

    share: Estimate
    """How much of the shift goes with them."""

    random_largest: Finite | None
    """The largest share that goes with random ones; null: none were drawn."""

    n_random: Count
    """How many sets of random latents there were."""

    p_value: Finite | None
    """Share of the random sets, the claim itself counted among them, that reach it; null: none were drawn."""

    passed: bool
    """Whether the interval lies above 0.01 and chance does not reach it."""


class CarryingLatent(ReportPart):
    """A latent that carries some of the shift."""

    latent: Count
    """Its number, counted from 0, as in features.parquet."""

    evidence: Evidence
    """What may be said of it: observed, associated with the shift on held-out prompts, or a cause of it there."""

    attribution: Finite | None
    """Its share of the shift by integrated gradients, on held-out prompts; null: the metric has no gradient."""

    necessity: CausalCheck
    """Taken out of the intervened model alone."""

    sufficiency: CausalCheck | None
    """Put into the reference's activations alone; null: undefined, the models share no space."""

    link: Address
    """The latent on the page."""


class CurvePoint(ReportPart):
    """What goes with the first latents of the ranking."""

    latents: Count
    """How many are taken together."""

    necessity: Estimate
    """Share of the shift that goes when they are taken out of the intervened model."""

    sufficiency: Estimate | None
    """Share of the shift that comes when they are put into the reference's activations; null: undefined, the models share no space."""


class LayerShare(ReportPart):
    """How much of the shift stands in the output of a layer."""

    layer: Count
    """The layer, counted from 0."""

    represented: Estimate
    """Share of the shift that stands there; the rest is done above it."""

    hookpoint: bool
    """Whether the dictionary reads this layer."""


class Dose(ReportPart):
    """A constant direction added to every token of one model alone, and what that costs on unrelated text."""

    model: Literal["reference", "intervened"]
    """The model: the reference is pushed the way of the shift, the intervened model back."""

    direction: str
    """That of the named latents, the plain difference of means, or a random one of the same norm."""

    dose: Finite
    """Multiple of the direction."""

    share: Estimate
    """How much of the shift comes, or goes."""

    kl: Estimate
    """KL of the next token on unrelated text, in nats."""

    perplexity: NotNegative
    """On unrelated text, before."""

    perplexity_changed: NotNegative
    """On unrelated text, after."""


class Explanation(ReportPart):
    """Where an established shift comes from, and which latents carry it."""

    origins: tuple[Origin, ...]
    """The shift taken apart, on held-out prompts. What stands at the hookpoint is the sum of latents, bias, error and tokens left out;
    between models that share no space each is a difference of what it does within the two, and there is no bias."""

    level: Evidence
    """What may be said of the named latents together."""

    latents: tuple[CarryingLatent, ...]
    """The named latents, the strongest first."""

    necessity: CausalCheck
    """All of them taken out of the intervened model. Where the models share no space, brought to their mean there, as a share of the
    intervened model's own behavior above its mean activation."""

    sufficiency: CausalCheck | None
    """All of them put into the reference's activations; null: undefined, the models share no space."""

    answers_necessity: CausalCheck | None
    """The same in generated answers; null: the metric is not of answers."""

    answers_sufficiency: CausalCheck | None
    """The same in generated answers; null: the metric is not of answers."""

    curve: tuple[CurvePoint, ...]
    """How the shift grows with the number of latents."""

    layers: tuple[LayerShare, ...]
    """Which layer carries how much, where it changes; empty: not measured."""

    doses: tuple[Dose, ...]
    """The named latents as a lever."""


class BehaviorShift(ReportPart):
    """How a behavior shifted between the two models."""

    name: Quoted
    """Its name."""

    description: Quoted
    """What it is, in the words of its settings."""

    unit: str
    """Unit of its metric."""

    established: bool
    """Whether there is a shift above its noise floor, and as large as its settings ask for. If not, nothing is explained."""

    reference: Estimate
    """The metric in the reference, on held-out prompts."""

    intervened: Estimate
    """The metric in the intervened model."""

    shift: Estimate
    """Their difference."""

    floor: NotNegative
    """What chance reaches: the noise floor of the shift."""

    p_value: Finite
    """Of the paired permutation test."""

    sentences: tuple[Sentence, ...]
    """The same in words, no stronger than the evidence."""

    explanation: Explanation | None
    """Where the shift comes from; null: no shift is established, or its parts cannot be told apart."""
