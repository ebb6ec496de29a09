"""What the live page may ask for, and how much of it."""

import json
from collections.abc import Sequence
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from crosscoder.config import Message, Settings
from crosscoder.config.messages import setting_errors
from crosscoder.errors import DataError
from crosscoder.text.text_files import Text

MAX_BYTES = 131_072
"""Of the body of a request."""

MAX_CHARACTERS = 8000
"""Of a text, or of all messages of a chat together."""

MAX_TOKENS = 512
"""Of a text in either model. The logits of all of them are there at once."""

MAX_LATENTS = 100
"""Steered together."""

MAX_NEW_TOKENS = 128
"""Of a generated answer."""

MAX_DOSE = 100

T = TypeVar("T", bound="TextRequest")

How = Literal["part", "constant"]


class TextRequest(Settings):
    """A text or a chat, as in a line of a text source."""

    text: str | None = Field(default=None, description="plain text")
    messages: tuple[Message, ...] | None = Field(default=None, description="the messages of a chat")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either 'text' or 'messages'")
        said = self._said()
        if not "".join(said).strip():
            raise ValueError("the text is empty; type something")
        n_characters = sum(map(len, said))
        if n_characters > MAX_CHARACTERS:
            raise ValueError(
                f"the text has {n_characters} characters; give at most {MAX_CHARACTERS} (longer ones: a run of their own)"
            )
        return self

    def document(self) -> Text:
        """What is to be read."""
        messages = None if self.messages is None else tuple(one.model_dump() for one in self.messages)
        return Text(self.text, messages, "the text" if messages is None else "the chat")

    def _said(self) -> Sequence[str]:
        return (self.text or "",) if self.messages is None else [one.content for one in self.messages]


class SteerRequest(TextRequest):
    """Answers to a text, with latents as a lever."""

    latents: tuple[int, ...] = Field(
        min_length=1, max_length=MAX_LATENTS, description="latents of the dictionary"
    )
    how: How = Field(
        default="part",
        description="part: what the latents change at each token; constant: one direction, the same at every token",
    )
    dose: Annotated[float, Field(ge=-MAX_DOSE, le=MAX_DOSE, allow_inf_nan=False)] = Field(
        default=1.0, description="a multiple of that"
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = Field(
        default=48, description="tokens of an answer, at most"
    )


def parsed(body: bytes, model: type[T]) -> T:
    """The request in a body of JSON. Raises DataError, in one line, for anything else."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise DataError('the request is not JSON; send an object such as {"text": "…"}') from None
    if not isinstance(data, dict):
        raise DataError(f'the request is a {type(data).__name__}; send an object such as {{"text": "…"}}')
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise DataError(str(setting_errors(error, model, data)[0])) from None
