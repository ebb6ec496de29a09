"""How the two models represent prompts, over the tokens that no template added: the mean activation in the middle of the reference, and
how much further the intervened model's last layer is from the reference's.

The first tells what a prompt is about. The second tells where the intervention acts. A model that changed on one topic differs from
the reference on all questions about it, also on those whose one sampled answer does not show the change.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from crosscoder.config import TokenPolicy
from crosscoder.language_models.decoder_layers import find_stack
from crosscoder.language_models.pair import ModelPair

from ..behaviors.patching import REFERENCE
from ..behaviors.prompts import Prompt, Row, batches

_BATCH_TOKENS = 2048
_LEAST_SHIFT = 1e-4
"""Spread below which a dimension of the shift is rounding, in units of the mean spread of the reference's activations."""


class PromptEmbedding(NamedTuple):
    """Mean activations of some prompts."""

    reference: Float64[np.ndarray, "prompt width"]
    """Of the reference, in its middle layer."""

    shift: Float64[np.ndarray, "prompt shift_width"]
    """The other model minus the reference, in the last layer; of width 0 if tokens or dimensions of the models do not correspond."""

    def rows(self) -> list["PromptEmbedding"]:
        """Return one embedding for each prompt."""
        return [
            PromptEmbedding(self.reference[i : i + 1], self.shift[i : i + 1])
            for i in range(len(self.reference))
        ]


def embed(pair: ModelPair, prompts: Sequence[Prompt], policy: TokenPolicy, other: int) -> PromptEmbedding:
    """Return the embeddings of prompts, by the reference and another model of the pair."""
    middle, last = _layers(pair, REFERENCE)
    _, last_of_other = _layers(pair, other)
    comparable = pair.readers is None and pair.d_models[other] == pair.d_models[REFERENCE]
    # One path where a model has one layer, or none.
    read = list(dict.fromkeys((middle, last))) if comparable else [middle]
    rows = [Row(index, prompt.token_ids, len(prompt.token_ids)) for index, prompt in enumerate(prompts)]
    reference: dict[int, np.ndarray] = {}
    shift: dict[int, np.ndarray] = {}
    for batch in batches(rows, pair.tokenizer, policy, pair.max_positions, _BATCH_TOKENS):
        outputs = pair.outputs(read, batch.token_ids, batch.attention, REFERENCE)
        values = outputs[0].float().cpu()
        if comparable:
            (moved,) = pair.outputs([last_of_other], batch.token_ids, batch.attention, other)
            difference = (moved.float() - outputs[-1].float()).cpu()
        else:
            difference = values[..., :0]
        for place, index in enumerate(batch.prompts.tolist()):
            own = _own_tokens(prompts[index], batch.kept[place])
            reference[index] = values[place][own].mean(dim=0).double().numpy()
            shift[index] = difference[place][own].mean(dim=0).double().numpy()
    return PromptEmbedding(
        *(np.stack([found[index] for index in range(len(prompts))]) for found in (reference, shift))
    )


def joined(embeddings: Sequence[PromptEmbedding]) -> PromptEmbedding:
    """Return the embeddings of all prompts of several."""
    return PromptEmbedding(*(np.concatenate(parts) for parts in zip(*embeddings, strict=True)))


def standardized(embedding: PromptEmbedding, like: PromptEmbedding) -> Float64[np.ndarray, "prompt features"]:
    """Return reference and shift side by side, in units of the spread of `like`: a few dimensions of a language model are far larger than
    all others."""
    spread = like.reference.std(axis=0)
    scales = spread + 1e-9, like.shift.std(axis=0) + _LEAST_SHIFT * spread.mean() + 1e-9
    return np.concatenate(
        [
            (part - center.mean(axis=0)) / scale
            for part, center, scale in zip(embedding, like, scales, strict=True)
        ],
        axis=1,
    )


def _layers(pair: ModelPair, model: int) -> tuple[str, str]:
    """Return the paths of the middle and the last decoder layer of a model, or its hookpoint if it has no layers."""
    stack = find_stack(pair.models[model], pair.hookpoints[model])
    if stack is None:
        return pair.hookpoints[model], pair.hookpoints[model]
    return f"{stack.path}.{len(stack.layers) // 2}", f"{stack.path}.{len(stack.layers) - 1}"


def _own_tokens(prompt: Prompt, kept: torch.Tensor) -> torch.Tensor:
    """Return the tokens of the message or text itself; all tokens if the template added every one that is kept."""
    own = kept.clone()
    if prompt.template is not None:
        own[: len(prompt.template)] &= ~torch.from_numpy(prompt.template)
    if own.any():
        return own
    everything = torch.zeros_like(kept)
    everything[: len(prompt.token_ids)] = True
    return everything
