"""Requests of the live page and their limits."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from crosscoder.config import Message, Settings
from crosscoder.config.messages import first_error
from crosscoder.errors import DataError
from crosscoder.runtime.json_text import parse_json
from crosscoder.text.text_files import Text

MAX_BYTES = 131_072
"""Largest body of a request."""

MAX_CHARACTERS = 8000
"""Longest text, or all messages of a chat together."""

MAX_TOKENS = 512
"""Longest text in the tokens of either model; the logits of all tokens are in memory at once."""

MAX_LATENTS = 100
"""Most latents steered together."""

MAX_NEW_TOKENS = 128
"""Longest generated answer."""

MAX_DOSE = 100

T = TypeVar("T", bound="TextRequest")

How = Literal["part", "constant"]


class TextRequest(Settings):
    """A text or a chat, in the format of a text source."""

    text: str | None = Field(default=None, description="plain text")
    messages: tuple[Message, ...] | None = Field(default=None, description="the messages of a chat")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either 'text' or 'messages'")
        contents = self._contents()
        if not "".join(contents).strip():
            raise ValueError("the text is empty; enter some text")
        n_characters = sum(map(len, contents))
        if n_characters > MAX_CHARACTERS:
            raise ValueError(
                f"the text has {n_characters} characters; give at most {MAX_CHARACTERS}, or make a run on longer texts"
            )
        return self

    def document(self) -> Text:
        """Return the text to read."""
        messages = None if self.messages is None else tuple(one.model_dump() for one in self.messages)
        return Text(self.text, messages, "the text" if messages is None else "the chat")

    def _contents(self) -> Sequence[str]:
        return (self.text or "",) if self.messages is None else [one.content for one in self.messages]


class SteerRequest(TextRequest):
    """A request for answers to a text, steered by latents."""

    latents: tuple[int, ...] = Field(
        min_length=1, max_length=MAX_LATENTS, description="latents of the dictionary"
    )
    how: How = Field(
        default="part",
        description="part: what the latents change at each token; constant: the same direction at every token",
    )
    dose: Annotated[float, Field(ge=-MAX_DOSE, le=MAX_DOSE, allow_inf_nan=False)] = Field(
        default=1.0, description="multiple of the edit"
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = Field(
        default=48, description="most tokens of an answer"
    )


def parsed(body: bytes, model: type[T]) -> T:
    """Parse the JSON body of a request. Raises DataError, with a one-line message, if it is invalid."""
    try:
        data = parse_json(body)
    except ValueError:
        raise DataError('the request is not JSON; send an object such as {"text": "…"}') from None
    if not isinstance(data, dict):
        raise DataError(f'the request is a {type(data).__name__}; send an object such as {{"text": "…"}}')
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise DataError(str(first_error(error, model, data)[0])) from None
