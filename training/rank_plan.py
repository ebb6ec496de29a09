"""What a step costs each of the ranks that divide the latents of a dictionary: the bytes that it sends, and the time that they take.

The bytes follow from the settings, and a test compares them with those that a training sends. An all-reduce is counted as that of a ring, in
which each of P ranks sends 2 (P - 1) / P of the bytes that are reduced.
"""

from typing import NamedTuple

from crosscoder.config import BatchTopK, JumpReLU, ReLU, RunConfig, TopK
from crosscoder.config.open_settings import chosen, with_value
from crosscoder.dictionary.topk_selection import SAMPLED_TOKENS
from crosscoder.dictionary.views import crosscoder_config

from .memory import n_latents_of_rank

_REAL, _COUNT, _INTEGER = 4, 8, 4
"""Bytes of a number of a reconstruction or penalty, of a count, and of a count for each token."""

_BYTES_OF_SCORE, _DIGITS = 4, 256
"""Radix select: one exchange for each byte of a score, of one count for each value of it."""


class Link(NamedTuple):
    """A connection between ranks, of which the figures are assumed."""

    name: str
    bytes_per_second: float
    """What each rank sends at most."""
    seconds_per_call: float
    """What one exchange takes, however small."""


LINKS = (
    Link("GPUs of one machine (NVLink)", 400e9, 20e-6),
    Link("machines (400 Gbit/s for each GPU)", 45e9, 50e-6),
    Link("processes of one machine (gloo)", 1e9, 200e-6),
)
"""Connections that `doctor` estimates a step for."""


class Traffic(NamedTuple):
    """What each rank sends in one step."""

    sent: dict[str, int]
    """Bytes, by what they are for."""
    calls: int
    """Exchanges, each of which takes some time by itself."""

    def seconds(self, link: Link) -> float:
        """Return how long this takes, if nothing is computed meanwhile."""
        return sum(self.sent.values()) / link.bytes_per_second + self.calls * link.seconds_per_call


def step_traffic(config: RunConfig, d_models: tuple[int, ...], *, dead: bool) -> Traffic:
    """Return what each rank sends in a step. Rank 0 sends the batch in addition.

    Args:
        config: With every setting chosen.
        dead: Whether some latents are dead, no more than AuxK uses on a token.
    """
    shape, n_ranks = crosscoder_config(config.crosscoder, d_models), config.training.latent_shards
    n_rows = chosen(config.training.batch_tokens, "training.batch_tokens")
    n_rows *= 2 if config.crosscoder.reads == "pooled" else 1

    def reduced(n_bytes: int) -> int:
        return 2 * (n_ranks - 1) * n_bytes // n_ranks

    reconstruction = reduced(_REAL * n_rows * shape.width * (1 + len(config.crosscoder.nested)))
    sent = {"reconstruction": reconstruction}
    # Whether a latent is dead, how many fire, the norm of the gradients, whether to stop.
    counts, calls = 4 * reduced(_COUNT), 5
    if config.training.auxiliary.coefficient == 0:
        counts, calls = counts - reduced(_COUNT), calls - 1
    elif dead:
        # How many are dead: for the path, and to see that none has to be selected.
        sent["AuxK"] = reduced(_REAL * n_rows * shape.width)
        counts, calls = counts + 2 * reduced(_COUNT), calls + 3
    match config.crosscoder.sparsity:
        case BatchTopK():
            radix = _BYTES_OF_SCORE * reduced(_COUNT * _DIGITS)
            ties = reduced(_COUNT * n_ranks) + (n_ranks - 1) * _INTEGER
            sent["selection"] = reduced(_COUNT) + radix + ties
            calls += _BYTES_OF_SCORE + 3
        case TopK():
            ties = reduced(_COUNT * n_ranks) + (n_ranks - 1) * _INTEGER * n_rows
            sent["selection"] = reduced(_COUNT) + ties
            # Of a sample of the tokens, for the bound of the search, and of all.
            for n_tokens in (min(SAMPLED_TOKENS, n_rows), n_rows):
                radix = _BYTES_OF_SCORE * reduced(_INTEGER * _DIGITS * n_tokens)
                sent["selection"] += radix + reduced(_COUNT * n_tokens)
            calls += 2 * _BYTES_OF_SCORE + 5
        case ReLU():
            sent["penalty"], calls = reduced(_REAL), calls + 1
        case JumpReLU():
            sent["penalty"], calls = 2 * reduced(_REAL), calls + 2
    return Traffic(sent | {"counts": counts}, calls)


def config_of_rank(config: RunConfig) -> RunConfig:
    """Return the settings of a dictionary of the size of one rank's share, which one process can train."""
    n_ranks = config.training.latent_shards
    n_latents = chosen(config.crosscoder.n_latents, "crosscoder.n_latents")
    config = with_value(config, ("crosscoder", "n_latents"), -(-n_latents // n_ranks))
    if isinstance(sparsity := config.crosscoder.sparsity, BatchTopK | TopK):
        k = chosen(sparsity.k, "crosscoder.sparsity.k")
        config = with_value(config, ("crosscoder", "sparsity", "k"), max(1, round(k / n_ranks)))
    else:
        target = chosen(sparsity.target_l0, "crosscoder.sparsity.target_l0")
        config = with_value(config, ("crosscoder", "sparsity", "target_l0"), target / n_ranks)
    return with_value(config, ("training", "latent_shards"), 1)


def rank_lines(config: RunConfig, d_models: tuple[int, ...], own_seconds: float | None) -> list[str]:
    """Describe the division of the latents.

    Args:
        own_seconds: Measured seconds of a step of the share of one rank, without the others; None if it was not measured.
    """
    shape, n_ranks = crosscoder_config(config.crosscoder, d_models), config.training.latent_shards
    batch = chosen(config.training.batch_tokens, "training.batch_tokens")
    traffic = step_traffic(config, d_models, dead=True)
    lines = [
        f"latents  {n_latents_of_rank(shape, n_ranks):,} of {shape.n_latents:,} on each of {n_ranks} ranks",
        f"sent     by each rank in a step {_size(sum(traffic.sent.values()))}, in {traffic.calls} exchanges: "
        + ", ".join(f"{name} {_size(size)}" for name, size in traffic.sent.items())
        + f"; rank 0 also sends the batch, {_size(batch * sum(d_models) * 2)} in bfloat16",
    ]
    if 2 * shape.n_latents <= batch:
        lines.append(
            f"axis     {shape.n_latents:,} latents are at most half of the batch of {batch:,} tokens: dividing them sends more than the "
            "gradients of all would be; train in one process"
        )
    if own_seconds is None:
        return [*lines, "step     not measured"]
    for link in LINKS:
        seconds = own_seconds + traffic.seconds(link)
        lines.append(
            f"step     about {1000 * seconds:.3g} ms between {link.name}: {1000 * own_seconds:.3g} for the share of a rank as measured on this "
            f"machine, {1000 * traffic.seconds(link):.3g} for the exchanges at an assumed {link.bytes_per_second / 1e9:g} GB/s and "
            f"{1e6 * link.seconds_per_call:g} µs each"
        )
    return lines


def _size(n_bytes: int) -> str:
    """Return a number of bytes in words."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes} bytes"
