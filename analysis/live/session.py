"""A finished run with its models loaded, answering the requests of the live page."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Shaped

from crosscoder.config import AdapterSource, ContextSource, PairConfig, RunConfig
from crosscoder.errors import CrosscoderError, FormatError
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
from .steering import Steering, steering_obstacle
from .text_view import Predictions, TextView, encode_text, view_prompt

logger = logging.getLogger(__name__)

_COLUMNS = ("latent", "label", "evidence", "explanation", "mean_activation")


class Session:
    """Answers the requests of the live page. Not thread-safe: one request at a time."""

    def __init__(self, folder: RunFolder, config: RunConfig, models: RunModels) -> None:
        """Raises FormatError if the feature table does not belong to the dictionary."""
        assert config.pair is not None
        self._models, self._policy, self._pair_settings = models, config.tokens, config.pair
        pair, view = models
        features = read_rows(folder.features, _COLUMNS).to_pandas().sort_values("latent", ignore_index=True)
        if features["latent"].tolist() != list(range(view.n_latents)):
            raise FormatError(
                f"{folder.features}: holds {len(features)} latents, but the dictionary has {view.n_latents}; "
                "run crosscoder analyze again"
            )
        self._latent_records = features[["label", "evidence", "explanation"]].to_dict("records")
        means = torch.tensor(features["mean_activation"].tolist(), dtype=torch.float64)
        self._stopped = threading.Event()
        self._steering = Steering(models, config.tokens, means)
        self._vocabularies = [display_vocabulary(pair.tokenizer_of(model)) for model in range(2)]
        self._special = np.asarray(special_ids(pair.tokenizer), dtype=np.int64)
        self._named_latents = {
            found.name: found.causal["named"] for found in load_behaviors(folder) if found.causal is not None
        }

    @classmethod
    def load(cls, folder: RunFolder, config: RunConfig) -> Self:
        """Load models and dictionary, and check that they are those of the run.

        Raises:
            ConfigError, FormatError, PairError: They cannot be loaded or are not those of the run.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        logger.info("live: loading both models and the dictionary")
        if "pair" not in folder.read_manifest():
            raise FormatError(
                f"{folder.manifest}: does not record the models of the run; run crosscoder run again"
            )
        models = TrainedRun(folder, config).models
        session = cls(folder, config, models)
        logger.info("live: %d latents at %s", models.view.n_latents, models.pair.hookpoints[0])
        return session

    def facts(self) -> dict[str, Any]:
        """Return the facts about the run that the page needs, including the limits on requests."""
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
            "no_steering": steering_obstacle(self._models),
            "behaviors": [
                {"name": name, "latents": latents} for name, latents in self._named_latents.items()
            ],
            "limits": {
                "characters": MAX_CHARACTERS,
                "tokens": MAX_TOKENS,
                "latents": MAX_LATENTS,
                "new_tokens": MAX_NEW_TOKENS,
                "dose": MAX_DOSE,
            },
        }

    def read(self, request: TextRequest) -> dict[str, Any]:
        """Return a text's tokens, the latents that fire on them, and both models' next-token predictions, as JSON."""
        view = view_prompt(self._models, self._policy, encode_text(request.document(), self._models.pair))
        ids = view.prompt.token_ids
        firings, divergence = view.firings, view.divergence
        reference, intervened = (
            self._prediction_records(predictions, model) for model, predictions in enumerate(view.predictions)
        )
        return {
            "tokens": [self._text(int(token), 0) for token in ids],
            "ids": ids.tolist(),
            "special": np.isin(ids, self._special).tolist(),
            "template": _template(view).tolist(),
            "read": view.read.tolist(),
            "fired": {
                "token": firings.token.tolist(),
                "latent": firings.latent.tolist(),
                "value": _numbers(firings.value),
                "reference": _numbers(firings.reference),
                "intervened": _numbers(firings.intervened),
                "change": None if firings.change is None else _numbers(firings.change),
            },
            "latents": {
                str(latent): self._latent_records[latent] for latent in np.unique(firings.latent).tolist()
            },
            "predictions": {"reference": reference, "intervened": intervened},
            "kl": None if divergence is None else _numbers(divergence),
        }

    def steer(
        self, request: SteerRequest, before_step: Callable[[], object] = lambda: None
    ) -> dict[str, Any]:
        """Return answers of both models, unsteered and steered, as JSON; `before_step` is called before every token and cancels by raising."""

        def check_running() -> None:
            self._require_running()
            before_step()

        prompt = encode_text(request.document(), self._models.pair)
        found = self._steering.answers(prompt, request, check_running)
        answers = {
            name: {"unsteered": found.unsteered[model], "steered": found.steered[model]}
            for model, name in enumerate(("reference", "intervened"))
        }
        return answers | {"fires_on": found.fires_on, "n_read": found.n_read}

    def stop(self) -> None:
        """Cancel the current and all later answers: they raise CrosscoderError before their next token."""
        self._stopped.set()

    def _require_running(self) -> None:
        if self._stopped.is_set():
            raise CrosscoderError("cancelled because the server is stopping")

    def _prediction_records(self, predictions: Predictions, model: int) -> list[list[list[Any]]]:
        """Return, for each token of the text, the most likely next tokens with their probabilities; empty if the model has no counterpart of it."""
        return [
            [
                [self._text(token, model), share]
                for token, share in zip(ids, shares, strict=True)
                if token >= 0
            ]
            for ids, shares in zip(
                predictions.token_ids.tolist(), map(_numbers, predictions.probability), strict=True
            )
        ]

    def _text(self, token: int, model: int) -> str:
        """Return the display text of a token. A model can predict ids beyond the vocabulary if its embedding is longer."""
        vocabulary = self._vocabularies[model]
        return vocabulary[token] if token < len(vocabulary) else f"<id {token}>"


def _template(view: TextView) -> Shaped[np.ndarray, " token"]:
    template = view.prompt.template
    return np.zeros(len(view.read), dtype=bool) if template is None else template


def _numbers(values: Shaped[np.ndarray, " _"]) -> list[float]:
    """Return the shortest decimals that identify the values in single precision."""
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
