"""One text as both models and the dictionary read it: what fires on each token, and what each model expects next."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from crosscoder.config import TokenPolicy
from crosscoder.errors import DataError
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.text_files import Text

from ..behaviors.metrics import kl_divergence
from ..behaviors.patching import INTERVENED, REFERENCE
from ..behaviors.prompts import Batch, Prompt, Row, batches, encode
from ..behaviors.unshared_space.activations import tokens_read
from ..latents.dictionary_view import DictionaryView
from ..latents.trained_run import RunModels
from .requests import MAX_TOKENS

PREDICTED = 3
"""Tokens that are told of each prediction, the likeliest first."""

_MODELS = (REFERENCE, INTERVENED)

# Tokens whose predictions are turned to float32 at a time.
_CHUNK = 128


class Fired(NamedTuple):
    """Every latent that fires on a token of a text: one entry each, by token, and by latent within a token."""

    token: Int64[np.ndarray, " firing"]
    """Place in the text."""
    latent: Int64[np.ndarray, " firing"]
    value: Float32[np.ndarray, " firing"]
    """The code; as in examples.parquet."""
    reference: Float32[np.ndarray, " firing"]
    """What it writes into the reference: its value times the norm of its direction there, in units of the activations."""
    intervened: Float32[np.ndarray, " firing"]
    """The same of the intervened model."""
    change: Float32[np.ndarray, " firing"] | None
    """‖w d‖ of what it adds to intervened - reference there; None between models that share no space."""


class Predicted(NamedTuple):
    """What a model expects after each token of a text. -1 and NaN where it has no such place."""

    token_ids: Int64[np.ndarray, "token rank"]
    probability: Float32[np.ndarray, "token rank"]


@dataclass(frozen=True)
class TextReading:
    """What came of one text. Places are those of the reference's tokens."""

    prompt: Prompt

    read: Bool[np.ndarray, " token"]
    """Tokens that the dictionary reads: neither special nor at the start of the text, and with a counterpart in the other model."""

    fired: Fired

    predicted: tuple[Predicted, Predicted]

    divergence: Float32[np.ndarray, " token"] | None
    """KL(intervened ‖ reference) of the next token after each, in nats; None where the vocabularies differ."""


def prompt_of(text: Text, pair: ModelPair) -> Prompt:
    """A text in the tokens of both models. Raises DataError, FormatError or PairError where it cannot be read, or is too long."""
    (prompt,) = encode([text], pair)
    n_tokens = max(len(prompt.read_by(model).token_ids) for model in _MODELS)
    if n_tokens > MAX_TOKENS:
        raise DataError(f"{text.origin}: {n_tokens} tokens; give at most {MAX_TOKENS}")
    return prompt


@torch.no_grad()
def read_prompt(models: RunModels, policy: TokenPolicy, prompt: Prompt) -> TextReading:
    """Run both models on a text and encode what stands at the hookpoint, as the run does with its documents.

    Raises DataError where no token is left that the dictionary reads.
    """
    pair, view = models
    given = [_batch(pair, policy, prompt, model) for model in _MODELS]
    read = tokens_read(given, [prompt])
    if not bool(read[0].any()):
        raise DataError(
            "the text: the dictionary reads none of its tokens (special ones and the first are left out); type more"
        )
    sides = _activations(pair, given)
    # Snapshots between the two, where a run has any, read the reference's tokens.
    masks = [read[1] if model == INTERVENED else read[0] for model in range(len(sides))]
    values = [side[mask.to(side.device)].float() for side, mask in zip(sides, masks, strict=True)]
    place = read[0][0].nonzero()[:, 0].numpy()
    logits = [
        pair.logits(batch.token_ids, batch.attention, None, model)[0]
        for model, batch in zip(_MODELS, given, strict=True)
    ]
    counterpart = _counterparts(prompt)
    mask = np.zeros(len(prompt.token_ids), dtype=bool)
    mask[place] = True
    return TextReading(
        prompt,
        mask,
        _fired(view, torch.cat(values, dim=1), place),
        (_predicted(logits[REFERENCE], np.arange(len(mask))), _predicted(logits[INTERVENED], counterpart)),
        _divergence(pair, logits, len(mask)),
    )


def _batch(pair: ModelPair, policy: TokenPolicy, prompt: Prompt, model: int) -> Batch:
    ids = prompt.read_by(model).token_ids
    (batch,) = batches([Row(0, ids, len(ids))], pair.tokenizer_of(model), policy)
    return batch


def _activations(pair: ModelPair, given: list[Batch]) -> tuple[Float[Tensor, "row token _"], ...]:
    if pair.readers is None:
        return pair.activations(given[0].token_ids, given[0].attention)
    return tuple(
        pair.activations_of(model, batch.token_ids, batch.attention) for model, batch in enumerate(given)
    )


def _fired(
    view: DictionaryView, values: Float[Tensor, "token width"], place: Int64[np.ndarray, " token"]
) -> Fired:
    change = None
    if view.comparable:
        observation = view.observe(values)
        codes, weights = observation.codes, observation.weights
        length = view.carried_directions().norm(dim=1)
        change = (weights.value.abs() * length[weights.latent]).cpu().numpy()
    else:
        codes = view.encode(values)
    written = (codes.sparse_latents, *view.contributions(codes))
    value, reference, intervened = (one.value.float().cpu().numpy() for one in written)
    firings = codes.sparse_latents.cpu()
    return Fired(place[firings.token.numpy()], firings.latent.numpy(), value, reference, intervened, change)


def _counterparts(prompt: Prompt) -> Int64[np.ndarray, " token"]:
    """For each token of the reference, its place in the intervened model; -1 where there is none."""
    own = prompt.intervened
    return np.arange(len(prompt.token_ids)) if own is None else own.places.astype(np.int64)


def _predicted(
    logits: Float[Tensor, "own_token vocabulary"], places: Int64[np.ndarray, " token"]
) -> Predicted:
    """Of a model, at these places of its tokens."""
    ids = np.full((len(places), PREDICTED), -1, dtype=np.int64)
    probability = np.full((len(places), PREDICTED), np.nan, dtype=np.float32)
    (there,) = np.nonzero(places >= 0)
    for part in np.split(there, range(_CHUNK, len(there), _CHUNK)):
        top = logits[torch.from_numpy(places[part]).to(logits.device)].float().softmax(dim=1).topk(PREDICTED)
        ids[part], probability[part] = top.indices.cpu().numpy(), top.values.cpu().numpy()
    return Predicted(ids, probability)


def _divergence(
    pair: ModelPair, logits: list[Float[Tensor, "_ _"]], n_tokens: int
) -> Float32[np.ndarray, " token"] | None:
    reference, intervened = logits
    if pair.readers is not None or reference.shape[1] != intervened.shape[1]:
        return None
    found = kl_divergence(intervened[:n_tokens], reference[:n_tokens])
    # Rounding can leave a distance of nothing a little below zero.
    return found.clamp(min=0).cpu().numpy()
