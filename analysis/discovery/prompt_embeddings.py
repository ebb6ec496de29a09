"""How the reference represents prompts: the mean activation in the middle of the network, over the tokens that no template added."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64

from crosscoder.config import TokenPolicy
from crosscoder.language_models.decoder_layers import find_stack
from crosscoder.language_models.pair import ModelPair

from ..behaviors.patching import REFERENCE
from ..behaviors.prompts import Prompt, Row, batches

_BATCH_TOKENS = 2048


def embed(
    pair: ModelPair, prompts: Sequence[Prompt], policy: TokenPolicy
) -> Float64[np.ndarray, "prompt width"]:
    """Return the mean activation of each prompt."""
    path = _middle(pair)
    rows = [Row(index, prompt.token_ids, len(prompt.token_ids)) for index, prompt in enumerate(prompts)]
    found: dict[int, np.ndarray] = {}
    for batch in batches(rows, pair.tokenizer, policy, pair.max_positions, _BATCH_TOKENS):
        values = pair.outputs([path], batch.token_ids, batch.attention, REFERENCE)[0].float().cpu()
        for place, index in enumerate(batch.prompts.tolist()):
            own = _own_tokens(prompts[index], batch.kept[place])
            found[index] = values[place][own].mean(dim=0).double().numpy()
    return np.stack([found[index] for index in range(len(prompts))])


def standardized(
    embedding: Float64[np.ndarray, "prompt width"], like: Float64[np.ndarray, "other width"]
) -> Float64[np.ndarray, "prompt width"]:
    """Return the embeddings in units of the spread of `like`: a few dimensions of a language model are far larger than all others."""
    return (embedding - like.mean(axis=0)) / (like.std(axis=0) + 1e-9)


def _middle(pair: ModelPair) -> str:
    """Return the path of the middle decoder layer of the reference, or its hookpoint if it has no layers."""
    stack = find_stack(pair.models[REFERENCE], pair.hookpoints[REFERENCE])
    if stack is None:
        return pair.hookpoints[REFERENCE]
    return f"{stack.path}.{len(stack.layers) // 2}"


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
