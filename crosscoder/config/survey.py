"""`survey`: what the models differ in before any dictionary."""

from pydantic import Field

from .block import Settings


class SurveyConfig(Settings):
    """What the models differ in before any dictionary: whole forward passes of both over some held-out documents."""

    documents: int = Field(default=48, ge=0, description="held-out documents that are read; 0 leaves it out")
