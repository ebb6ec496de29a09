"""The training loss: a sum of named terms, each already weighted and each logged.

With normalized activations x', error e = x' - x̂', and d^m the width of model m, averaged over the tokens of a batch:

    mse        Σ_m ‖e^m‖² / d^m              predicting the mean costs 1 for each model, so this is Σ_m (1 - FVE_m)
    nested     Σ_p Σ_m ‖e_p^m‖² / d^m        e_p: the error of the first latents alone (Bussmann et al. 2025, Matryoshka)
    difference w · ‖e^int - e^ref‖² / d      the error of the difference (Kassem et al. 2026, delta loss); of M models
               w · 2/M · Σ_(m<n) ‖e^m - e^n‖² / d, which weights every error that they do not share alike
    auxk       α · Σ_m ‖e^m - ê^m‖² / d^m    ê: the error as reconstructed by dead latents alone (Gao et al. 2024, section 2)
    sparsity   λ · Σ_j f_j Σ_m ‖d_j^m‖ / d̄   ReLU: "L1 of norms" (Lindsey et al. 2024)
               λ · Σ_j tanh(c f_j Σ_m ‖d_j^m‖) / d̄   JumpReLU (Anthropic, January 2025 update)
    dead       pulls JumpReLU latents that stay below their threshold up (same update)

d̄ is the mean width; dividing by it keeps λ comparable with the mse term for models of any size.
"""

from itertools import combinations
from typing import assert_never

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from crosscoder.activations.batch import have_equal_width, split_models
from crosscoder.config import AuxiliaryConfig, BatchTopK, JumpReLU, ReLU, RunConfig, TopK
from crosscoder.config.open_settings import chosen
from crosscoder.dictionary.sparsity import JumpReLUSparsity
from crosscoder.errors import ConfigError

from .forward import DensePass, ForwardPass

# Weights the error of the difference seven times as much as that of the sum: ‖e^A‖² + ‖e^B‖² + w ‖e^B - e^A‖² is
# ‖e_s‖² + (1 + 2w) ‖e_δ‖², with e_s and e_δ the errors of sum and difference, each over √2. On planted pairs, weights from 1 to 5
# do equally well, and all do better than 0.
_DIFFERENCE_WEIGHT = 3.0


class LossTerms(dict[str, Float[Tensor, ""]]):
    """Named terms of a loss, each already weighted."""

    def total(self) -> Float[Tensor, ""]:
        """Sum of the terms, which is minimized."""
        return torch.stack(list(self.values())).sum()


def loss_terms(
    forward: ForwardPass,
    dead: Bool[Tensor, " latent"],
    auxiliary: AuxiliaryConfig,
    penalty: float,
    difference_weight: float = 0.0,
) -> LossTerms:
    """Compute all terms that apply to the dictionary's kind and settings. They are of all latents, also where ranks divide these; `dead` is
    of the latents of this process."""
    some = auxiliary.coefficient > 0 and forward.crosscoder.ranks.any(bool(dead.any()))
    reviving = dead.nonzero().squeeze(1) if some else None
    return LossTerms(terms_with(forward, reviving, auxiliary, penalty, difference_weight))


def terms_with(
    forward: ForwardPass,
    dead: Int64[Tensor, " column"] | None,
    auxiliary: AuxiliaryConfig,
    penalty: float | Float[Tensor, ""],
    difference_weight: float,
) -> dict[str, Float[Tensor, ""]]:
    """Compute the same terms by name from the indices of the dead latents; None leaves AuxK out. Reads nothing back from the device."""
    config = forward.crosscoder.config
    d_models, ranks = config.d_models, forward.crosscoder.ranks
    terms = {"mse": squared_error(forward.error, d_models)}
    if forward.nested_errors:
        terms["nested"] = torch.stack([squared_error(e, d_models) for e in forward.nested_errors]).sum()
    if difference_weight > 0:
        terms["difference"] = difference_weight * difference_error(forward.error, d_models)
    if dead is not None:
        terms["auxk"] = auxiliary.coefficient * auxiliary_error(
            forward, dead, chosen(auxiliary.k, "training.auxiliary.k")
        )
    mean_width = config.width / len(d_models)
    n_tokens = len(forward.error)
    sparsity = config.sparsity
    match sparsity:
        case BatchTopK() | TopK():
            pass
        case ReLU():
            terms["sparsity"] = penalty * ranks.total(forward.contributions().sum()) / (n_tokens * mean_width)
        case JumpReLU():
            saturating = (sparsity.tanh_scale * forward.contributions()).tanh()
            terms["sparsity"] = penalty * ranks.total(saturating.sum()) / (n_tokens * mean_width)
            terms["dead"] = sparsity.dead_coefficient * ranks.total(below_threshold(forward))
        case _:
            assert_never(sparsity)
    return terms


def resolve_difference_weight(config: RunConfig, d_models: tuple[int, ...]) -> float:
    """Return the configured weight of the difference term, or its default: 0 for pairs and views without a difference.

    Raises:
        ConfigError: A weight is configured, but the models differ in width.
    """
    asked, exists = config.training.difference_weight, have_equal_width(d_models)
    if asked and not exists:
        raise ConfigError(
            f"training.difference_weight: needs two or more models of equal width, found widths {d_models}; set it to 0"
        )
    if asked is not None:
        return asked
    return _DIFFERENCE_WEIGHT if exists and config.crosscoder.reads == "paired" else 0.0


def squared_error(error: Float[Tensor, "token width"], d_models: tuple[int, ...]) -> Float[Tensor, ""]:
    """Σ_m ‖e^m‖² / d^m, mean over tokens."""
    parts = split_models(error, d_models)
    return torch.stack([part.square().sum(dim=1).mean() / part.shape[1] for part in parts]).sum()


def difference_error(error: Float[Tensor, "token width"], d_models: tuple[int, ...]) -> Float[Tensor, ""]:
    """2/M · Σ_(m<n) ‖e^n - e^m‖² / d, mean over tokens, of M models of equal width: ‖e^int - e^ref‖² / d for a pair.

    It equals 2 Σ_m ‖e^m - ē‖² / d: an error that all models share costs nothing, and any other costs as much as in a pair.
    """
    pairs = combinations(split_models(error, d_models), 2)
    errors = [(later - earlier).square().sum(dim=1).mean() / d_models[0] for earlier, later in pairs]
    return torch.stack(errors).sum() * (2 / len(d_models))


def auxiliary_error(forward: ForwardPass, dead: Int64[Tensor, " column"], k: int) -> Float[Tensor, ""]:
    """Error of dead latents at reconstructing the error. Its gradient reaches their rows alone."""
    error_reconstruction = forward.reconstruct_with(dead, k)
    return squared_error(forward.error.detach() - error_reconstruction, forward.crosscoder.config.d_models)


def below_threshold(forward: ForwardPass) -> Float[Tensor, ""]:
    """Σ_j ReLU(t_j - pre-latent_j) · Σ_m ‖d_j^m‖, mean over tokens."""
    sparsity = forward.crosscoder.sparsity
    assert isinstance(sparsity, JumpReLUSparsity)
    assert isinstance(forward, DensePass), "this term needs the pre-latents of all latents"
    shortfall = (sparsity.log_threshold.exp() - forward.pre_latents.float()).relu()
    return (shortfall.mean(dim=0) * forward.norms).sum()
