"""Settings of explanations that a language model writes and that are scored: `crosscoder explain RUN author.kind=local author.model=PATH`.

Nothing is sent to an endpoint unless these settings name one.
"""

from typing import Literal

from pydantic import Field

from . import Count, Settings
from .chat_model import EndpointModel, LocalModel


class ExplanationSettings(Settings):
    """Who explains which latents, from what, and how the explanations are scored."""

    author: LocalModel | EndpointModel | None = Field(
        default=None, description="who writes the explanations", discriminator="kind"
    )
    judge: LocalModel | EndpointModel | None = Field(
        default=None, description="who is asked when they are scored; none: the author", discriminator="kind"
    )
    latents: Literal["claimed", "named", "top"] = Field(
        default="claimed",
        description="claimed: whose label claims a change or that a behavior names; named: those of behaviors alone; top: the largest "
        "shares of the shift, whatever the label",
    )
    only: tuple[int, ...] = Field(default=(), description="these latents instead, e.g. [3, 14]")
    limit: Count = Field(
        default=20, description="of those, the ones with the largest share of the shift, at most"
    )
    window: Count = Field(default=32, description="tokens of an excerpt")
    shown: Count = Field(
        default=10,
        description="excerpts in which the latent fires that the author sees: half are its strongest",
    )
    shown_silent: int = Field(
        default=5, ge=0, description="excerpts in which it does not fire that the author sees"
    )
    scored: int = Field(
        default=10,
        ge=5,
        description="excerpts of each kind that a score is of, from documents that the author did not see",
    )
    reply_tokens: Count = Field(default=80, description="tokens of an explanation, at most")
    max_tokens: Count = Field(
        default=200_000,
        description="tokens of prompts and replies that the command may use; more are refused before anything is asked. Replies that "
        "are kept from before cost nothing",
    )
    tokens: Count = Field(
        default=200_000, description="held-out tokens that excerpts are taken from, about, at most"
    )
    seed: int = Field(default=0, ge=0, description="of which excerpts are taken")
