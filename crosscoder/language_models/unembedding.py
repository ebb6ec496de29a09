"""Logit lens: directions through the final norm and the unembedding, in float32.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

import copy
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .hooks import forward, hidden
from .placement import input_device, is_plain, loaded, without_hooks

# Rows of the unembedding cast to float32 at a time, to avoid a copy of the whole matrix.
_VOCABULARY_CHUNK = 32768

# Unit vectors put through an unembedding whose rows cannot be read directly, at a time.
_UNIT_VECTORS = 64


class TokenRows(NamedTuple):
    """What the cosine of a direction with a token's row of the unembedding needs, besides the logits."""

    lengths: Float[Tensor, " vocabulary"]
    """‖w_t − w̄‖: lengths of the rows, centered over the vocabulary."""

    offsets: Float[Tensor, " vocabulary"] | None
    """Logits of the zero vector (a bias); None if they are 0."""


def find_final_norm(network: Any, device: torch.device) -> nn.Module | None:
    """Return the norm whose output the unembedding reads; None if there is none.

    It is found with hooks in a forward pass, because architectures name it differently.
    """
    seen: list[tuple[nn.Module, Tensor]] = []
    read: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda module, _, output: seen.append((module, hidden(output))))
        for module in network.modules()
        if "norm" in type(module).__name__.lower()
    ]
    head = network.get_output_embeddings()
    handles.append(head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0])))
    ids = torch.zeros(1, 3, dtype=torch.long, device=device)
    try:
        forward(network, ids, torch.ones_like(ids, dtype=torch.bool))
    finally:
        for handle in handles:
            handle.remove()
    found = bool(seen and read) and torch.equal(seen[-1][1], read[0])
    return seen[-1][0] if found else None


@torch.no_grad()
def direction_logits(
    network: Any, final_norm: nn.Module, directions: Float[Tensor, "latent d_model"]
) -> Float[Tensor, "latent vocabulary"]:
    """Return the logit lens of each direction. A norm with a bias adds the same logits to every row."""
    normed = _normed(final_norm, directions)
    head = network.get_output_embeddings()
    if not _has_rows(head):
        return head(normed.to(network.dtype)).float()
    with loaded(head):
        normed = normed.to(head.weight.device)
        parts = [normed @ rows.float().T for rows in head.weight.split(_VOCABULARY_CHUNK)]
        logits = torch.cat(parts, dim=1)
        bias: Tensor | None = getattr(head, "bias", None)
        return logits if bias is None else logits + bias.float()


@torch.no_grad()
def token_rows(network: Any, d_model: int) -> TokenRows:
    """Return the lengths of the centered rows of the unembedding, and its bias, in float32."""
    head = network.get_output_embeddings()
    if _has_rows(head):
        with loaded(head):
            chunks = head.weight.split(_VOCABULARY_CHUNK)
            mean = sum(rows.sum(dim=0, dtype=torch.float32) for rows in chunks) / len(head.weight)
            lengths = torch.cat([(rows.float() - mean).norm(dim=1) for rows in chunks])
            bias: Tensor | None = getattr(head, "bias", None)
            return TokenRows(lengths, None if bias is None else bias.float())
    unit = torch.eye(d_model, dtype=network.dtype, device=input_device(head))
    offsets = head(torch.zeros_like(unit[:1]))[0].float()
    squares = torch.zeros_like(offsets)
    for vectors in unit.split(_UNIT_VECTORS):
        columns = head(vectors).float() - offsets
        squares += (columns - columns.mean(dim=1, keepdim=True)).square().sum(dim=0)
    return TokenRows(squares.sqrt(), offsets if bool(offsets.any()) else None)


@torch.no_grad()
def token_cosines(
    rows: TokenRows,
    final_norm: nn.Module,
    directions: Float[Tensor, "latent d_model"],
    logits: Float[Tensor, "latent vocabulary"],
    token_ids: Int[Tensor, "latent rank"],
) -> Float[Tensor, "latent rank"]:
    """Return cos(e, w_t − w̄) for some tokens of each direction, where e is the direction after the final norm.

    The mean row w̄ is subtracted, because it adds one constant to all logits, which changes no probability.

    Args:
        logits: `direction_logits` of these directions.
    """
    lengths = _normed(final_norm, directions).norm(dim=1, keepdim=True).to(logits.device)
    plain = logits if rows.offsets is None else logits - rows.offsets
    centered = plain.gather(1, token_ids) - plain.mean(dim=1, keepdim=True)
    return centered / (lengths * rows.lengths[token_ids]).clamp(min=torch.finfo(torch.float32).tiny)


def _normed(norm: nn.Module, directions: Float[Tensor, "latent d_model"]) -> Float[Tensor, "latent d_model"]:
    """Return directions after the norm, in float32."""
    with loaded(norm):
        with without_hooks(norm):
            exact = copy.deepcopy(norm).float()
        like = next(exact.parameters(), directions)
        return exact(directions.float().to(like.device))


def _has_rows(head: nn.Module) -> bool:
    """Whether the unembedding is a plain matrix, whose rows can be read."""
    return type(head) is nn.Linear and is_plain(head.weight)
