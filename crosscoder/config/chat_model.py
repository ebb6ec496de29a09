"""Settings of a chat model: on this machine or behind an endpoint. Nothing here imports torch."""

from typing import Literal

from pydantic import Field

from . import Settings


class LocalModel(Settings):
    """A chat model on this machine."""

    kind: Literal["local"] = "local"
    model: str = Field(description="folder or Hub id of a chat model that transformers can load")


class EndpointModel(Settings):
    """A chat model behind an OpenAI-compatible endpoint. Prompts leave the machine."""

    kind: Literal["endpoint"] = "endpoint"
    url: str = Field(description="base URL of the endpoint, e.g. http://localhost:8000/v1")
    model: str = Field(description="model name at the endpoint")
    key_variable: str | None = Field(
        default=None, description="environment variable that holds the API key; null sends no key"
    )
