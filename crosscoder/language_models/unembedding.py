"""Logit lens: directions through the final norm and the unembedding, in float32.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .hooks import forward, hidden

# Rows of the unembedding cast to float32 at a time, to avoid a copy of the whole matrix.
_VOCABULARY_CHUNK = 32768


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
    norm = copy.deepcopy(final_norm).float()
    normed = norm(directions.float())
    head = network.get_output_embeddings()
    if type(head) is not nn.Linear:
        return head(normed.to(next(head.parameters()).dtype)).float()
    parts = [normed @ rows.float().T for rows in head.weight.split(_VOCABULARY_CHUNK)]
    logits = torch.cat(parts, dim=1)
    bias: Tensor | None = getattr(head, "bias", None)
    return logits if bias is None else logits + bias.float()
