"""The low-rank dense map: one linear map of few dimensions that acts on all tokens alike, Δx = M x + rest.

Predictor. Δx is regressed on the mean of both models' activations, (x^reference + x^intervened) / 2, so that exchanging the models changes
only the sign. If Δx = M x^reference with M of rank r, then Δx = M' x^mean with M' of the same rank, row space and column space. Whatever
only one model has (noise, a new or lost feature) is in x^mean too and would predict itself, so a map must also be seen from each model
alone: what it reads of one model must covary with what it explains at least a third as much as what it reads of the mean. Of what only
one model has, the other shows nothing.

Fit. Ridge regression; the components are the principal directions of what both models support of the fitted values (for a map, those of the
fitted values: reduced-rank regression, Izenman 1975; with ridge: Mukherjee and Zhu 2011), on three folds of documents. What each
explains is measured on the fourth. The rank is that of the components that explain more on the left-out documents than an average
component would, and at least 1 % of the best map's gain.

Evidence. Activations and remaining difference are paired anew, shifted along the documents: p counts the shifts that explain as much, at
their own best rank.

What claimed latents leave of themselves (a firing that the dictionary missed or shrank) is linear in the activations and no map, so the map
is fitted outside the dimensions that new and lost latents write into.

What it can claim: a part of the change is linear in the activations, in `rank` directions, and is on most tokens and features.
What it cannot: a rotated or rescaled feature is a map of rank one, and features that are all rescaled by one factor are a map of full rank
(`gain`). So the map is claimed only with at most a quarter of the dimensions, only if as many latents as it has dimensions explain less
than half of what it does (`latents_share`), and only if half of what it explains is not on a few tokens (`half_tokens`). Where a few latents
changed strongly beside a weak map, neither is told from the other, and the latents are named. A low-rank update of weights elsewhere in the
model need not look like this at the hookpoint, nor must what looks like this be one.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from .block_shares import Share, permutation_p
from .constant_offset import FOLDS, LEVEL
from .linear_moments import LinearMoments

LOW_RANK = 0.25
"""Largest rank that counts as low, as a share of d_model."""

MAX_RANK = 64
"""Largest rank that is claimed at any width; it bounds the memory of the second pass."""

LATENTS_SHARE = 0.5
"""Share of what the map explains that as many latents may explain: at more, the change is those latents."""

MIN_SHARE = 0.02
"""Smallest share of E‖Δx‖² that is claimed: rounding of one model to 4 bits, which is no map, gives maps of 0.5 %."""

HALF_TOKENS = 0.03
"""Smallest share of the tokens on which half of what the map explains is found."""

# How many times as much a map may explain as it does read from one model alone: 1 for a map that does not read what it writes.
_ONE_MODEL = 3.0
_LOW_RANK_GAIN = 0.75
_SMALLEST_GAIN = 0.01
_RIDGES = (1e-3, 1e-1)
# Components that are looked at: four times as many as the largest rank.
_COMPONENTS = 4 * MAX_RANK
_ITERATIONS = 3
_SHIFTS = 199


class FittedMap(NamedTuple):
    """A map fitted on some documents: x - mean_x is read along `read`, and written along `write`."""

    mean_x: Float64[Tensor, "kind d_model"]
    read: Float64[Tensor, "d_model rank"]
    write: Float64[Tensor, "d_model rank"]
    """Orthonormal columns."""


class ScalarGain(NamedTuple):
    """The map as one factor for all directions."""

    value: float
    """tr Σxy / tr Σxx."""
    explained: float
    """Σ⟨value · x, y⟩ over all tokens, in units of Σ‖Δx‖²."""


@dataclass(frozen=True)
class MapFit:
    """The map of each fold, fitted on the others, and its rank."""

    rank: int
    """0 if no component explains anything on documents that it was not fitted on."""
    folds: tuple[FittedMap, ...]
    """Without each fold, cut to `rank`; empty if the rank is 0 or not low."""
    gain: ScalarGain
    reason: str
    """Why there is nothing to test; empty if there is."""
    strengths: tuple[float, ...] = ()
    """Singular values of the map fitted on all documents."""
    read: Float64[Tensor, "rank d_model"] | None = None
    """Its right singular vectors: directions of the activations that it reads, orthonormal. Known only where activations vary."""
    write: Float64[Tensor, "rank d_model"] | None = None
    """Its left singular vectors: directions of the difference that it writes, orthonormal."""


def fit_map(moments: LinearMoments, device: torch.device) -> MapFit:
    """Fit the map for every fold, and choose ridge and rank by what it explains on the left-out documents.

    Time: one factorization of d_model² per fold and ridge, on `device` if it is a CUDA GPU (others lack float64).
    """
    if device.type == "cuda":
        moments = LinearMoments(*(value.to(device) for value in moments))
    d_model = moments.xx.shape[-1]
    whole = moments.whole().centered(moments.whole().means())
    variance, covariance = float(whole.xx.trace()), float(whole.xy.trace())
    gain = covariance / variance if variance else 0.0
    factor = ScalarGain(gain, gain * covariance)
    nothing = "a linear map fitted on some documents explains nothing on the others"
    if not variance or bool((moments.tokens.sum(dim=1) == 0).any()):
        return MapFit(0, (), factor, reason=nothing)
    by_ridge = [_cross_validated(moments, ridge) for ridge in _RIDGES]
    best = max(range(len(_RIDGES)), key=lambda index: float(by_ridge[index].cumsum(0).max()))
    explained = by_ridge[best].cpu()
    rank, reached = _supported_rank(explained)
    if not rank:
        return MapFit(0, (), factor, reason=nothing)
    if rank > min(LOW_RANK * d_model, MAX_RANK) or reached < _LOW_RANK_GAIN:
        spread = f"{rank} of {d_model} dimensions" if reached >= _LOW_RANK_GAIN else "many dimensions"
        reason = f"what is linear in the activations takes {spread}, which is not low rank"
        return MapFit(rank, (), factor, reason=reason)
    folds = []
    for fold in range(FOLDS):
        training = moments.without(fold)
        read, write = _components(training, _RIDGES[best])
        folds.append(FittedMap(training.means().x.cpu(), read[:, :rank].cpu(), write[:, :rank].cpu()))
    read, write = (part[:, :rank].cpu() for part in _components(moments.whole(), _RIDGES[best]))
    u, strengths, vh = torch.linalg.svd(read, full_matrices=False)
    return MapFit(rank, tuple(folds), factor, "", tuple(strengths.tolist()), u.T, vh @ write.T)


class MapScores(NamedTuple):
    """What the map reads and what there is to explain, at a sample of tokens in the order of their documents."""

    read: Float64[Tensor, "token rank"]
    """What the map, fitted without the token's fold, says of each component."""
    found: Float64[Tensor, "token rank"]
    """What the remaining difference has along it."""


@dataclass(frozen=True)
class LowRankMap:
    """The map with its evidence."""

    fit: MapFit
    d_model: int
    share: Share
    """Share of E‖Δx‖² that it explains on documents that it was not fitted on, after offset, new and lost latents and subspaces."""
    gain_share: float
    p: float | None
    latents_share: float | None
    """Share of E‖Δx‖² that the `rank` latents with the largest shares of the same remainder explain."""
    half_tokens: float | None
    """Smallest share of the tokens on which half of what it explains is found."""
    reason: str
    """Why it is not established; empty if it is."""

    @property
    def established(self) -> bool:
        """Whether the map is claimed."""
        return not self.reason

    def record(self) -> dict[str, Any]:
        """Return the section `map`."""
        return {
            "rank": self.fit.rank,
            "d_model": self.d_model,
            **self.share.record(),
            "p": self.p,
            "latents_share": self.latents_share,
            "half_tokens": self.half_tokens,
            "strengths": list(self.fit.strengths),
            "gain": self.fit.gain.value,
            "gain_share": self.gain_share,
            "established": self.established,
            "reason": self.reason,
        }


def judge_map(
    fit: MapFit,
    d_model: int,
    share: Share,
    square: float,
    latents: Float64[Tensor, " latent"],
    scores: dict[int, MapScores],
    seed: int,
) -> LowRankMap:
    """Test a fitted map.

    Args:
        share: What it explains on left-out documents.
        square: Σ‖Δx‖² over all tokens.
        latents: Share of E‖Δx‖² that each latent explains of what the map is fitted on.
        scores: A sample of tokens of each fold.
    """
    gain_share = fit.gain.explained / square
    if fit.reason:
        return LowRankMap(fit, d_model, share, gain_share, None, None, None, fit.reason)
    p = permutation_p(*_shifted(scores, seed))
    explained = torch.cat([(part.read * part.found).sum(dim=1) for part in scores.values()])
    half_tokens = _half(explained)
    top = float(latents.topk(min(fit.rank, len(latents))).values.clamp_min(0).sum())
    if share.low is None:
        reason = "too few held-out documents"
    elif p > LEVEL or not share.above_zero:
        reason = "activations paired with the differences of other documents explain as much"
    elif share.value < MIN_SHARE:
        reason = f"it explains less than {MIN_SHARE:.0%} of the difference"
    elif top > LATENTS_SHARE * share.value:
        reason = "as many latents as the map has dimensions explain at least half of what it does"
    elif half_tokens < HALF_TOKENS:
        reason = "it explains few tokens only"
    else:
        reason = ""
    return LowRankMap(fit, d_model, share, gain_share, p, top, half_tokens, reason)


def _supported_rank(explained: Float64[Tensor, " component"]) -> tuple[int, float]:
    """Return the rank, and the share of the best map's gain that it reaches."""
    total = explained.cumsum(0)
    best = float(total.max())
    if best <= 0:
        return 0, 0.0
    limit = max(1 / len(explained), _SMALLEST_GAIN) * best
    above = total - limit * torch.arange(1, len(total) + 1)
    rank = int(above.argmax()) + 1 if float(above.max()) > 0 else 0
    return rank, float(total[rank - 1]) / best if rank else 0.0


def _cross_validated(moments: LinearMoments, ridge: float) -> Float64[Tensor, " component"]:
    """Return what each component explains on the documents left out, summed over folds: 2⟨m, y⟩ - ‖m‖².

    ⟨m, y⟩ is cut to `_ONE_MODEL` times the smaller of what the two models show alone.
    """
    explained = torch.zeros_like(moments.xx[0, 0, :_COMPONENTS])
    for fold in range(FOLDS):
        training, held_out = moments.without(fold), moments.of(fold)
        read, write = _components(training, ridge)
        left_out = held_out.centered(training.means())
        from_mean = (read * (left_out.xy @ write)).sum(dim=0)
        # The diagonal of the absolute value, not the absolute diagonal: in the sum of a new and a lost feature the two cancel.
        from_one = from_mean - _absolute(read.T @ left_out.delta_y @ write).diagonal() / 2
        supported = torch.minimum(from_mean, _ONE_MODEL * from_one)
        explained += 2 * supported - (read * (left_out.xx @ read)).sum(dim=0)
    return explained


def _components(
    moments: LinearMoments, ridge: float
) -> tuple[Float64[Tensor, "d_model component"], Float64[Tensor, "d_model component"]]:
    """Return the components of the ridge map, by what both models support of them: directions read, and orthonormal ones written.

    With F the covariance of fitted values, G and G' its estimates from each model alone, F = (G + G') / 2; both support
    (G + G') / 2 - |G - G'| / 2, with the absolute value of a symmetric matrix.
    """
    xx, xy, delta_y = moments.centered(moments.means())
    penalty = ridge * xx.diagonal().mean().clamp_min(1e-300) * torch.eye(len(xx)).to(xx)
    factor = torch.linalg.cholesky(xx + penalty)
    basis = _leading(torch.linalg.solve_triangular(factor, xy, upper=False))
    linear = torch.cholesky_solve(xy @ basis, factor)
    fitted = linear.T @ xy @ basis
    _, turn = torch.linalg.eigh((fitted + fitted.T - _absolute(linear.T @ delta_y @ basis)) / 2)
    turn = turn.flip(1)
    return linear @ turn, basis @ turn


def _leading(rows: Float64[Tensor, "d_model d_model"]) -> Float64[Tensor, "d_model component"]:
    """Return an orthonormal basis of the leading right singular vectors; of all, if they are no more than `_COMPONENTS`.

    By subspace iteration from random directions (Halko, Martinsson and Tropp 2011), the same for every call.
    """
    if len(rows) <= _COMPONENTS:
        return torch.eye(len(rows)).to(rows)
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(len(rows), _COMPONENTS, generator=generator, dtype=torch.float64).to(rows)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(rows.T @ (rows @ basis)).Q
    return basis


def _absolute(matrix: Float64[Tensor, "component component"]) -> Float64[Tensor, "component component"]:
    """Return the absolute value of the symmetric part of a matrix: the same eigenvectors, with the absolute eigenvalues."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.abs()) @ vectors.T


def _shifted(scores: dict[int, MapScores], seed: int) -> tuple[float, Float64[Tensor, " draw"]]:
    """Return what the map explains in the sample at its best rank, and the same after each of many shifts along the documents."""
    generator = torch.Generator().manual_seed(seed)
    penalty = sum(part.read.square().sum(dim=0) for part in scores.values())

    def best(crossed: Tensor) -> float:
        return float((2 * crossed - penalty).cumsum(0).max())

    observed = best(torch.stack([(part.read * part.found).sum(dim=0) for part in scores.values()]).sum(dim=0))
    null = torch.zeros(_SHIFTS, dtype=torch.float64)
    for draw in range(_SHIFTS):
        crossed = []
        for part in scores.values():
            n = len(part.read)
            # At least a tenth of the tokens, so that documents do not overlap with themselves.
            shift = int(torch.randint(n // 10, n - n // 10 + 1, (1,), generator=generator)) if n > 1 else 0
            crossed.append((part.read * part.found.roll(shift, dims=0)).sum(dim=0))
        null[draw] = best(torch.stack(crossed).sum(dim=0))
    return observed, null


def _half(explained: Float64[Tensor, " token"]) -> float:
    """Return the smallest share of the tokens that has half of the sum; 0 if the sum is not positive."""
    total = float(explained.sum())
    if total <= 0:
        return 0.0
    ordered = explained.sort(descending=True).values.cumsum(0)
    return (int((ordered < total / 2).sum()) + 1) / len(explained)
