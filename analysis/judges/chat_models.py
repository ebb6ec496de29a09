"""Chat models: local ones, and ones behind an OpenAI-compatible endpoint."""

import importlib.util
import json
import os
import re
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosscoder.config.chat_model import EndpointModel, LocalModel
from crosscoder.errors import ConfigError, ResourceError
from crosscoder.runtime.device import fastest_dtype
from crosscoder.text.template_calls import reproducible
from crosscoder.text.tokenizer_calls import encode, render

_WORDS = ("Yes", "No")

VERDICT_TOKENS = 8
"""Maximum length of the reply to a yes-or-no question."""

_BYTES_PER_TOKEN = 3
"""For an estimate without the tokenizer; below that of most tokenizers, so the estimate tends to be too high."""


class Question(NamedTuple):
    """A question to a chat model."""

    prompt: str
    wanted: Literal["text", "verdict"] = "verdict"
    """A verdict is yes or no."""
    max_tokens: int = VERDICT_TOKENS
    """Maximum length of the reply."""


class Reply(NamedTuple):
    """A reply, and the number of tokens of the prompt and of the reply."""

    text: str
    prompt_tokens: int
    reply_tokens: int


@runtime_checkable
class ChatModel(Protocol):
    """A model that answers questions."""

    name: str
    identity: str
    """All properties of the model that a reply depends on, as JSON."""

    def reply(self, question: Question) -> Reply:
        """Return the reply to a question. Raises ResourceError if there is none."""
        ...

    def tokens_of(self, text: str) -> int:
        """Return the number of tokens of a text; an estimate for an endpoint."""
        ...


def open_model(settings: LocalModel | EndpointModel, setting: str) -> ChatModel:
    """Load or connect to the model in `settings`; errors name `setting`. Raises ConfigError if it is not available."""
    return _Local(settings, setting) if isinstance(settings, LocalModel) else _Endpoint(settings, setting)


def verdict_of(reply: str) -> bool | None:
    """Whether a reply says yes; None if it says neither yes nor no."""
    found = re.match(r"\W*(yes|no)\b", reply, re.IGNORECASE)
    return None if found is None else found.group(1).lower() == "yes"


class _Local:
    """A local model: gives the likelier first token of yes and no as its verdict, and decodes text greedily."""

    def __init__(self, settings: LocalModel, setting: str) -> None:
        self.name = settings.model
        self.identity = json.dumps({"kind": "local", "model": settings.model})
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(settings.model)
            model: Any = AutoModelForCausalLM.from_pretrained(settings.model, dtype="auto")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{setting}.model: {settings.model!r} cannot be loaded: {error}") from error
        if self._tokenizer.chat_template is None:
            raise ConfigError(f"{setting}.model: {settings.model!r} has no chat template; give a chat model")
        template = self._tokenizer.get_chat_template()
        self._template = reproducible(template, f"{setting}.model: {settings.model!r}")
        # It runs on the CPU, which emulates halved precision very slowly where it has no units for it.
        self._model = (model.float() if fastest_dtype(torch.device("cpu")) == "float32" else model).eval()
        self._words = {
            word: [
                encode(self._tokenizer, form, add_special_tokens=False)["input_ids"][0]
                for form in (word, word.lower())
            ]
            for word in _WORDS
        }

    @torch.no_grad()
    def reply(self, question: Question) -> Reply:
        ids: Int[Tensor, "1 token"] = render(
            self._tokenizer,
            [{"role": "user", "content": question.prompt}],
            chat_template=self._template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )["input_ids"]
        if question.wanted == "verdict":
            logits = self._model(input_ids=ids, use_cache=False).logits[0, -1].float()
            likelier = max(self._words, key=lambda word: float(logits[self._words[word]].logsumexp(0)))
            return Reply(likelier, ids.shape[1], 1)
        written = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=question.max_tokens,
            do_sample=False,
            pad_token_id=self._tokenizer.eos_token_id,
        )[0, ids.shape[1] :]
        text = str(self._tokenizer.decode(written, skip_special_tokens=True)).strip()
        return Reply(text, ids.shape[1], len(written))

    def tokens_of(self, text: str) -> int:
        return len(encode(self._tokenizer, text, add_special_tokens=False)["input_ids"])


class _Endpoint:
    """A model behind an OpenAI-compatible endpoint, at temperature 0."""

    def __init__(self, settings: EndpointModel, setting: str) -> None:
        if importlib.util.find_spec("openai") is None:
            raise ConfigError(f"{setting}: an endpoint needs the package openai; pip install 'openai>=1.50'")
        import openai

        variable = settings.key_variable
        if variable is not None and not os.environ.get(variable):
            raise ConfigError(f"{setting}.key_variable: the environment has no {variable}; set it to the key")
        key = os.environ[variable] if variable is not None else "none"
        self.name = settings.model
        self.identity = json.dumps({"kind": "endpoint", "url": settings.url, "model": settings.model})
        self._settings, self._setting, self._errors = settings, setting, openai.OpenAIError
        self._client = openai.OpenAI(base_url=settings.url, api_key=key)

    def reply(self, question: Question) -> Reply:
        try:
            found = self._client.chat.completions.create(
                model=self._settings.model,
                messages=[{"role": "user", "content": question.prompt}],
                temperature=0,
                max_tokens=question.max_tokens,
            )
        except self._errors as error:
            raise ResourceError(
                f"{self._setting}.url: {self._settings.url} gives no reply ({error}); replies so far are cached, so the same "
                "command resumes"
            ) from error
        text = found.choices[0].message.content or ""
        if found.usage is None:
            return Reply(text, self.tokens_of(question.prompt), self.tokens_of(text))
        return Reply(text, found.usage.prompt_tokens, found.usage.completion_tokens)

    def tokens_of(self, text: str) -> int:
        return -(-len(text.encode()) // _BYTES_PER_TOKEN)
