"""What is minimized: named terms, each already weighted, whose sum is trained and whose values are logged.

With normalized activations x' and error e = x' - x̂', means over the tokens of a batch, d^m the width of model m:

    mse        Σ_m ‖e^m‖² / d^m              predicting the mean costs 1 for each model, so this is Σ_m (1 - FVE_m)
    auxk       α · Σ_m ‖e^m - ê^m‖² / d^m    ê: the error as rebuilt by dead latents alone (Gao et al. 2024, section 2)
    sparsity   λ · Σ_j f_j Σ_m ‖d_j^m‖ / d̄   ReLU: "L1 of norms" (Lindsey et al. 2024)
               λ · Σ_j tanh(c f_j Σ_m ‖d_j^m‖) / d̄   JumpReLU (Anthropic, January 2025 update)
    dead       pulls JumpReLU latents that stay under their threshold up (same update)

d̄ is the mean width: it keeps λ of the same order as the mse term for models of any size.
"""

from dataclasses import dataclass
from typing import assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crosscoder.activations import split_models
from crosscoder.config import AuxiliaryConfig, BatchTopK, JumpReLU, ReLU, TopK
from crosscoder.dictionary import Crosscoder
from crosscoder.sparsity import JumpReLUSparsity


class LossTerms(dict[str, Float[Tensor, ""]]):
    """Named parts of a loss, each already weighted."""

    def total(self) -> Float[Tensor, ""]:
        """The sum: this is what is trained."""
        return torch.stack(list(self.values())).sum()


@dataclass(frozen=True)
class ForwardPass:
    """What one training step computes before its loss."""

    normalized: Float[Tensor, "token width"]
    pre_latents: Float[Tensor, "token latent"]
    latents: Float[Tensor, "token latent"]
    error: Float[Tensor, "token width"]
    norms: Float[Tensor, " latent"]


def run_forward(
    crosscoder: Crosscoder, normalized: Float[Tensor, "token width"], k: float | None
) -> ForwardPass:
    """Encode under the training rule and rebuild; `k` is the annealed one, or None."""
    norms = crosscoder.score_norms()
    pre_latents = crosscoder.pre_latents(normalized)
    latents = crosscoder.sparsity(pre_latents, norms, k)
    error = normalized - crosscoder.rebuild(latents).float()
    return ForwardPass(normalized, pre_latents, latents, error, norms)


def loss_terms(
    crosscoder: Crosscoder,
    forward: ForwardPass,
    dead: Bool[Tensor, " latent"],
    auxiliary: AuxiliaryConfig,
    penalty: float,
) -> LossTerms:
    """All terms that the dictionary's kind asks for."""
    d_models = crosscoder.config.d_models
    terms = LossTerms(mse=squared_error(forward.error, d_models))
    if auxiliary.coefficient > 0 and bool(dead.any()):
        terms["auxk"] = auxiliary.coefficient * auxiliary_error(crosscoder, forward, dead, auxiliary.k)
    mean_width = crosscoder.config.width / len(d_models)
    sparsity = crosscoder.config.sparsity
    match sparsity:
        case BatchTopK() | TopK():
            pass
        case ReLU():
            # A product with the norms would run in bfloat16 under autocast; a mean over tokens and a sum do not.
            terms["sparsity"] = (
                penalty * (forward.latents.float().mean(dim=0) * forward.norms).sum() / mean_width
            )
        case JumpReLU():
            contributions = forward.latents.float() * forward.norms
            terms["sparsity"] = (
                penalty * (sparsity.tanh_scale * contributions).tanh().sum(dim=1).mean() / mean_width
            )
            terms["dead"] = sparsity.dead_coefficient * below_threshold(crosscoder, forward)
        case _:
            assert_never(sparsity)
    return terms


def squared_error(error: Float[Tensor, "token width"], d_models: tuple[int, ...]) -> Float[Tensor, ""]:
    """Σ_m ‖e^m‖² / d^m, mean over tokens."""
    parts = split_models(error, d_models)
    return torch.stack([part.square().sum(dim=1).mean() / part.shape[1] for part in parts]).sum()


def auxiliary_error(
    crosscoder: Crosscoder, forward: ForwardPass, dead: Bool[Tensor, " latent"], k: int
) -> Float[Tensor, ""]:
    """How badly dead latents rebuild the error; its gradient reaches their rows and no others."""
    columns = dead.nonzero().squeeze(1)
    rectified = forward.pre_latents[:, columns].relu()
    keep = min(k, len(columns))
    best = (rectified * forward.norms[columns]).detach().topk(keep, dim=1, sorted=False).indices
    chosen = torch.zeros_like(rectified).scatter(1, best, rectified.gather(1, best))
    rebuilt_error = (chosen @ crosscoder.W_dec[columns]).float()
    return squared_error(forward.error.detach() - rebuilt_error, crosscoder.config.d_models)


def below_threshold(crosscoder: Crosscoder, forward: ForwardPass) -> Float[Tensor, ""]:
    """Σ_j ReLU(t_j - pre-latent_j) · Σ_m ‖d_j^m‖, mean over tokens."""
    assert isinstance(crosscoder.sparsity, JumpReLUSparsity)
    shortfall = (crosscoder.sparsity.log_threshold.exp() - forward.pre_latents.float()).relu()
    return (shortfall.mean(dim=0) * forward.norms).sum()
