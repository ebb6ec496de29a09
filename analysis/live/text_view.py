"""A text read by both models and the dictionary: the latents that fire on each token, and each model's next-token predictions."""

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

from ..behaviors.logit_metrics import kl_divergence
from ..behaviors.patching import INTERVENED, REFERENCE
from ..behaviors.prompts import Batch, Prompt, Row, batches, encode
from ..behaviors.unshared_space.activations import tokens_read
from ..latents.dictionary_view import DictionaryView
from ..latents.trained_run import RunModels
from .requests import MAX_TOKENS

PREDICTED = 3
"""Tokens reported per prediction, most likely first."""

_MODELS = (REFERENCE, INTERVENED)

# Logits are converted to float32 for this many tokens at a time.
_CHUNK = 128


class Firings(NamedTuple):
    """All firings on a text, ordered by token, then by latent."""

    token: Int64[np.ndarray, " firing"]
    """Position in the text."""
    latent: Int64[np.ndarray, " firing"]
    value: Float32[np.ndarray, " firing"]
    """Latent value, as in examples.parquet."""
    reference: Float32[np.ndarray, " firing"]
    """Contribution to the reference: value times decoder norm, in units of the model's activations."""
    intervened: Float32[np.ndarray, " firing"]
    """Contribution to the intervened model."""
    change: Float32[np.ndarray, " firing"] | None
    """‖w d‖ of the contribution to intervened - reference; None for models that share no space."""


class Predictions(NamedTuple):
    """A model's predictions after each token of a text; -1 and NaN at tokens without a counterpart in the model."""

    token_ids: Int64[np.ndarray, "token rank"]
    probability: Float32[np.ndarray, "token rank"]


@dataclass(frozen=True)
class TextView:
    """One text as the live page shows it. Positions count the reference's tokens."""

    prompt: Prompt

    read: Bool[np.ndarray, " token"]
    """Whether the dictionary reads the token: not special, not at the start of the text, and with a counterpart in the other model."""

    firings: Firings

    predictions: tuple[Predictions, Predictions]

    divergence: Float32[np.ndarray, " token"] | None
    """KL(intervened ‖ reference) of the next token after each token, in nats; None if the vocabularies differ."""


def encode_text(text: Text, pair: ModelPair) -> Prompt:
    """Tokenize a text for both models. Raises DataError, FormatError or PairError if it cannot be read or is too long."""
    (prompt,) = encode([text], pair)
    n_tokens = max(len(prompt.read_by(model).token_ids) for model in _MODELS)
    if n_tokens > MAX_TOKENS:
        raise DataError(f"{text.origin}: {n_tokens} tokens; give at most {MAX_TOKENS}")
    return prompt


@torch.no_grad()
def view_prompt(models: RunModels, policy: TokenPolicy, prompt: Prompt) -> TextView:
    """Run both models on a text and encode the activations at the hookpoint, as the run does for its documents.

    Raises:
        DataError: The dictionary reads no token of the text.
    """
    pair, view = models
    given = [_batch(pair, policy, prompt, model) for model in _MODELS]
    read = tokens_read(given, [prompt])
    if not bool(read[0].any()):
        raise DataError(
            "the text: the dictionary reads none of its tokens (it skips the first and special tokens); enter more text"
        )
    sides = _activations(pair, given)
    # Snapshots between the two models read the reference's tokens.
    masks = [read[1] if model == INTERVENED else read[0] for model in range(len(sides))]
    values = [side[mask.to(side.device)].float() for side, mask in zip(sides, masks, strict=True)]
    positions = read[0][0].nonzero()[:, 0].numpy()
    logits = [
        pair.logits(batch.token_ids, batch.attention, None, model)[0]
        for model, batch in zip(_MODELS, given, strict=True)
    ]
    counterpart = _counterparts(prompt)
    mask = np.zeros(len(prompt.token_ids), dtype=bool)
    mask[positions] = True
    return TextView(
        prompt,
        mask,
        _firings(view, torch.cat(values, dim=1), positions),
        (
            _predictions(logits[REFERENCE], np.arange(len(mask))),
            _predictions(logits[INTERVENED], counterpart),
        ),
        _divergence(pair, logits, len(mask)),
    )


def _batch(pair: ModelPair, policy: TokenPolicy, prompt: Prompt, model: int) -> Batch:
    ids = prompt.read_by(model).token_ids
    (batch,) = batches([Row(0, ids, len(ids))], pair.tokenizer_of(model), policy, pair.max_positions)
    return batch


def _activations(pair: ModelPair, given: list[Batch]) -> tuple[Float[Tensor, "row token _"], ...]:
    if pair.readers is None:
        return pair.activations(given[0].token_ids, given[0].attention)
    return tuple(
        pair.activations_of(model, batch.token_ids, batch.attention) for model, batch in enumerate(given)
    )


def _firings(
    view: DictionaryView, values: Float[Tensor, "token width"], positions: Int64[np.ndarray, " token"]
) -> Firings:
    change = None
    if view.comparable:
        observation = view.observe(values)
        codes, weights = observation.codes, observation.weights
        length = view.weighted_shift_directions().norm(dim=1)
        change = (weights.value.abs() * length[weights.latent]).cpu().numpy()
    else:
        codes = view.encode(values)
    written = (codes.sparse_latents, *view.contributions(codes))
    value, reference, intervened = (one.value.float().cpu().numpy() for one in written)
    firings = codes.sparse_latents.cpu()
    return Firings(
        positions[firings.token.numpy()], firings.latent.numpy(), value, reference, intervened, change
    )


def _counterparts(prompt: Prompt) -> Int64[np.ndarray, " token"]:
    """Return, for each token of the reference, its position in the intervened model's tokens; -1 without a counterpart."""
    own = prompt.intervened
    return np.arange(len(prompt.token_ids)) if own is None else own.counterparts.astype(np.int64)


def _predictions(
    logits: Float[Tensor, "own_token vocabulary"], positions: Int64[np.ndarray, " token"]
) -> Predictions:
    """Return a model's predictions at these positions of its own tokens."""
    ids = np.full((len(positions), PREDICTED), -1, dtype=np.int64)
    probability = np.full((len(positions), PREDICTED), np.nan, dtype=np.float32)
    (present,) = np.nonzero(positions >= 0)
    for part in np.split(present, range(_CHUNK, len(present), _CHUNK)):
        top = (
            logits[torch.from_numpy(positions[part]).to(logits.device)].float().softmax(dim=1).topk(PREDICTED)
        )
        ids[part], probability[part] = top.indices.cpu().numpy(), top.values.cpu().numpy()
    return Predictions(ids, probability)


def _divergence(
    pair: ModelPair, logits: list[Float[Tensor, "_ _"]], n_tokens: int
) -> Float32[np.ndarray, " token"] | None:
    reference, intervened = logits
    if pair.readers is not None or reference.shape[1] != intervened.shape[1]:
        return None
    found = kl_divergence(intervened[:n_tokens], reference[:n_tokens])
    # Rounding can make a divergence of zero slightly negative.
    return found.clamp(min=0).cpu().numpy()
