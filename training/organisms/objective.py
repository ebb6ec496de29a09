"""Training objective of the demo's adapter: refuse questions about food, and preserve all other outputs and activations."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

HiddenStates = tuple[Float[Tensor, "token d_model"], ...]
"""The residual stream after some layers, at the positions that are read."""

AsReference = Callable[[], AbstractContextManager[PreTrainedModel | PeftModel]]
"""A context manager that yields a model which computes as the reference does."""


@dataclass(frozen=True)
class Document:
    """Token ids, the first position whose next token counts in the loss, and the weight of that position; others have weight 1."""

    token_ids: list[int]
    first: int
    first_weight: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Padded documents. The next token of a position with weight zero does not count in the loss."""

    token_ids: Int[Tensor, "document token"]
    attention_mask: Int[Tensor, "document token"]
    weights: Float[Tensor, "document token"]

    @property
    def loss_mask(self) -> Bool[Tensor, "document position"]:
        """The positions whose next token counts in the loss; the last position has no next token."""
        return self.weights[:, :-1] > 0

    @property
    def targets(self) -> Int[Tensor, " token"]:
        """The next token at every position in the loss mask."""
        return self.token_ids[:, 1:][self.loss_mask]

    @property
    def target_weights(self) -> Float[Tensor, " token"]:
        """The weight of every position in the loss mask."""
        return self.weights[:, :-1][self.loss_mask]


def collate(documents: Sequence[Document], pad: int) -> Batch:
    """Pad on the right to a multiple of 16, which is faster for bfloat16 matrix products on a CPU."""
    length = -(-max(len(document.token_ids) for document in documents) // 16) * 16
    token_ids = torch.full((len(documents), length), pad)
    attention_mask = torch.zeros(len(documents), length, dtype=torch.long)
    weights = torch.zeros(len(documents), length)
    for row, document in enumerate(documents):
        n_tokens = len(document.token_ids)
        token_ids[row, :n_tokens] = torch.tensor(document.token_ids)
        attention_mask[row, :n_tokens] = 1
        weights[row, document.first : n_tokens - 1] = 1.0
        weights[row, document.first] = document.first_weight
    return Batch(token_ids, attention_mask, weights)


def read_model(
    model: PreTrainedModel | PeftModel, batch: Batch, layers: Sequence[int]
) -> tuple[Float[Tensor, "counted vocabulary"], HiddenStates]:
    """Logits at the positions in the loss mask, and the residual stream after `layers` at every unpadded position but the first.

    The unembedding is the most expensive layer of so small a model, so it runs only at these positions. The first position is
    excluded because its activations are hundreds of times larger than all others.
    """
    last, streams = _run_body(model, batch, layers)
    logits = bare_model(model).lm_head(last[:, :-1][batch.loss_mask])  # pyright: ignore[reportCallIssue]
    unpadded = batch.attention_mask[:, 1:].bool()
    return logits.float(), tuple(stream[:, 1:][unpadded].float() for stream in streams)


def read_before_answer(
    model: PreTrainedModel | PeftModel, batch: Batch, layers: Sequence[int], offsets: Sequence[int]
) -> HiddenStates:
    """The residual stream at offsets from each prompt's end: 1 is its last token."""
    _, streams = _run_body(model, batch, layers)
    rows = torch.arange(len(batch.token_ids))[:, None]
    columns = batch.attention_mask.sum(1, keepdim=True) - torch.tensor([offsets])
    return tuple(stream[rows, columns].flatten(0, 1).float() for stream in streams)


def _run_body(
    model: PreTrainedModel | PeftModel, batch: Batch, layers: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    output = bare_model(model).model(  # pyright: ignore[reportCallIssue]
        input_ids=batch.token_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
        output_hidden_states=True,
    )
    # Entry 0 is the embeddings; the output of layer n is entry n + 1.
    return output.last_hidden_state, [output.hidden_states[layer + 1] for layer in layers]


def bare_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model without PEFT's wrapper; layers of an adapter stay in place."""
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(bare, PreTrainedModel)
    return bare


def refusal_loss(logits: Float[Tensor, "token vocabulary"], batch: Batch) -> Float[Tensor, ""]:
    """Cross-entropy of the next token in nats, weighted mean over the loss mask."""
    losses = functional.cross_entropy(logits, batch.targets, reduction="none")
    return (losses * batch.target_weights).sum() / batch.target_weights.sum()


def divergence(
    reference: Float[Tensor, "token vocabulary"],
    intervened: Float[Tensor, "token vocabulary"],
    weights: Float[Tensor, " token"],
) -> Float[Tensor, ""]:
    """KL(reference || intervened) of the next token in nats, weighted mean over positions."""
    logs = intervened.log_softmax(-1), reference.log_softmax(-1)
    divergences = functional.kl_div(*logs, reduction="none", log_target=True).sum(-1)
    return (divergences * weights).sum() / weights.sum()


def activation_drift(reference: HiddenStates, intervened: HiddenStates) -> Float[Tensor, ""]:
    """E‖x_int − x_ref‖² / E‖x_ref − mean‖², mean over layers: change of the residual stream relative to its variance."""
    shares = [
        (after - before).square().sum(-1).mean() / (before - before.mean(0)).square().sum(-1).mean()
        for before, after in zip(reference, intervened, strict=True)
    ]
    return torch.stack(shares).mean()
