"""Effects of latents without a model: those of a part are the sum over its latents, on prompts that are drawn at random."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float64

from analysis.behaviors.activations import LatentSizes
from analysis.behaviors.causal import CHECKS, Kind
from analysis.behaviors.change_decomposition import Part
from analysis.behaviors.prompt_statistics import Estimate, Resamples, Values


class MadeUpShares:
    """Implements `Shares` and `PartNorms`."""

    kinds: tuple[Kind, ...] = CHECKS
    parts: dict[str, Part] = {}  # noqa: RUF012

    def __init__(
        self, effects: Float64[np.ndarray, "kind prompt latent"], norms: Float64[np.ndarray, " latent"]
    ) -> None:
        """`effects`: at the latents' own norm, in a shift that is 1 on every prompt, up to a little."""
        self._effects, self._norms = effects, norms
        self.n_prompts = effects.shape[1]
        self.whole: Values = 1 + 0.01 * np.random.default_rng(0).normal(size=self.n_prompts)
        self.runs = 0
        """Number of parts run so far."""

    def effects(self, kind: Kind, parts: Sequence[Part]) -> Iterator[Values]:
        for part in parts:
            assert part.latents is not None
            self.runs += 1
            yield part.scale * self._effects[CHECKS.index(kind)][:, part.latents.numpy()].sum(axis=1)

    def ratio(self, effect: Values) -> Estimate:
        return Resamples(self.n_prompts, 0.95, 0).ratio(effect, self.whole)

    def reconstruction_effect(self) -> dict[str, Estimate]:
        return {}

    def latent_sizes(self) -> LatentSizes:
        firings = torch.ones(len(self._norms), dtype=torch.int64)
        return LatentSizes(torch.from_numpy(self._norms).float(), firings)

    def norm(self, part: Part) -> float:
        assert part.latents is not None
        return float(part.scale * np.sqrt((self._norms[part.latents.numpy()] ** 2).sum()))


def equal_latents(
    seed: int, n_prompts: int = 24, n_latents: int = 300, mean: float = 0.02, noise: float = 0.02
) -> tuple[MadeUpShares, Float64[np.ndarray, " latent"], Float64[np.ndarray, "prompt latent"]]:
    """Return latents whose effects differ by noise only, with their contributions on the find set and on the claim set."""
    generator = np.random.default_rng(seed)
    found = generator.normal(mean, noise, (n_prompts, n_latents)).mean(axis=0)
    claim = generator.normal(mean, noise, (2, n_prompts, n_latents))
    return MadeUpShares(claim, np.ones(n_latents)), found, claim.mean(axis=0)
