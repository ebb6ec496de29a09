"""Random latents that a claim is compared with: alike in firing frequency and norm, and scaled to the norm of the claim.

Any edit of that size has some effect, so a claim has to exceed what latents like those named do. All latents that fire on the prompts
can be drawn, the named ones too: each of them could have been named.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from .activations import LatentSizes
from .change_decomposition import Part

_NEAREST = 50
"""Number of the most similar latents from which a random one is drawn."""

_TRIES = 20
"""Draws tried for each that is wanted, before the latents count as too few."""

_REPEAT = 0.25
"""A draw that holds at least this share of the claim's contribution is the claim again, in other company."""


def latent_mask(latents: Iterable[int], n_latents: int) -> Bool[Tensor, " latent"]:
    """Return a mask of the given latents."""
    mask = torch.zeros(n_latents, dtype=torch.bool)
    mask[list(latents)] = True
    return mask


@runtime_checkable
class PartNorms(Protocol):
    """Prompts with known norms of parts: `PromptActivations` or `PerModelActivations`."""

    def latent_sizes(self) -> LatentSizes:
        """Return the size of every latent."""
        ...

    def norm(self, part: Part) -> float:
        """Return the Frobenius norm of a part over all prompts."""
        ...


class RandomParts:
    """Latents like given ones, on a set of prompts."""

    def __init__(self, activations: PartNorms, seed: int) -> None:
        self._activations = activations
        sizes = activations.latent_sizes()
        norm, firings = sizes.norm.double().numpy(), sizes.firings.double().numpy()
        self.n_latents = len(norm)
        self._generator = np.random.default_rng([seed, 2])
        self.alive: Int64[np.ndarray, " alive"] = np.flatnonzero((norm > 0) & (firings > 0))
        """The latents that can be drawn: those that fire on the prompts."""
        features = np.stack([np.log(np.maximum(norm, 1e-30)), np.log(np.maximum(firings, 0.5))], axis=1)
        spread = features[self.alive].std(axis=0) if len(self.alive) else np.ones(2)
        self._features = features / np.where(spread > 0, spread, 1.0)

    def alike(self, latents: Sequence[int], n: int) -> list[int]:
        """Return the `n` latents most like any of those given in frequency and norm, which come first; fewer if fewer fire."""
        if not latents:
            return []
        distance = np.min([self._distances(latent) for latent in latents], axis=0)
        distance[np.isin(self.alive, latents)] = -1.0
        return self.alive[np.argsort(distance, kind="stable")[:n]].tolist()

    def scaled_to(self, latents: Sequence[int], norm: float) -> Part | None:
        """Return latents as one part with a given norm; None if they cancel wholly."""
        part = Part(latent_mask(latents, self.n_latents))
        found = self._activations.norm(part)
        return part.scaled(norm / found) if found > 0 else None

    def sets(
        self,
        claim: Sequence[int],
        contribution: Float64[np.ndarray, " latent"],
        norm: float,
        n: int,
    ) -> list[Part]:
        """Return up to `n` different random sets, one latent like each of the claim, scaled to `norm`.

        A draw differs from the claim: those with a quarter of its contribution or more (`_REPEAT`) are left out.
        Fewer than `n` are returned if no more can be told apart.

        Args:
            contribution: Contributions found on other prompts.
        """
        if not claim or len(self.alive) < len(claim):
            return []
        nearest = [
            self.alive[np.argsort(self._distances(latent), kind="stable")[:_NEAREST]] for latent in claim
        ]
        whole, held = sum(contribution[latent] for latent in claim), set(claim)
        seen, parts = {frozenset(claim)}, []
        for _ in range(_TRIES * n):
            drawn = self._one_of_each(nearest)
            if drawn is None or (key := frozenset(drawn)) in seen:
                continue
            seen.add(key)
            if sum(contribution[latent] for latent in key & held) >= _REPEAT * whole > 0:
                continue
            part = self.scaled_to(drawn, norm)
            if part is not None:
                parts.append(part)
            if len(parts) == n:
                break
        return parts

    def _distances(self, latent: int) -> Float64[np.ndarray, " alive"]:
        return np.linalg.norm(self._features[self.alive] - self._features[latent], axis=1)

    def _one_of_each(self, nearest: Sequence[Int64[np.ndarray, " near"]]) -> list[int] | None:
        """Return one latent from each list, none twice; None if a list has no other left."""
        drawn: list[int] = []
        for latents in nearest:
            left = latents[~np.isin(latents, drawn)]
            if not len(left):
                return None
            drawn.append(int(self._generator.choice(left)))
        return drawn
