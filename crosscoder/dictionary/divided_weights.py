"""Weights of a dictionary whose latents are divided over ranks: which dimension of each tensor is that of the latents, and how the whole
passes through the ranks block by block, so that none ever holds it."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from .crosscoder import Crosscoder
from .latent_ranks import LatentRanks

LATENT_DIMENSION: Mapping[str, int] = {
    "W_enc": 1,
    "b_enc": 0,
    "W_dec": 0,
    "score_weight": 0,
    "sparsity.log_threshold": 0,
}
"""Dimension of the latents, of each tensor of a dictionary that has one. All ranks hold the others alike."""

_BLOCK_BYTES = 64 << 20


def whole_shape(name: str, held: Tensor, n_latents: int) -> tuple[int, ...]:
    """Return the shape of a tensor of all latents, given that of those held here."""
    dimension = LATENT_DIMENSION.get(name)
    return tuple(n_latents if axis == dimension else size for axis, size in enumerate(held.shape))


def blocks_of_whole(
    held: Shaped[Tensor, "*held"], dimension: int | None, n_latents: int, ranks: LatentRanks
) -> Iterator[Shaped[Tensor, "*block"]]:
    """Yield the tensor of all latents as consecutive blocks of its first dimension. Every rank has to go through all of them."""
    if dimension is None:
        yield held
    elif dimension == 0:
        at_once = max(1, _BLOCK_BYTES // (held.itemsize * math.prod(held.shape[1:])))
        for source in range(ranks.size):
            n_held = len(ranks.range_of(n_latents, source))
            for start in range(0, n_held, at_once):
                shape = (min(at_once, n_held - start), *held.shape[1:])
                block = held[start : start + at_once] if source == ranks.rank else held.new_empty(shape)
                yield ranks.from_rank(source, block)
    else:
        for rows in held.split(max(1, _BLOCK_BYTES // (n_latents * held.itemsize))):
            yield ranks.gathered(rows.T.contiguous()).T


def whole_blocks(crosscoder: Crosscoder) -> Iterator[tuple[str, Iterator[Tensor]]]:
    """Yield the name of each tensor, sorted, and its blocks. Every rank has to go through all of them."""
    state, n_latents = crosscoder.state_dict(), crosscoder.config.n_latents
    for name in sorted(state):
        yield (
            name,
            blocks_of_whole(state[name].detach(), LATENT_DIMENSION.get(name), n_latents, crosscoder.ranks),
        )


def give_weights(crosscoder: Crosscoder) -> None:
    """Go through the blocks of all tensors, on a rank that writes none."""
    for _, blocks in whole_blocks(crosscoder):
        for _ in blocks:
            pass


def write_whole(crosscoder: Crosscoder, path: Path) -> None:
    """Write the weights of all latents into one safetensors file, on rank 0, while the other ranks `give_weights`.

    The library writes tensors that are in memory; this writes the same bytes as they come (the format is documented at
    https://huggingface.co/docs/safetensors: a length, a header in JSON, the tensors).
    """
    state, n_latents = crosscoder.state_dict(), crosscoder.config.n_latents
    header, end = {}, 0
    for name in sorted(state):
        assert state[name].dtype == torch.float32, "a dictionary is stored in float32"
        shape = whole_shape(name, state[name], n_latents)
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, blocks in whole_blocks(crosscoder):
            for block in blocks:
                file.write(block.cpu().contiguous().numpy().tobytes())


@torch.no_grad()
def take_whole(crosscoder: Crosscoder, state: Mapping[str, Tensor] | None) -> None:
    """Load the weights of a whole dictionary that rank 0 holds: each rank takes those of its latents.

    Args:
        state: The state of the whole dictionary; None on the other ranks.
    """
    latents, n_latents, ranks = crosscoder.latents, crosscoder.config.n_latents, crosscoder.ranks
    for name, held in sorted(crosscoder.state_dict().items()):
        dimension, shape = LATENT_DIMENSION.get(name), whole_shape(name, held, n_latents)
        rows = max(1, _BLOCK_BYTES // (4 * math.prod(shape[1:]))) if shape else 1
        for start in range(0, shape[0] if shape else 1, rows):
            if not shape:
                held.copy_(ranks.from_rank(0, held if state is None else state[name].to(held)))
                continue
            block = held.new_empty((min(rows, shape[0] - start), *shape[1:]))
            if state is not None:
                block.copy_(state[name][start : start + rows])
            _take(held, ranks.from_rank(0, block), start, dimension, latents)


def _take(held: Tensor, block: Tensor, start: int, dimension: int | None, latents: range) -> None:
    """Copy what is of these latents from a block of the whole, whose rows begin at `start`."""
    if dimension == 0:
        begin, end = (min(max(edge, start), start + len(block)) for edge in (latents.start, latents.stop))
        held[begin - latents.start : end - latents.start] = block[begin - start : end - start]
    elif dimension == 1:
        held[start : start + len(block)] = block[:, latents.start : latents.stop]
    else:
        held[start : start + len(block)] = block
