"""Causal checks of the latents that a shift is attributed to: removal from the intervened model and insertion into the reference.

    necessity    [M_B(h_B) - M_B(h_B - part)] / ΔB     removing the part removes the shift
    sufficiency  [M_B(h_A + part) - M_B(h_A)] / ΔB     inserting the part produces the shift in the intervened model's upper layers
    steering     [M_A(h_A + part) - M_A(h_A)] / ΔB     the same in the reference's upper layers

on the claim set of prompts. Each is compared with random latents of similar firing frequency, scaled to the same norm, because any edit
of that size has some effect. A check is passed if its interval lies above `MIN_SHARE` and its p-value is at most 1 - confidence: the
share of the random draws, plus the claim itself, that reach it.
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
"""Number of latents with the closest firing frequency from which a random one is drawn."""


@runtime_checkable
class Shares(Protocol):
    """Effects of parts of the activations on a behavior, as shares."""

    kinds: tuple[Kind, ...]
    """The checks that are defined."""

    parts: dict[str, Part]
    """Parts other than latents."""

    n_prompts: int

    def share(self, kind: Kind, part: Part) -> Estimate:
        """Return the share of a part, with its interval over prompts."""
        ...

    def reconstruction_effect(self) -> dict[str, Estimate]:
        """Return the effect of replacing each model's activations by their reconstruction, where defined."""
        ...


class Checker:
    """Effects of parts of the change, as shares of the shift."""

    kinds = KINDS
    parts = PARTS

    def __init__(
        self, measurement: Measurement, corners: PatchingCorners, confidence: float, seed: int
    ) -> None:
        self._measurement, self._corners = measurement, corners
        self.n_prompts = measurement.n_prompts
        self._resamples = Resamples(measurement.n_prompts, confidence, seed, measurement.bounds)

    def share(self, kind: Kind, part: Part) -> Estimate:
        """Return the share of the shift that a part causes, with its interval over prompts."""
        return self._resamples.ratio(self._effect(kind, part), self._corners.total)

    def reconstruction_effect(self) -> dict[str, Estimate]:
        """Return the effect of the reconstruction on each model's behavior, as a share of the shift."""
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
    """A share of the shift, and the shares of random parts of the same norm."""

    estimate: Estimate
    random: tuple[float, ...]

    @property
    def p_value(self) -> float | None:
        """The share of the random parts, counting this part too, that are at least as large; None without random parts."""
        if not self.random:
            return None
        return (1 + sum(value >= self.estimate.value for value in self.random)) / (1 + len(self.random))

    def passed(self, confidence: float) -> bool:
        """Whether the interval lies above `MIN_SHARE` and the p-value is at most 1 - confidence."""
        p_value = self.p_value
        return p_value is not None and self.estimate.low > MIN_SHARE and p_value <= 1 - confidence + 1e-9

    def as_dict(self, confidence: float) -> dict[str, Any]:
        """Return the entry of causal.json."""
        return {
            **self.estimate.as_dict(),
            "p_value": self.p_value,
            "random": list(self.random),
            "random_mean": float(np.mean(self.random)) if self.random else None,
            "random_largest": max(self.random, default=None),
            "passed": self.passed(confidence),
        }


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
    """Random latents of similar firing frequency as the named ones, scaled to a given norm."""

    def __init__(self, activations: PartNorms, named: Sequence[int], seed: int) -> None:
        self._activations, self._named = activations, list(named)
        self._sizes = activations.latent_sizes()
        self._generator = np.random.default_rng([seed, 2])
        alive = self._sizes.norm > 0
        alive[self._named] = False
        self._others: Int64[np.ndarray, " latent"] = alive.nonzero()[:, 0].numpy()

    def draws(self, patterns: Iterable[Sequence[int]], norm: float) -> list[Part]:
        """Draw a random part for each pattern. Empty if there are too few latents to draw from: without a control, nothing is claimed."""
        parts = [self.like(latents, norm) for latents in patterns]
        return [part for part in parts if part is not None] if None not in parts else []

    def like(self, latents: Sequence[int], norm: float) -> Part | None:
        """Draw as many latents, each among those of closest firing frequency; None if there are too few to draw from."""
        firings = self._sizes.firings.numpy()
        left = self._others
        if len(left) < len(latents):
            return None
        drawn = []
        for latent in latents:
            nearest = np.argsort(np.abs(firings[left] - firings[latent]), kind="stable")[:_NEAREST]
            pick = int(left[self._generator.choice(nearest)])
            drawn.append(pick)
            left = left[left != pick]
        part = Part(latent_mask(drawn, len(firings)))
        drawn_norm = self._activations.norm(part)
        return part.scaled(norm / drawn_norm) if drawn_norm > 0 else None


Null = Mapping[Kind, tuple[float, ...]]
"""Shares of random parts, for each check."""


def random_shares(shares: Shares, draws: Sequence[Part], label: str) -> Null:
    """Return the shares of random parts."""
    return {
        kind: tuple(shares.share(kind, draw).value for draw in tqdm(draws, desc=label, leave=False))
        for kind in _defined(shares, CHECKS)
    }


def compare(shares: Shares, part: Part, null: Null) -> dict[Kind, Compared]:
    """Return necessity and sufficiency of a part, compared with random parts."""
    return {kind: Compared(shares.share(kind, part), null[kind]) for kind in _defined(shares, CHECKS)}


def checks_as_dict(found: Mapping[Kind, Compared], confidence: float) -> dict[str, Any]:
    """Return the result of `compare` for JSON; null where a check is undefined."""
    return {kind: found[kind].as_dict(confidence) if kind in found else None for kind in CHECKS}


def _defined(shares: Shares, kinds: Sequence[Kind]) -> list[Kind]:
    return [kind for kind in kinds if kind in shares.kinds]


def _shares_as_dict(shares: Shares, kinds: Sequence[Kind], part: Part) -> dict[str, Any]:
    return {kind: shares.share(kind, part).as_dict() if kind in shares.kinds else None for kind in kinds}


def top_n_parts(
    ranking: Sequence[int], counts: Iterable[int], n_latents: int, leave_out: int = 0
) -> Iterator[tuple[int, Part]]:
    """Yield the top n latents of a ranking as one part, for each n of `counts` up to its length, except `leave_out`."""
    for n in tqdm(
        sorted({min(count, len(ranking)) for count in counts} - {0, leave_out}), desc="curve", leave=False
    ):
        yield n, Part(latent_mask(ranking[:n], n_latents))


def curve(
    shares: Shares, parts: Iterable[tuple[int, Part]], kinds: Sequence[Kind] = KINDS
) -> list[dict[str, Any]]:
    """Return the shares of the parts from `top_n_parts`; null where a check is undefined."""
    return [{"n": n} | _shares_as_dict(shares, kinds, part) for n, part in parts]


def association(contribution: Values, confidence: float, seed: int) -> float:
    """Return the p-value of an attribution in the direction of the shift, over prompts; 1 if it has the opposite sign."""
    return sign_flip_test(contribution, confidence, seed).p_value if contribution.mean() > 0 else 1.0


def remainder(shares: Shares, n_latents: int) -> dict[str, Any]:
    """Return the shares of all latents together and of the other parts; null where a check is undefined."""
    parts = {"latents": Part(torch.ones(n_latents, dtype=torch.bool)), **shares.parts}
    return {name: _shares_as_dict(shares, CHECKS, part) for name, part in parts.items()}
