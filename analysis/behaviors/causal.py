"""Whether latents cause the shift that is attributed to them: taken out of the intervened model, and put into the reference.

    necessity    [M_B(h_B) - M_B(h_B - part)] / ΔB     without it the shift is not there
    sufficiency  [M_B(h_A + part) - M_B(h_A)] / ΔB     with it the shift is there, in the intervened model's layers above
    steering     [M_A(h_A + part) - M_A(h_A)] / ΔB     the same in the reference alone

on prompts that nothing was found with. Each is compared with random latents, matched in how often they fire and brought to the same
norm: any edit of that size does something. A check is passed where the interval lies above `MIN_SHARE` and no more than 1 - confidence
of the random draws reach it, the claim itself counted among them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from tqdm.auto import tqdm

from .activations import LatentSizes
from .attribution import PatchingCorners
from .behavior_files import MIN_SHARE
from .change_decomposition import Part
from .measurement import Measurement
from .patching import INTERVENED, REFERENCE, PatchedRun
from .prompt_statistics import Estimate, Resamples, Values, sign_flip_test

Kind = Literal["necessity", "sufficiency", "steering"]
KINDS: tuple[Kind, ...] = ("necessity", "sufficiency", "steering")
CHECKS: tuple[Kind, ...] = ("necessity", "sufficiency")

PARTS = {
    "bias": Part(bias=True),
    "error": Part(error=True),
    "left_out": Part(left_out=True),
}

_NEAREST = 20
"""Latents that fire about as often, of which a random one is drawn."""


@runtime_checkable
class Shares(Protocol):
    """How much of a behavior goes with parts of what a dictionary takes apart."""

    kinds: tuple[Kind, ...]
    """Checks that are defined."""

    parts: dict[str, Part]
    """What is no latent."""

    n_prompts: int

    def share(self, kind: Kind, part: Part) -> Estimate:
        """That of a part, and its interval over prompts."""
        ...

    def reconstruction_effect(self) -> dict[str, Estimate]:
        """That goes with rebuilding each model's activations by the dictionary, where it is defined."""
        ...


class Checker:
    """Shares of a shift that go with parts of the change."""

    kinds = KINDS
    parts = PARTS

    def __init__(
        self, measurement: Measurement, corners: PatchingCorners, confidence: float, seed: int
    ) -> None:
        self._measurement, self._corners = measurement, corners
        self.n_prompts = measurement.n_prompts
        self._resamples = Resamples(measurement.n_prompts, confidence, seed, measurement.bounds)

    def share(self, kind: Kind, part: Part) -> Estimate:
        """How much of the shift goes with a part, and its interval over prompts."""
        return self._resamples.ratio(self._effect(kind, part), self._corners.total)

    def reconstruction_effect(self) -> dict[str, Estimate]:
        """What the dictionary's reconstruction alone does to each model's behavior, as a share of the shift."""
        effects = {
            "reference": self._measurement.values(PatchedRun(REFERENCE, REFERENCE, reconstructed=True))
            - self._corners.reference,
            "intervened": self._measurement.values(PatchedRun(INTERVENED, INTERVENED, reconstructed=True))
            - self._corners.intervened,
        }
        return {side: self._resamples.ratio(effect, self._corners.total) for side, effect in effects.items()}

    def _effect(self, kind: Kind, part: Part) -> Float64[np.ndarray, " prompt"]:
        corners, values = self._corners, self._measurement.values
        match kind:
            case "necessity":
                return corners.intervened - values(PatchedRun(INTERVENED, INTERVENED, part, -1))
            case "sufficiency":
                return values(PatchedRun(INTERVENED, REFERENCE, part)) - corners.intervened_from_reference
            case "steering":
                return values(PatchedRun(REFERENCE, REFERENCE, part)) - corners.reference


@dataclass(frozen=True)
class Compared:
    """A share of the shift beside those of random parts of the same size."""

    estimate: Estimate
    random: tuple[float, ...]

    @property
    def p_value(self) -> float | None:
        """Share of the random ones, and of it itself, that are at least as large; None without any."""
        if not self.random:
            return None
        return (1 + sum(value >= self.estimate.value for value in self.random)) / (1 + len(self.random))

    def passed(self, confidence: float) -> bool:
        """Whether the interval lies above `MIN_SHARE` and chance does not reach it."""
        p_value = self.p_value
        return p_value is not None and self.estimate.low > MIN_SHARE and p_value <= 1 - confidence + 1e-9

    def as_dict(self, confidence: float) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.estimate.as_dict(),
            "p_value": self.p_value,
            "random": list(self.random),
            "random_mean": float(np.mean(self.random)) if self.random else None,
            "random_largest": max(self.random, default=None),
            "passed": self.passed(confidence),
        }


def latent_mask(latents: Iterable[int], n_latents: int) -> Bool[Tensor, " latent"]:
    """A mask of some latents."""
    mask = torch.zeros(n_latents, dtype=torch.bool)
    mask[list(latents)] = True
    return mask


@runtime_checkable
class PartNorms(Protocol):
    """Prompts on which it is known how large parts are: a `PromptActivations`, or an `PerModelActivations`."""

    def latent_sizes(self) -> LatentSizes:
        """Of every latent."""
        ...

    def norm(self, part: Part) -> float:
        """Frobenius norm of a part, over all prompts."""
        ...


class RandomParts:
    """Random latents that fire about as often as named ones, brought to a given norm."""

    def __init__(self, activations: PartNorms, named: Sequence[int], seed: int) -> None:
        self._activations, self._named = activations, list(named)
        self._sizes = activations.latent_sizes()
        self._generator = np.random.default_rng([seed, 2])
        alive = self._sizes.norm > 0
        alive[self._named] = False
        self._others: Int64[np.ndarray, " latent"] = alive.nonzero()[:, 0].numpy()

    def draws(self, patterns: Iterable[Sequence[int]], norm: float) -> list[Part]:
        """A random part like each pattern. None at all where there are too few latents to draw from: then there is no control, and
        nothing is claimed."""
        drawn = [self.like(latents, norm) for latents in patterns]
        return [part for part in drawn if part is not None] if None not in drawn else []

    def like(self, latents: Sequence[int], norm: float) -> Part | None:
        """As many latents, each drawn among those that fire about as often; None where there are too few to draw from."""
        sparse_latents = self._sizes.firings.numpy()
        left = self._others
        if len(left) < len(latents):
            return None
        drawn = []
        for latent in latents:
            nearest = np.argsort(np.abs(sparse_latents[left] - sparse_latents[latent]), kind="stable")[
                :_NEAREST
            ]
            taken = int(left[self._generator.choice(nearest)])
            drawn.append(taken)
            left = left[left != taken]
        part = Part(latent_mask(drawn, len(sparse_latents)))
        own = self._activations.norm(part)
        return part.scaled(norm / own) if own > 0 else None


Null = Mapping[Kind, tuple[float, ...]]
"""What random parts do, for each check."""


def random_shares(shares: Shares, draws: Sequence[Part], label: str) -> Null:
    """Shares that go with random parts."""
    return {
        kind: tuple(shares.share(kind, draw).value for draw in tqdm(draws, desc=label, leave=False))
        for kind in _defined(shares, CHECKS)
    }


def compare(shares: Shares, part: Part, null: Null) -> dict[Kind, Compared]:
    """Necessity and sufficiency of a part, beside random ones."""
    return {kind: Compared(shares.share(kind, part), null[kind]) for kind in _defined(shares, CHECKS)}


def checks_as_dict(found: Mapping[Kind, Compared], confidence: float) -> dict[str, Any]:
    """What `compare` found, for JSON; null for what is undefined."""
    return {kind: found[kind].as_dict(confidence) if kind in found else None for kind in CHECKS}


def _defined(shares: Shares, kinds: Sequence[Kind]) -> list[Kind]:
    return [kind for kind in kinds if kind in shares.kinds]


def _shares_as_dict(shares: Shares, kinds: Sequence[Kind], part: Part) -> dict[str, Any]:
    return {kind: shares.share(kind, part).as_dict() if kind in shares.kinds else None for kind in kinds}


def top_n_parts(
    ranking: Sequence[int], counts: Iterable[int], n_latents: int, leave_out: int = 0
) -> Iterator[tuple[int, Part]]:
    """The first n latents of a ranking together, for each of some counts up to its length, but for one that is told elsewhere."""
    for n in tqdm(
        sorted({min(count, len(ranking)) for count in counts} - {0, leave_out}), desc="curve", leave=False
    ):
        yield n, Part(latent_mask(ranking[:n], n_latents))


def curve(
    shares: Shares, parts: Iterable[tuple[int, Part]], kinds: Sequence[Kind] = KINDS
) -> list[dict[str, Any]]:
    """Shares that go with parts `top_n_parts` a ranking; null for what is undefined."""
    return [{"n": n} | _shares_as_dict(shares, kinds, part) for n, part in parts]


def association(contribution: Values, confidence: float, seed: int) -> float:
    """How likely chance gives so large an attribution the way of the shift, prompt by prompt; 1 for one that goes the other way."""
    return sign_flip_test(contribution, confidence, seed).p_value if contribution.mean() > 0 else 1.0


def remainder(shares: Shares, n_latents: int) -> dict[str, Any]:
    """Shares that go with all latents, and with what is no latent; null for what is undefined."""
    parts = {"latents": Part(torch.ones(n_latents, dtype=torch.bool)), **shares.parts}
    return {name: _shares_as_dict(shares, CHECKS, part) for name, part in parts.items()}
