"""`tokens`: which of the tokens that were read count."""

from pydantic import Field

from .block import PositiveFloat, Settings


class TokenPolicy(Settings):
    """Which tokens are left out of training and analysis, and which are only marked."""

    mask_special: bool = Field(
        default=True, description="leave out BOS, EOS, padding and the tokenizer's special tokens"
    )
    mask_first: int = Field(
        default=1,
        ge=0,
        description="leave out this many positions at the start of a document (attention sinks)",
    )
    mask_repeated: bool = Field(
        default=True,
        description="leave out a token whose whole prefix occurred in an earlier document, e.g. the default system prompt: "
        "its activations are the same ones again, and must not be on both sides of the held-out split",
    )
    outlier_multiple: PositiveFloat = Field(
        default=10.0,
        description="leave out tokens whose norm in either model exceeds this multiple of its median norm",
    )
