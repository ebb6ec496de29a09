"""A training whose latents are divided over processes: rank 0 leads it and alone reads tokens; all make the same steps.

`Trainer` is the same on every rank. On rank 0 it is made by the stage that needs the dictionary, and says so to the others; these make theirs
from what they are told (`latent_work`). Their source, `AwaitedTokens`, gives tokens of the right shape, in whose place the trainer puts those
of rank 0.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch
from crosscoder.config import RunConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.latent_ranks import ALONE, GroupRanks, LatentRanks
from crosscoder.errors import ConfigError
from crosscoder.run.folder import RunFolder
from crosscoder.run.settings_record import plain_settings
from crosscoder.runtime.process_group import process_group

from .sources import SourceState, TrainingTokens

TASK = "latents"
"""Name of the task that rank 0 announces."""


def latent_ranks(config: RunConfig) -> LatentRanks:
    """Return the ranks that each dictionary of the run is divided over.

    Raises:
        ConfigError: Another number of processes is at work, or there are fewer latents than processes.
    """
    asked, group, n_latents = config.training.latent_shards, process_group(), config.crosscoder.n_latents
    if asked == 1:
        return ALONE
    if group.size != asked:
        found = "one process is at work" if group.size == 1 else f"torchrun started {group.size}"
        raise ConfigError(
            f"training.latent_shards: {asked} processes share a dictionary, but {found}; start {asked} processes with torchrun, "
            f"e.g. --nproc-per-node {asked}, or set it to {group.size}"
        )
    if n_latents is not None and n_latents < asked:
        raise ConfigError(
            f"training.latent_shards: {asked} processes cannot share {n_latents} latents; set it to {n_latents} at most"
        )
    return GroupRanks(group)


@dataclass(frozen=True)
class TokenFacts:
    """What ranks that do not read tokens know of them."""

    d_models: tuple[int, ...]
    n_held_out: int
    dtype: str
    """Precision, e.g. `bfloat16`."""

    @classmethod
    def of(cls, source: TrainingTokens) -> Self:
        """Return those of a source."""
        reader = source.held_out()
        dtype = reader.gather(torch.zeros(1, dtype=torch.int64)).values.dtype
        return cls(source.d_models, reader.n_tokens, str(dtype).removeprefix("torch."))

    @property
    def empty(self) -> Float[Tensor, "none width"]:
        """No tokens, in the right width and precision."""
        return torch.empty(0, sum(self.d_models), dtype=getattr(torch, self.dtype))


def announce(ranks: LatentRanks, folder: RunFolder, config: RunConfig, source: TrainingTokens) -> None:
    """On rank 0: let the other ranks make a trainer for the same dictionary."""
    if ranks.leads and not ranks.alone:
        told = {
            "output": str(folder.path),
            "settings": plain_settings(config),
            "tokens": asdict(TokenFacts.of(source)),
        }
        ranks.join(TASK, **told)


def told_facts(task: dict[str, Any]) -> TokenFacts:
    """Return the facts in an announced task."""
    return TokenFacts(**task["tokens"] | {"d_models": tuple(task["tokens"]["d_models"])})


def reconstruct(crosscoder: Crosscoder, rows: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
    """Return the raw reconstruction of raw activations, by the latents of all ranks. Those of rank 0 count."""
    crosscoder.ranks.join("reconstruct", shape=list(rows.shape))
    _, reconstructed = crosscoder.reconstruct(crosscoder.ranks.from_rank(0, rows))
    return reconstructed


class AwaitedTokens:
    """Tokens without content, in the place of those that rank 0 reads."""

    def __init__(self, facts: TokenFacts) -> None:
        self.d_models, self._facts = facts.d_models, facts

    def batches(
        self, batch_tokens: int, state: SourceState | None = None
    ) -> Iterator[tuple[Float[Tensor, "token width"], SourceState]]:
        """See `TrainingTokens.batches`. The states are not those of the source; rank 0 alone stores them."""
        while True:
            yield self.sample(batch_tokens), state or SourceState(pass_index=0, block=0, offset=0)

    def sample(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """See `TrainingTokens.sample`."""
        return self._facts.empty.new_empty(n_tokens, sum(self.d_models))

    def held_out(self) -> "_AwaitedReader":
        """See `TrainingTokens.held_out`."""
        return _AwaitedReader(self, self._facts.n_held_out)


class _AwaitedReader:
    """An `ActivationReader` of tokens without content."""

    def __init__(self, tokens: AwaitedTokens, n_tokens: int) -> None:
        self.d_models, self.n_tokens, self._tokens = tokens.d_models, n_tokens, tokens

    @property
    def documents(self) -> Int64[np.ndarray, " token"]:
        return np.zeros(self.n_tokens, dtype=np.int64)

    def gather(self, rows: Int[Tensor, " row"]) -> ActivationBatch:
        return ActivationBatch(self._tokens.sample(len(rows)), rows, rows)

    def batches(self, size: int) -> Iterator[ActivationBatch]:
        yield from map(self.gather, torch.arange(self.n_tokens).split(size))
