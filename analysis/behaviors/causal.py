"""Causal checks of the latents that a shift is attributed to: removal from the intervened model and insertion into the reference.

    necessity    [M_B(h_B) - M_B(h_B - part)] / ΔB     removing the part removes the shift
    sufficiency  [M_B(h_A + part) - M_B(h_A)] / ΔB     inserting the part produces the shift in the intervened model's upper layers
    steering     [M_A(h_A + part) - M_A(h_A)] / ΔB     the same in the reference's upper layers

on the claim set of prompts. Each is compared with random latents (`random_parts`), because any edit of that size has some effect. A
check is passed if

    the interval of the share lies above `MIN_SHARE`,
    the interval of the excess, the share minus the mean of the random draws, lies above 0, and
    the p-value, corrected for all checks of its family, is at most 1 - confidence.

A check that could not be passed whatever the model does is not made: too few draws for the corrected level, or too few prompts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from scipy.stats import t as student_t
from tqdm.auto import tqdm

from .attribution import PatchingCorners
from .behavior_files import MIN_SHARE
from .change_decomposition import Part
from .measurement import Measurement, values_of_each
from .multiple_testing import draws_for_holm, holm, significant
from .patching import INTERVENED, REFERENCE, PatchedRun
from .prompt_statistics import MIN_PROMPTS, Estimate, Resamples, Values, zero_mean_p
from .random_parts import latent_mask

Kind = Literal["necessity", "sufficiency", "steering"]
KINDS: tuple[Kind, ...] = ("necessity", "sufficiency", "steering")
CHECKS: tuple[Kind, ...] = ("necessity", "sufficiency")

PARTS = {
    "bias": Part(bias=True),
    "error": Part(error=True),
    "left_out": Part(left_out=True),
}

_LEAST_DRAWS = 19
"""Draws that are made even if the claim is lost before: the excess is measured against their mean."""


@runtime_checkable
class Shares(Protocol):
    """Effects of parts of the activations on a behavior, as shares."""

    kinds: tuple[Kind, ...]
    """The checks that are defined."""

    parts: dict[str, Part]
    """Parts other than latents."""

    n_prompts: int

    @property
    def whole(self) -> Values:
        """What the shares are of."""
        ...

    def effects(self, kind: Kind, parts: Sequence[Part]) -> Iterator[Values]:
        """Yield the effect of each part on every prompt, in the unit of the metric; later parts are run only when asked for."""
        ...

    def ratio(self, effect: Values) -> Estimate:
        """Return an effect as a share, with its interval over prompts."""
        ...

    def reconstruction_effect(self) -> dict[str, Estimate]:
        """Return the effect of replacing each model's activations by their reconstruction, where defined."""
        ...


def share(shares: Shares, kind: Kind, part: Part) -> Estimate:
    """Return the share of a part, with its interval over prompts."""
    return shares.ratio(next(shares.effects(kind, [part])))


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

    @property
    def whole(self) -> Values:
        """The shift."""
        return self._corners.total

    def ratio(self, effect: Values) -> Estimate:
        """Return an effect as a share of the shift, with its interval over prompts."""
        return self._resamples.ratio(effect, self.whole)

    def effects(self, kind: Kind, parts: Sequence[Part]) -> Iterator[Values]:
        """Yield the effect of each part, in the direction of the shift."""
        corners, measurement = self._corners, self._measurement
        match kind:
            case "necessity":
                runs, before = (
                    [PatchedRun(INTERVENED, INTERVENED, part, -1) for part in parts],
                    corners.intervened,
                )
                return (before - values for values in values_of_each(measurement, runs))
            case "sufficiency":
                runs = [PatchedRun(INTERVENED, REFERENCE, part) for part in parts]
                before = corners.intervened_from_reference
            case "steering":
                runs, before = [PatchedRun(REFERENCE, REFERENCE, part) for part in parts], corners.reference
        return (values - before for values in values_of_each(measurement, runs))

    def reconstruction_effect(self) -> dict[str, Estimate]:
        """Return the effect of the reconstruction on each model's behavior, as a share of the shift."""
        values = self._measurement.values
        return {
            "reference": self.ratio(
                values(PatchedRun(REFERENCE, REFERENCE, reconstructed=True)) - self._corners.reference
            ),
            "intervened": self.ratio(
                values(PatchedRun(INTERVENED, INTERVENED, reconstructed=True)) - self._corners.intervened
            ),
        }


class Opposite:
    """The same shares with the sign reversed: what pushes against the shift has positive shares."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self.kinds, self.parts, self.n_prompts = shares.kinds, shares.parts, shares.n_prompts

    @property
    def whole(self) -> Values:
        """What the shares are of."""
        return self._shares.whole

    def effects(self, kind: Kind, parts: Sequence[Part]) -> Iterator[Values]:
        """Yield the effect of each part, against the direction of the shift."""
        return (-effect for effect in self._shares.effects(kind, parts))

    def ratio(self, effect: Values) -> Estimate:
        """Return an effect as a share, with its interval over prompts."""
        return self._shares.ratio(effect)

    def reconstruction_effect(self) -> dict[str, Estimate]:
        """See `Shares.reconstruction_effect`; not reversed."""
        return self._shares.reconstruction_effect()


class Shortage(NamedTuple):
    """Why a check is not made."""

    of: Literal["draws", "prompts", "shift", "share", "latents"]
    have: int = 0
    needs: int = 0

    @property
    def why(self) -> str:
        """The reason, as a clause."""
        match self.of:
            case "prompts":
                return f"{self.have} claim prompts give no interval; {self.needs} do"
            case "draws":
                return (
                    f"{self.have} different random draws cannot reach the corrected level; {self.needs} can"
                )
            case "shift":
                return "the shift in this metric may be 0, so shares of it have no interval"
            case "latents":
                return "no latent contributes in this direction on the find prompts, so none is named"
            case "share":
                return f"it contributed less than {MIN_SHARE:.0%} of the shift on the find prompts"

    def as_dict(self) -> dict[str, Any]:
        """Return the entries of causal.json."""
        return {"why_not": self.why, "needs": {self.of: self.needs} if self.needs else None}


def without_interval(estimate: Estimate) -> Shortage | None:
    """Return the reason why a share without an interval is not checked; None if it has one."""
    return None if np.isfinite(estimate.low) else Shortage("shift")


def shortage(n_draws: int, needed: int, n_prompts: int) -> Shortage | None:
    """Return what a check lacks to be passable; None if nothing."""
    if n_prompts < MIN_PROMPTS:
        return Shortage("prompts", n_prompts, MIN_PROMPTS)
    return Shortage("draws", n_draws, needed) if n_draws < needed else None


@dataclass(frozen=True)
class Compared:
    """A share of the shift, and the shares of random parts of the same norm."""

    estimate: Estimate
    random: tuple[float, ...] = ()
    """Shares of the random draws."""

    excess: Estimate | None = None
    """The share minus the mean of the draws, with an interval over prompts and draws; None if the check is not made."""

    at_norm: float | None = None
    """The share at the norm of the draws, if that is not the part's own norm."""

    p_adjusted: float | None = None
    """`tested_p`, corrected for the other checks of its family."""

    shortage: Shortage | None = None
    """Why the check is not made; None if it is made."""

    @property
    def made(self) -> bool:
        """Whether the check is made."""
        return self.shortage is None

    @property
    def compared(self) -> float:
        """The share that is compared with the draws."""
        return self.estimate.value if self.at_norm is None else self.at_norm

    @property
    def p_value(self) -> float | None:
        """The share of the draws, counting this part too, that are at least as large; None if the check is not made."""
        if self.shortage is not None or not self.random:
            return None
        return (1 + sum(value >= self.compared for value in self.random)) / (1 + len(self.random))

    @property
    def tested_p(self) -> float | None:
        """The p-value that is corrected: 1 unless both intervals lie above their bounds, so that only what could be claimed counts as found."""
        if self.p_value is None or self.excess is None:
            return None
        return self.p_value if self.estimate.low > MIN_SHARE and self.excess.low > 0 else 1.0

    def passed(self, confidence: float) -> bool | None:
        """Whether the check is passed; None if it is not made or not yet corrected."""
        return None if self.p_adjusted is None else significant(self.p_adjusted, confidence)

    def as_dict(self, confidence: float) -> dict[str, Any]:
        """Return the entry of causal.json."""
        return {
            **self.estimate.as_dict(),
            "made": self.made,
            **({"why_not": None, "needs": None} if self.shortage is None else self.shortage.as_dict()),
            "p_value": self.p_value,
            "p_adjusted": self.p_adjusted,
            "random": list(self.random),
            "random_mean": float(np.mean(self.random)) if self.random else None,
            "random_largest": max(self.random, default=None),
            "at_norm": self.at_norm,
            "excess": None if self.excess is None else self.excess.as_dict(),
            "passed": self.passed(confidence),
        }


def compare(shares: Shares, part: Part, draws: Sequence[Part], confidence: float) -> dict[Kind, Compared]:
    """Return necessity and sufficiency of a part, compared with random parts, corrected for one another with Holm's procedure.

    Draws end early once so many have reached the part that the check cannot be passed any more; its p-value stays above the level.
    """
    kinds = defined(shares, CHECKS)
    names_nothing = part.latents is not None and not bool(part.latents.any())
    missing = (
        Shortage("latents")
        if names_nothing
        else shortage(len(draws), draws_for_holm(len(kinds), confidence), shares.n_prompts)
    )
    found: dict[Kind, Compared] = {}
    for kind in kinds:
        effect = next(shares.effects(kind, [part]))
        estimate = shares.ratio(effect)
        lacks = missing or without_interval(estimate)
        if lacks is not None:
            found[kind] = Compared(estimate, shortage=lacks)
            continue
        drawn = _until_lost(shares, kind, effect, draws, confidence)
        found[kind] = compared_with(shares, estimate, effect, drawn, confidence)
    return _with_adjusted(found)


def compared_with(
    shares: Shares,
    estimate: Estimate,
    effect: Values,
    drawn: Sequence[Values],
    confidence: float,
    at_norm: float | None = None,
) -> Compared:
    """Return a share compared with the effects of random parts.

    The interval of the excess joins that over prompts and Student's over draws, as independent errors.

    Args:
        effect: The effect that is compared: that of the part itself, or at the norm of the draws.
    """
    effects = np.stack(drawn)
    with np.errstate(divide="ignore", invalid="ignore"):
        random = np.divide(effects.mean(axis=1), shares.whole.mean()).tolist()
    over_prompts = shares.ratio(effect - effects.mean(axis=0))
    quantile = student_t.ppf((1 + confidence) / 2, len(random) - 1)
    over_draws = float(quantile * np.std(random, ddof=1) / np.sqrt(len(random)))
    excess = Estimate(
        over_prompts.value,
        over_prompts.value - float(np.hypot(over_prompts.value - over_prompts.low, over_draws)),
        over_prompts.value + float(np.hypot(over_prompts.high - over_prompts.value, over_draws)),
    )
    return Compared(estimate, tuple(random), excess, at_norm)


def _until_lost(
    shares: Shares, kind: Kind, effect: Values, draws: Sequence[Part], confidence: float
) -> list[Values]:
    """Return the effects of the draws, up to the one after which the uncorrected p-value of all of them is above the level."""
    claim, reached, found = _value(shares, effect), 0, []
    effects = shares.effects(kind, draws)
    for values in tqdm(effects, desc=f"random sets, {kind}", total=len(draws), leave=False):
        found.append(values)
        reached += _value(shares, values) >= claim
        lost = not significant((1 + reached) / (1 + len(draws)), confidence)
        if lost and len(found) >= _LEAST_DRAWS:
            break
    return found


def _value(shares: Shares, effect: Values) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(effect.mean(), shares.whole.mean()))


def _with_adjusted(found: dict[Kind, Compared]) -> dict[Kind, Compared]:
    tests = {kind: p_value for kind, check in found.items() if (p_value := check.tested_p) is not None}
    adjusted = dict(zip(tests, holm(np.array([*tests.values()], dtype=np.float64)).tolist(), strict=True))
    return {kind: replace(check, p_adjusted=adjusted.get(kind)) for kind, check in found.items()}


def passes(found: Mapping[Kind, Compared], confidence: float) -> bool | None:
    """Whether any of the checks is passed; None if none is made."""
    made = [passed for check in found.values() if (passed := check.passed(confidence)) is not None]
    return any(made) if made else None


def checks_as_dict(found: Mapping[Kind, Compared], confidence: float) -> dict[str, Any]:
    """Return the result of `compare` for JSON; null where a check is undefined."""
    return {kind: found[kind].as_dict(confidence) if kind in found else None for kind in CHECKS}


def defined(shares: Shares, kinds: Sequence[Kind]) -> list[Kind]:
    """Return those of the checks that are defined."""
    return [kind for kind in kinds if kind in shares.kinds]


def _shares_as_dict(shares: Shares, kinds: Sequence[Kind], part: Part) -> dict[str, Any]:
    return {kind: share(shares, kind, part).as_dict() if kind in shares.kinds else None for kind in kinds}


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


def association(contribution: Values) -> float:
    """Return the p-value of an attribution in the direction of the shift, over prompts; 1 if it has the opposite sign."""
    return zero_mean_p(contribution) if contribution.mean() > 0 else 1.0


def remainder(shares: Shares, n_latents: int) -> dict[str, Any]:
    """Return the shares of all latents together and of the other parts; null where a check is undefined."""
    parts = {"latents": Part(torch.ones(n_latents, dtype=torch.bool)), **shares.parts}
    return {name: _shares_as_dict(shares, CHECKS, part) for name, part in parts.items()}
