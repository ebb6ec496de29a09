"""`analysis`: how the dictionary is read, with the rule behind its labels."""

from typing import Annotated

from pydantic import Field

from .block import Count, Settings, Share


class LabelRule(Settings):
    """The rule behind every label. Norms alone never decide."""

    weak_norm: Share = Field(
        default=0.5, description="new and lost: the weaker decoder norm is at most this share of the stronger"
    )
    nu_error: Share = Field(
        default=0.2, description="new and lost: upper bound on nu of the error (Minder et al. 2025)"
    )
    nu_reconstruction: Share = Field(
        default=0.5, description="new and lost: upper bound on nu of the reconstruction"
    )
    rotated_cosine: Share = Field(
        default=0.8,
        description="rotated: decoder cosine below this, and upper bounds on nu of the reconstruction toward both sides; new and lost: "
        "no other latent writes a direction of at least this cosine into the other model",
    )
    shared_cosine: Share = Field(default=0.9, description="shared and rescaled: decoder cosine above this")
    shared_ratio: Share = Field(
        default=0.7,
        description="shared: weaker decoder norm at least this share of the stronger; rescaled: below it",
    )
    rate_ratio: Annotated[float, Field(ge=1)] = Field(
        default=1.5,
        description="reweighted: one model holds the direction at least this many times as often, interval included",
    )
    false_discovery_rate: Share = Field(
        default=0.05,
        description="whatever claims a change: upper bound on the q-value; above it a latent stays undetermined",
    )
    min_documents: Count = Field(
        default=5, description="a latent seen in fewer held-out documents stays undetermined"
    )
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.95, description="of all intervals")


class FiringRuleConfig(Settings):
    """A short rule for where a latent fires, learnt on half of the held-out documents and scored on the other half."""

    latents: int = Field(
        default=256,
        ge=0,
        description="latents that get one: those whose label claims a change and those that behaviors name, then by their share of "
        "the shift; 0 leaves rules out",
    )
    items: Count = Field(default=12, description="tokens that a rule names, at most")
    tokens: Count = Field(
        default=200_000, description="held-out tokens that rules are learnt and scored on, about, at most"
    )


class AnalysisConfig(Settings):
    """How the dictionary is read."""

    rule: LabelRule = Field(default=LabelRule(), description="the rule behind every label")
    firing_rule: FiringRuleConfig = Field(
        default=FiringRuleConfig(), description="the rule for where a latent fires"
    )
    top_examples: Count = Field(default=12, description="strongest examples kept for each latent")
    quantile_examples: int = Field(
        default=8, ge=0, description="examples spread over the activation quantiles"
    )
    context_tokens: Count = Field(default=24, description="tokens shown on each side of an example's peak")
    logit_tokens: Count = Field(default=12, description="tokens at each end of a logit table")
    bootstrap_samples: Count = Field(default=1000, description="resamples of documents behind every interval")
    bootstrap_blocks: Count = Field(default=64, description="groups of documents that are resampled together")
    alarm_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05,
        description="chance that the alarm rings at a checkpoint that differs from the one before by nothing (needs snapshots)",
    )
