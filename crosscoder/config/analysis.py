"""`analysis`: how the trained dictionary is analyzed, including the label rule."""

from typing import Annotated

from pydantic import Field

from .block import Count, Draws, Settings, Share, Window


class LabelRule(Settings):
    """The thresholds of the label rule. Norms alone never decide a label."""

    weak_norm: Share = Field(
        default=0.5, description="new, lost: the smaller decoder norm is at most this share of the larger"
    )
    nu_error: Share = Field(
        default=0.2,
        description="new, lost: the upper confidence bound of |nu_error| is at most this (latent scaling, Minder et al. 2025)",
    )
    nu_reconstruction: Share = Field(
        default=0.5,
        description="new, lost: the upper confidence bound of |nu_reconstruction| is at most this (latent scaling)",
    )
    nu_unselected: Share = Field(
        default=0.35,
        description="new, lost: the upper confidence bound of |nu_unselected| is at most this: latent scaling on the tokens that the "
        "model with the latent chooses alone",
    )
    replaced_jaccard: Share = Field(
        default=0.8,
        description="replaced: a latent of one model only fires on the same tokens as a latent of the other model only, with at least this "
        "Jaccard index",
    )
    rotated_cosine: Share = Field(
        default=0.8,
        description="rotated: the decoder cosine and the upper confidence bounds of |nu_reconstruction| toward both models are below this; new, "
        "lost: no other latent writes a direction with at least this cosine into the other model",
    )
    shared_cosine: Share = Field(
        default=0.9, description="shared, rescaled: the decoder cosine is above this"
    )
    shared_ratio: Share = Field(
        default=0.7,
        description="shared: the smaller decoder norm is at least this share of the larger; rescaled: it is below",
    )
    rate_ratio: Annotated[float, Field(ge=1)] = Field(
        default=1.5,
        description="reweighted: the direction occurs at least this many times as often in one model, with the whole interval above it",
    )
    false_discovery_rate: Share = Field(
        default=0.05,
        description="largest q-value of a label that claims a change; above it the latent is undetermined",
    )
    replications: int = Field(
        default=2,
        ge=0,
        description="a label that claims a change needs the latent to be found again, with the same label, by every other training "
        "(controls.seeds), and by at least this many; 0 labels what one training finds",
    )
    replication_cosine: Share = Field(
        default=0.8,
        description="smallest cosine of two directions of different trainings that count as the same",
    )
    span_residual: Share = Field(
        default=0.25,
        description="a label that claims a change needs a direction of its own: the share of it outside the span of the other latents with "
        "such a label, as a multiple of what unrelated directions leave, is at least this; below it, latents tile a subspace",
    )
    min_documents: Count = Field(
        default=5, description="a latent that fires in fewer held-out documents is undetermined"
    )
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.95, description="confidence level of all intervals"
    )


class Conditions(Settings):
    """What a run must meet to be labeled. A run that misses one labels nothing and says what to change."""

    fve: Share = Field(
        default=0.7, description="least variance explained (FVE) of each model, on held-out tokens"
    )
    l0_deviation: Annotated[float, Field(ge=0)] = Field(
        default=0.1,
        description="largest relative deviation of the latents per held-out token (L0) from their target",
    )
    null_fve_gap: Share = Field(
        default=0.15,
        description="largest gap between the variance that the run and a null pair's dictionary explain, each of the better explained model",
    )
    identity_fve_gap: Share = Field(
        default=0.15, description="the same for the control `identity`, which trains briefly"
    )
    identity_changed: Share = Field(
        default=0.01, description="largest share of the latents of `identity` labeled as changed"
    )
    shuffled_shared: Share = Field(
        default=0.1,
        description="largest share of the latents of `shuffled`, where nothing is shared, labeled shared",
    )


class FiringRuleConfig(Settings):
    """A short rule that predicts where a latent fires, fitted on half of the held-out documents and scored on the other half."""

    latents: int = Field(
        default=256,
        ge=0,
        description="number of latents that get a rule: first those whose label claims a change or that a behavior names, then those "
        "with the largest share of the shift; 0 fits no rules",
    )
    items: Window = Field(default=12, description="largest number of tokens in a rule")
    tokens: Count = Field(
        default=200_000, description="approximate limit on the held-out tokens used to fit and score rules"
    )


class AnalysisConfig(Settings):
    """How the trained dictionary is analyzed."""

    rule: LabelRule = Field(default=LabelRule(), description="thresholds of the label rule")
    conditions: Conditions = Field(default=Conditions(), description="what a run must meet to be labeled")
    firing_rule: FiringRuleConfig = Field(
        default=FiringRuleConfig(), description="rules that predict where a latent fires"
    )
    top_examples: Window = Field(default=12, description="top-activating examples kept per latent")
    quantile_examples: int = Field(
        default=8, ge=0, le=4096, description="examples per latent sampled across its activation quantiles"
    )
    context_tokens: Window = Field(
        default=24, description="tokens of context on each side of an example's peak"
    )
    logit_tokens: Window = Field(
        default=12, description="tokens at the top and at the bottom of each logit table"
    )
    bootstrap_samples: Draws = Field(
        default=1000, description="bootstrap resamples of documents per interval"
    )
    bootstrap_blocks: Draws = Field(
        default=64, description="blocks of documents that the bootstrap resamples"
    )
    alarm_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05,
        description="false-alarm rate of the change alarm at a checkpoint that is unchanged from the previous one (needs snapshots)",
    )
