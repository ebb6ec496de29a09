"""Latent scaling: how much of a latent's concept each model holds, even where the dictionary misses it.

Minder, Dumas, Juang, Chughtai and Nanda 2025 (arXiv 2504.02922), section 3. Take latent j and its direction d = d_j^S in
model S, the one with the larger decoder norm. For each model M and target y,

    β_M(y) = argmin_β Σ_t ‖y_t - β f_jt d‖² = Σ_t f_jt ⟨d, y_t⟩ / (‖d‖² Σ_t f_jt²)

    error           y = e^M + f_j d_j^M      what the other latents leave of x^M
    reconstruction  y = x̂^M - b^M            what all latents write, without the bias

    ν = β_other / β_S

ν of the error near 1: the other model holds the concept in its residual (complete shrinkage). ν of the reconstruction
near 1: other latents already write it there (latent decoupling). Both near 0: the concept is absent from the other model.
Everything is in training space. A few sums serve all latents, because Σ f⟨d, e^M + f d^M⟩ = Σ f⟨d, e^M⟩ + ⟨d, d^M⟩ Σ f².

If the models share no space, d in the other model is its image under a linear map between their activations
(`crosscoder.activations.linear_map`), with the same length in training space, and ν is divided by the cosine with which the map takes the
directions that both models have from one to the other.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.config.model_names import MODEL_NAMES

# Smallest β of a latent's own model for a ratio: below it, that model holds too little of the concept.
MIN_OWN_BETA = 0.1

Moments = Mapping[str, Tensor]
"""By name: sums `[*resample, latent]` (`Statistics.sums`), totals `[*resample, 1]` (`Statistics.totals`), and constants `[latent]` such as
`overlap/S/M`."""


def overlaps(
    directions: Mapping[tuple[str, str], Float[Tensor, "latent _"]],
) -> dict[str, Float[Tensor, " latent"]]:
    """Return `overlap/S/M` = ⟨d_j^S, d_j^M⟩ and `extent/S/M` = ‖d_j^S‖², both in the space of M, float64.

    Args:
        directions: Decoder rows of model S in the training space of model M, by (S, M).
    """
    rows = {key: value.double() for key, value in directions.items()}
    constants = {}
    for (side, model), values in rows.items():
        constants[f"overlap/{side}/{model}"] = (values * rows[model, model]).sum(dim=1).cpu()
        constants[f"extent/{side}/{model}"] = values.square().sum(dim=1).cpu()
    return constants


def beta_error(moments: Moments, side: str, model: str) -> Float[Tensor, "*resample latent"]:
    """Return β of the error of `model` along the direction of `side`; NaN if the latent never fires or has no direction."""
    explained = moments[f"error/{side}/{model}"] / moments["square"] + moments[f"overlap/{side}/{model}"]
    return _finite(explained / moments[f"extent/{side}/{model}"])


def beta_reconstruction(moments: Moments, side: str, model: str) -> Float[Tensor, "*resample latent"]:
    """Return β of the reconstruction of `model` along the direction of `side`; NaN if undefined."""
    return _finite(
        moments[f"reconstruction/{side}/{model}"] / (moments[f"extent/{side}/{model}"] * moments["square"])
    )


def nu_error(moments: Moments, side: str, agreement: float = 1.0) -> Float[Tensor, "*resample latent"]:
    """Return ν of the error toward `side` (intervened: is the latent new? reference: is it lost?); NaN: not estimable.

    Args:
        agreement: Cosine with which the linear map takes directions to the other model, which reduces ν by that factor.
    """
    own, other = beta_error(moments, side, side), beta_error(moments, side, _other(side))
    return ratio_toward(own, other) / agreement


def nu_reconstruction(
    moments: Moments, side: str, agreement: float = 1.0
) -> Float[Tensor, "*resample latent"]:
    """Return ν of the reconstruction toward `side`; NaN: not estimable. `agreement` as in `nu_error`."""
    own, other = beta_reconstruction(moments, side, side), beta_reconstruction(moments, side, _other(side))
    return ratio_toward(own, other) / agreement


def beta_activation(
    moments: Moments, model: str, mean_projection: str, square_norm: str
) -> Float[Tensor, "*resample latent"]:
    """Return β of a model's activations along the direction of a diff-SAE's latent, in raw units, by least squares with an intercept.

    β_M = Cov(f_j, ⟨d_j, x^M⟩) / (‖d_j‖² Var f_j). The intercept removes what a model holds along d_j on all tokens. The moments hold
    ⟨d_j, x̄^M⟩ and ‖d_j‖² under the given names. β_intervened - β_reference is near 1; their ratio shows how much the reference already
    held (the β-activation ratio of diff-SAEs, which the literature computes without an intercept).
    """
    covariance = moments[f"activation/{model}"] - moments["activation"] * moments[mean_projection]
    variance = moments["square"] - moments["activation"].square() / moments["tokens"]
    return _finite(covariance / (moments[square_norm] * variance))


def ratio_toward(
    own: Float[Tensor, "*resample latent"], other: Float[Tensor, "*resample latent"]
) -> Float[Tensor, "*resample latent"]:
    """Return other / own; NaN if `own` is below `MIN_OWN_BETA`, because not estimable does not mean absent."""
    return torch.where(own >= MIN_OWN_BETA, other / own, torch.nan)


def _finite(value: Tensor) -> Tensor:
    return torch.where(value.isfinite(), value, torch.nan)


def _other(side: str) -> str:
    reference, intervened = MODEL_NAMES
    return reference if side == intervened else intervened
