"""`tokens`: which tokens are masked."""

from pydantic import Field

from .block import PositiveFloat, Settings


class TokenPolicy(Settings):
    """Which tokens are masked: read by the models, but left out of training and analysis."""

    mask_special: bool = Field(
        default=True, description="mask BOS, EOS, padding and the tokenizer's other special tokens"
    )
    mask_first: int = Field(
        default=1,
        ge=0,
        description="mask this many positions at the start of each document (attention sinks)",
    )
    mask_repeated: bool = Field(
        default=True,
        description="mask a token whose whole prefix occurred in an earlier document, e.g. a default system prompt: its activations "
        "repeat, and would otherwise leak across the held-out split",
    )
    outlier_multiple: PositiveFloat = Field(
        default=10.0,
        description="mask tokens whose activation norm in any model exceeds this multiple of that model's median norm",
    )
