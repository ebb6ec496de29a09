"""A finished run with its models loaded: what the live page is told of it, and what it asks of it."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Shaped

from crosscoder.config import AdapterSource, ContextSource, PairConfig, RunConfig
from crosscoder.errors import CrosscoderError, FormatError, PairError
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import special_ids

from ..behaviors.behavior_files import load_behaviors
from ..latents.token_text import display_vocabulary
from ..latents.trained_run import RunModels, TrainedRun
from ..tables.latent_rows import read_rows
from .requests import (
    MAX_CHARACTERS,
    MAX_DOSE,
    MAX_LATENTS,
    MAX_NEW_TOKENS,
    MAX_TOKENS,
    SteerRequest,
    TextRequest,
)
from .steering import Steering, why_no_steering
from .text_view import Predicted, TextReading, prompt_of, read_prompt

logger = logging.getLogger(__name__)

_COLUMNS = ("latent", "label", "evidence", "explanation", "mean_activation")

_DIGESTS = ("weights", "adapter_weights", "context_digest")
"""What decides a model's activations, in the manifest's record of it."""


class Session:
    """Answers the requests of the live page. For one request at a time."""

    def __init__(self, folder: RunFolder, config: RunConfig, models: RunModels) -> None:
        """Raises FormatError where the table of features does not belong to the dictionary."""
        assert config.pair is not None
        self._models, self._policy, self._pair_settings = models, config.tokens, config.pair
        pair, view = models
        features = read_rows(folder.features, _COLUMNS).to_pandas().sort_values("latent", ignore_index=True)
        if features["latent"].tolist() != list(range(view.n_latents)):
            raise FormatError(
                f"{folder.features}: holds {len(features)} latents, but the dictionary has {view.n_latents}; "
                "run crosscoder analyze again"
            )
        self._told_of = features[["label", "evidence", "explanation"]].to_dict("records")
        means = torch.tensor(features["mean_activation"].tolist(), dtype=torch.float64)
        self._stopped = threading.Event()
        self._steering = Steering(models, config.tokens, means)
        self._vocabularies = [display_vocabulary(pair.tokenizer_of(model)) for model in range(2)]
        self._special = np.asarray(special_ids(pair.tokenizer), dtype=np.int64)
        self._named = {
            found.name: found.causal["named"] for found in load_behaviors(folder) if found.causal is not None
        }

    @classmethod
    def load(cls, folder: RunFolder, config: RunConfig) -> Self:
        """Load models and dictionary, and check that they are those of the run.

        Raises:
            ConfigError, FormatError, PairError: They cannot be loaded, or are others.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        logger.info("live: loading both models and the dictionary")
        models = TrainedRun(folder, config).models
        _check_identity(folder, models.pair.identity())
        found = cls(folder, config, models)
        logger.info("live: %d latents at %s", models.view.n_latents, models.pair.hookpoints[0])
        return found

    def facts(self) -> dict[str, Any]:
        """What the page says before anything is typed, and what it may ask for."""
        pair, view = self._models
        context = pair.context
        return {
            "reference": _name(self._pair_settings, reference=True),
            "intervened": _name(self._pair_settings, reference=False),
            "hookpoint": pair.hookpoints[0],
            "n_latents": view.n_latents,
            "reads": view.reads,
            "chat": pair.chat_template is not None,
            "context": None if context is None else str(pair.tokenizer.decode(context.token_ids.tolist())),
            "aligned": pair.readers is not None,
            "comparable": view.comparable,
            "no_steering": why_no_steering(self._models),
            "behaviors": [{"name": name, "latents": latents} for name, latents in self._named.items()],
            "limits": {
                "characters": MAX_CHARACTERS,
                "tokens": MAX_TOKENS,
                "latents": MAX_LATENTS,
                "new_tokens": MAX_NEW_TOKENS,
                "dose": MAX_DOSE,
            },
        }

    def read(self, request: TextRequest) -> dict[str, Any]:
        """A text with everything that fires on it and what both models expect next, as JSON."""
        reading = read_prompt(self._models, self._policy, prompt_of(request.document(), self._models.pair))
        ids = reading.prompt.token_ids
        fired, divergence = reading.fired, reading.divergence
        reference, intervened = (
            self._told_predictions(predicted, model) for model, predicted in enumerate(reading.predicted)
        )
        return {
            "tokens": [self._text(int(token), 0) for token in ids],
            "ids": ids.tolist(),
            "special": np.isin(ids, self._special).tolist(),
            "template": _template(reading).tolist(),
            "read": reading.read.tolist(),
            "fired": {
                "token": fired.token.tolist(),
                "latent": fired.latent.tolist(),
                "value": _numbers(fired.value),
                "reference": _numbers(fired.reference),
                "intervened": _numbers(fired.intervened),
                "change": None if fired.change is None else _numbers(fired.change),
            },
            "latents": {str(latent): self._told_of[latent] for latent in np.unique(fired.latent).tolist()},
            "predictions": {"reference": reference, "intervened": intervened},
            "kl": None if divergence is None else _numbers(divergence),
        }

    def steer(
        self, request: SteerRequest, before_step: Callable[[], object] = lambda: None
    ) -> dict[str, Any]:
        """Answers of both models, as they are and steered, as JSON; what `before_step` raises before a token of them ends them."""

        def going() -> None:
            self._require_going()
            before_step()

        found = self._steering.answers(prompt_of(request.document(), self._models.pair), request, going)
        answers = {
            name: {"unsteered": found.unsteered[model], "steered": found.steered[model]}
            for model, name in enumerate(("reference", "intervened"))
        }
        return answers | {"fires_on": found.fires_on, "n_read": found.n_read}

    def stop(self) -> None:
        """Give up the answer that is being generated, and every later one: they raise CrosscoderError before their next token."""
        self._stopped.set()

    def _require_going(self) -> None:
        if self._stopped.is_set():
            raise CrosscoderError("given up, because the server stops")

    def _told_predictions(self, predicted: Predicted, model: int) -> list[list[list[Any]]]:
        """For each token of the text the likeliest next tokens, each with its probability; nothing where there is no such place."""
        return [
            [
                [self._text(token, model), share]
                for token, share in zip(ids, shares, strict=True)
                if token >= 0
            ]
            for ids, shares in zip(
                predicted.token_ids.tolist(), map(_numbers, predicted.probability), strict=True
            )
        ]

    def _text(self, token: int, model: int) -> str:
        """What a token looks like. A model can expect ids beyond the vocabulary: its embedding may be longer."""
        vocabulary = self._vocabularies[model]
        return vocabulary[token] if token < len(vocabulary) else f"<id {token}>"


def _template(reading: TextReading) -> Shaped[np.ndarray, " token"]:
    template = reading.prompt.template
    return np.zeros(len(reading.read), dtype=bool) if template is None else template


def _numbers(values: Shaped[np.ndarray, " _"]) -> list[float]:
    """Numbers of single precision, each with as many digits as tell it from its neighbors."""
    return [float(text) for text in values.astype(np.float32).astype(str)]


def _name(settings: PairConfig, *, reference: bool) -> str:
    model = Path(settings.reference.model).name
    if reference:
        return model
    match settings.intervened:
        case AdapterSource(adapter=adapter):
            return f"{model} + {Path(adapter).name}"
        case ContextSource():
            return f"{model} after a context"
        case other:
            return Path(other.model).name


def _check_identity(folder: RunFolder, found: Mapping[str, Any]) -> None:
    """Raises PairError where models, tokenizer or chat template are no longer those that the run was made with."""
    made_with = folder.read_manifest().get("pair")
    if made_with is None:
        raise FormatError(
            f"{folder.manifest}: does not say which models the run was made with; run crosscoder run again"
        )
    for place in _compared(made_with):
        before, now = _at(made_with, place), _at(found, place)
        if before != now:
            raise PairError(
                f"{folder.path}: {'.'.join(place)} was {before!r} when the run was made, now it is {now!r}: what the settings name "
                "has changed since, and the dictionary does not read it; put it back, or make another run"
            )


def _compared(record: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from ((name, part) for part in _DIGESTS if part in value)
        else:
            yield (name,)


def _at(record: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    value: Any = record
    for part in place:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
