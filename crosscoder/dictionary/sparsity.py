"""Activation functions from pre-latents to latents: BatchTopK, TopK, ReLU and JumpReLU.

All kinds share one signature. `norms` holds, for each latent, the sum over models of its decoder norm in training space.
Latents compete by their contribution to the reconstruction, so rescaling a decoder row by c and its code by 1/c
changes nothing (Minder et al. 2025, section 2).

Only BatchTopK differs between training and inference. In training, all latents of a batch compete. At inference, a
stored threshold on the same scores replaces the competition, so a token's code does not depend on the rest of the batch.
"""

import math
from typing import assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..config import BatchTopK, JumpReLU, ReLU, SparsityConfig, TopK
from ..config.open_settings import chosen
from ..errors import FormatError
from .latent_ranks import ALONE, LatentRanks
from .selection_over_ranks import largest_over_ranks
from .sparse_latents import SparseLatents
from .topk_selection import PreLatents, TokenSelection, kth_largest, pre_latent_bounds


class Sparsity(nn.Module):
    """Interface of all kinds: `forward` is the training rule, `infer` the inference rule."""

    def forward(
        self,
        pre_latents: Float[Tensor, "token latent"],
        norms: Float[Tensor, " latent"],
        k: float | None = None,
    ) -> Float[Tensor, "token latent"]:
        """Return latents under the training rule; `k` overrides the configured value during annealing."""
        raise NotImplementedError

    def infer(
        self, pre_latents: Float[Tensor, "token latent"], norms: Float[Tensor, " latent"]
    ) -> Float[Tensor, "token latent"]:
        """Return latents under the inference rule, independently for each token."""
        return self(pre_latents, norms)

    def infer_firings(self, pre_latents: PreLatents, norms: Float[Tensor, " latent"]) -> SparseLatents:
        """Return the nonzero entries of `infer`."""
        raise NotImplementedError


class BatchTopKSparsity(Sparsity):
    """Keep the n·k largest scores of a batch of n tokens (Bussmann et al. 2024)."""

    threshold: Tensor

    def __init__(self, config: BatchTopK, ranks: LatentRanks = ALONE) -> None:
        super().__init__()
        self._ranks = ranks
        self.k = chosen(config.k, "crosscoder.sparsity.k")
        # NaN, so that a dictionary that was never calibrated refuses to encode instead of letting everything through.
        self.register_buffer("threshold", torch.tensor(math.nan))

    def forward(
        self,
        pre_latents: Float[Tensor, "token latent"],
        norms: Float[Tensor, " latent"],
        k: float | None = None,
    ) -> Float[Tensor, "token latent"]:
        rectified = pre_latents.relu()
        keep = round((self.k if k is None else k) * len(rectified))
        return rectified * mask_largest((rectified * norms).detach(), keep, self._ranks)

    def infer(
        self, pre_latents: Float[Tensor, "token latent"], norms: Float[Tensor, " latent"]
    ) -> Float[Tensor, "token latent"]:
        rectified = pre_latents.relu()
        return rectified * (rectified * norms > self._calibrated())

    def infer_firings(self, pre_latents: PreLatents, norms: Float[Tensor, " latent"]) -> SparseLatents:
        threshold = self._calibrated()
        entries = pre_latents.above(pre_latent_bounds(threshold, norms))
        return entries.where(entries.value * norms[entries.latent] > threshold).sparse_latents(pre_latents)

    def _calibrated(self) -> Float[Tensor, ""]:
        if self.threshold.isnan():
            raise FormatError(
                "sparsity.threshold: never calibrated, so BatchTopK cannot encode single tokens; "
                "finish the training, or call calibrate() with activations"
            )
        return self.threshold


class TopKSparsity(Sparsity):
    """Keep the k largest scores of every token."""

    def __init__(self, config: TopK, ranks: LatentRanks = ALONE) -> None:
        super().__init__()
        self._ranks = ranks
        self.k = chosen(config.k, "crosscoder.sparsity.k")

    def forward(
        self,
        pre_latents: Float[Tensor, "token latent"],
        norms: Float[Tensor, " latent"],
        k: float | None = None,
    ) -> Float[Tensor, "token latent"]:
        rectified = pre_latents.relu()
        return keep_largest_of_tokens(rectified, norms, round(self.k if k is None else k), self._ranks)

    def infer_firings(self, pre_latents: PreLatents, norms: Float[Tensor, " latent"]) -> SparseLatents:
        return TokenSelection(self._ranks)(pre_latents, norms, self.k)


class ReLUSparsity(Sparsity):
    """Rectify; a penalty in the loss makes the code sparse."""

    def forward(
        self,
        pre_latents: Float[Tensor, "token latent"],
        norms: Float[Tensor, " latent"],
        k: float | None = None,
    ) -> Float[Tensor, "token latent"]:
        return pre_latents.relu()

    def infer_firings(self, pre_latents: PreLatents, norms: Float[Tensor, " latent"]) -> SparseLatents:
        return pre_latents.above(torch.zeros_like(norms)).sparse_latents(pre_latents)


class JumpReLUSparsity(Sparsity):
    """x where x > exp t, else 0, with a straight-through gradient to the log-threshold t of each latent.

    dJ/dt = -(exp t/bandwidth)·rect((x - exp t)/bandwidth), as published (Anthropic, January 2025 update). The gradient of
    the expectation has one more factor exp t (Rajamanoharan et al. 2024 differentiate with respect to the threshold
    itself). That factor is positive for each latent, and Adam's step size is invariant to it.
    """

    def __init__(self, config: JumpReLU, n_latents: int) -> None:
        super().__init__()
        self.bandwidth = config.bandwidth
        self.log_threshold = nn.Parameter(torch.full((n_latents,), math.log(config.initial_threshold)))

    def forward(
        self,
        pre_latents: Float[Tensor, "token latent"],
        norms: Float[Tensor, " latent"],
        k: float | None = None,
    ) -> Float[Tensor, "token latent"]:
        return _JumpReLU.apply(pre_latents, self.log_threshold, self.bandwidth)  # pyright: ignore[reportReturnType]

    def infer_firings(self, pre_latents: PreLatents, norms: Float[Tensor, " latent"]) -> SparseLatents:
        return pre_latents.above(self.log_threshold.detach().exp()).sparse_latents(pre_latents)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre_latents: Tensor, log_threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_latents, log_threshold)
        ctx.bandwidth = bandwidth
        return pre_latents * (pre_latents > log_threshold.exp())

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        pre_latents, log_threshold = ctx.saved_tensors
        threshold = log_threshold.exp()
        inside = (pre_latents - threshold).abs() < ctx.bandwidth / 2
        to_threshold = -(threshold / ctx.bandwidth) * (gradient * inside).sum(dim=0)
        return gradient * (pre_latents > threshold), to_threshold, None


def build_sparsity(config: SparsityConfig, n_latents: int, ranks: LatentRanks = ALONE) -> Sparsity:
    """Build the module that `config` describes, for the `n_latents` latents that this process holds."""
    match config:
        case BatchTopK():
            return BatchTopKSparsity(config, ranks)
        case TopK():
            return TopKSparsity(config, ranks)
        case ReLU():
            return ReLUSparsity()
        case JumpReLU():
            return JumpReLUSparsity(config, n_latents)
        case _:
            assert_never(config)


def keep_largest_of_tokens(
    rectified: Float[Tensor, "token latent"],
    norms: Float[Tensor, " latent"],
    keep: int,
    ranks: LatentRanks = ALONE,
) -> Float[Tensor, "token latent"]:
    """Return rectified pre-latents with the `keep` largest scores of each token (all if there are fewer), and 0 elsewhere."""
    scores = (rectified * norms).detach()
    if not ranks.alone:
        if keep >= ranks.count(scores.shape[1]):
            return rectified
        token, latent = (scores > 0).nonzero(as_tuple=True)
        largest = largest_over_ranks(scores[token, latent], token, len(scores), keep, ranks).mask
        return rectified * torch.zeros_like(scores, dtype=torch.bool).index_put((token, latent), largest)
    indices = scores.topk(min(keep, scores.shape[1]), dim=1, sorted=False).indices
    return torch.zeros_like(rectified).scatter(1, indices, rectified.gather(1, indices))


def mask_largest(
    scores: Float[Tensor, "token latent"], keep: int, ranks: LatentRanks = ALONE
) -> Bool[Tensor, "token latent"]:
    """Return a mask of exactly the `keep` largest entries (all if there are fewer); over several ranks, of those above 0.

    To avoid sorting everything, take the top few of each token, then the largest among those. This is exact unless all
    candidates of some token are kept; that case is detected and falls back to a full sort.
    """
    if not ranks.alone:
        latent, token = (scores.T > 0).nonzero(as_tuple=True)
        largest = largest_over_ranks(scores[token, latent], None, 1, keep, ranks).mask
        return torch.zeros_like(scores, dtype=torch.bool).index_put((token, latent), largest)
    n_tokens, n_latents = scores.shape
    keep = min(keep, scores.numel())
    if keep == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    few = min(n_latents, 4 * math.ceil(keep / n_tokens) + 16)
    candidates = scores.topk(few, dim=1, sorted=False)
    chosen = candidates.values.flatten().topk(keep, sorted=False).indices
    per_token = torch.bincount(chosen // few, minlength=n_tokens)
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    if few < n_latents and bool((per_token == few).any()):
        mask[scores.flatten().topk(keep, sorted=False).indices] = True
    else:
        row_start = torch.arange(n_tokens, device=scores.device)[:, None] * n_latents
        mask[(candidates.indices + row_start).flatten()[chosen]] = True
    return mask.view_as(scores)


def threshold_for(scores: Float[Tensor, " score"], keep: int, ranks: LatentRanks = ALONE) -> float:
    """Return a threshold that exactly `keep` of these scores exceed (0 if there are at most `keep`); over several ranks, of theirs."""
    if keep >= ranks.count(len(scores)):
        return 0.0
    scores = scores.float()
    if ranks.alone:
        ordered = scores.topk(keep + 1).values
        kept, dropped = ordered[keep - 1], ordered[keep]
    else:
        kept, dropped = (torch.tensor(kth_largest(scores, place, ranks)) for place in (keep, keep + 1))
    # Halfway between the last kept and the first dropped score, so that rounding cannot flip either.
    return float((kept + dropped) / 2)
