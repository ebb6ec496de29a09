"""Settings of a chat model that is asked something: one on this machine, or one behind an endpoint. Nothing here imports torch."""

from typing import Literal

from pydantic import Field

from . import Settings


class LocalModel(Settings):
    """A chat model on this machine."""

    kind: Literal["local"] = "local"
    model: str = Field(description="folder or hub id of a chat model that transformers can load")


class EndpointModel(Settings):
    """A chat model behind an OpenAI-compatible endpoint. What it is asked leaves the machine."""

    kind: Literal["endpoint"] = "endpoint"
    url: str = Field(description="base of the endpoint, e.g. http://localhost:8000/v1")
    model: str = Field(description="name of the model there")
    key_variable: str | None = Field(
        default=None, description="environment variable that holds the key, where one is needed"
    )
