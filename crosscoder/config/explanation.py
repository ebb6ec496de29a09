"""Settings of automated explanations and their scoring: `crosscoder explain RUN author.kind=local author.model=PATH`.

Nothing is sent to an endpoint unless these settings name one.
"""

from typing import Literal

from pydantic import Field

from .block import Count, Seed, Settings, Window
from .chat_model import EndpointModel, LocalModel


class ExplanationSettings(Settings):
    """Which model explains which latents from which excerpts, and how the explanations are scored."""

    author: LocalModel | EndpointModel | None = Field(
        default=None, description="model that writes the explanations", discriminator="kind"
    )
    judge: LocalModel | EndpointModel | None = Field(
        default=None, description="model that scores the explanations; null: the author", discriminator="kind"
    )
    latents: Literal["claimed", "named", "top"] = Field(
        default="claimed",
        description="claimed: latents whose label claims a change or that a behavior names; named: only those that a behavior names; "
        "top: latents with the largest share of the shift, whatever their label",
    )
    only: tuple[int, ...] = Field(
        default=(), description="explain exactly these latents, e.g. [3, 14]; overrides `latents`"
    )
    limit: Count = Field(
        default=20, description="explain at most this many latents, largest share of the shift first"
    )
    window: Window = Field(default=32, description="tokens per excerpt")
    shown: Window = Field(
        default=10,
        description="activating excerpts shown to the author; half are the strongest",
    )
    shown_silent: int = Field(
        default=5, ge=0, le=4096, description="non-activating excerpts shown to the author"
    )
    scored: int = Field(
        default=10,
        ge=5,
        le=4096,
        description="activating and non-activating excerpts each that an explanation is scored on, from documents the author did not see",
    )
    reply_tokens: Window = Field(default=80, description="largest number of tokens in an explanation")
    max_tokens: Count = Field(
        default=200_000,
        description="limit on the tokens of prompts and replies; a command that needs more is refused before the first request. Cached "
        "replies cost nothing",
    )
    tokens: Count = Field(
        default=200_000, description="approximate limit on the held-out tokens that excerpts are sampled from"
    )
    seed: Seed = Field(default=0, description="seed of the choice of excerpts")
