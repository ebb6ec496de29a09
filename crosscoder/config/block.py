"""The base class of all blocks of settings, and the value types that several of them share.

Every number that decides how much is allocated, trained or asked has a largest value here or at its field, unless the data bound it.
Sizes of the dictionary and its batches have none: the memory of the machine bounds them (`training.memory.require_memory`).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Dtype = Literal["float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

Weight = Annotated[float, Field(gt=0, le=1e6)]
"""A coefficient, a scale or a bandwidth. Losses are in float32, so a larger one ends in infinity."""

Window = Annotated[int, Field(ge=1, le=4096)]
"""Tokens that are shown or generated, or rows of a table that people read."""

Draws = Annotated[int, Field(ge=1, le=100_000)]
"""Resamples, or random sets to compare with; memory and time grow with them."""

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What every generator of random numbers takes as a seed."""


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
