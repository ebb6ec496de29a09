"""Latent scaling: how much of a latent's concept each model holds, though the dictionary may have missed it there.

Minder, Dumas, Juang, Chughtai and Nanda 2025 (arXiv 2504.02922), section 3. Take latent j and its direction d = d_j^S in
model S, the side it leans to. For each model M and target y,

    β_M(y) = argmin_β Σ_t ‖y_t - β f_jt d‖² = Σ_t f_jt ⟨d, y_t⟩ / (‖d‖² Σ_t f_jt²)

    error           y = e^M + f_j d_j^M      what is left of x^M when the other latents have written
    reconstruction  y = x̂^M - b^M            what all latents write, the bias left out

    ν = β_other / β_S

ν of the error near 1: the other model holds the concept in its residual (complete shrinkage). ν of the reconstruction
near 1: other latents already write it there (latent decoupling). Both near 0: the concept is absent from the other model.
All in training space; all latents from the same few sums, because Σ f⟨d, e^M + f d^M⟩ = Σ f⟨d, e^M⟩ + ⟨d, d^M⟩ Σ f².

Where the models share no space, d is looked for in the other one where a linear map between their activations takes it
(`crosscoder.activations.linear_map`), as long in training space as it is in its own, and ν is divided by the cosine with which the map carries over the
directions that both models have.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.config.model_names import MODEL_NAMES

# Below this the latent's own side hardly holds the concept along its own direction, and the ratio says nothing.
SMALLEST_OWN = 0.1

Moments = Mapping[str, Tensor]
"""Sums `[*resample, latent]` under the names of `Statistics.sums`, totals `[*resample, 1]` under those of
`Statistics.totals`, and constants `[latent]` such as `overlap/S/M`."""


def overlaps(
    directions: Mapping[tuple[str, str], Float[Tensor, "latent _"]],
) -> dict[str, Float[Tensor, " latent"]]:
    """`overlap/S/M` = ⟨d_j^S, d_j^M⟩ and `extent/S/M` = ‖d_j^S‖², both in the space of M, float64.

    Args:
        directions: Decoder rows of side S as they are in the training space of model M, by (S, M).
    """
    rows = {key: value.double() for key, value in directions.items()}
    constants = {}
    for (side, model), values in rows.items():
        constants[f"overlap/{side}/{model}"] = (values * rows[model, model]).sum(dim=1).cpu()
        constants[f"extent/{side}/{model}"] = values.square().sum(dim=1).cpu()
    return constants


def beta_error(moments: Moments, side: str, model: str) -> Float[Tensor, "*resample latent"]:
    """β of the error of `model` along the direction of `side`; NaN where the latent does not fire or has no direction."""
    explained = moments[f"error/{side}/{model}"] / moments["square"] + moments[f"overlap/{side}/{model}"]
    return _finite(explained / moments[f"extent/{side}/{model}"])


def beta_reconstruction(moments: Moments, side: str, model: str) -> Float[Tensor, "*resample latent"]:
    """β of the reconstruction of `model` along the direction of `side`; NaN where it is not defined."""
    return _finite(
        moments[f"reconstruction/{side}/{model}"] / (moments[f"extent/{side}/{model}"] * moments["square"])
    )


def nu_error(moments: Moments, side: str, agreement: float = 1.0) -> Float[Tensor, "*resample latent"]:
    """ν of the error toward `side` (intervened: is the latent new? reference: is it lost?); NaN = not estimable.

    Args:
        agreement: Cosine with which directions are carried into the other model: a concept that it holds is seen by that much less.
    """
    own, other = beta_error(moments, side, side), beta_error(moments, side, _other(side))
    return ratio_toward(own, other) / agreement


def nu_reconstruction(
    moments: Moments, side: str, agreement: float = 1.0
) -> Float[Tensor, "*resample latent"]:
    """ν of the reconstruction toward `side`; NaN = not estimable. `agreement` as in `nu_error`."""
    own, other = beta_reconstruction(moments, side, side), beta_reconstruction(moments, side, _other(side))
    return ratio_toward(own, other) / agreement


def beta_activation(
    moments: Moments, model: str, mean_projection: str, square_norm: str
) -> Float[Tensor, "*resample latent"]:
    """β of a model's activations on the direction of a diff-SAE's latent, in raw units, by least squares with an intercept.

    β_M = Cov(f_j, ⟨d_j, x^M⟩) / (‖d_j‖² Var f_j). The intercept keeps what a model holds along d_j on all tokens alike out
    of it. The moments hold ⟨d_j, x̄^M⟩ and ‖d_j‖² under the names given. β_intervened - β_reference is near 1; the ratio
    of the two tells what was there before (the β-activation ratio of diff-SAEs, without intercept in the literature).
    """
    covariance = moments[f"activation/{model}"] - moments["activation"] * moments[mean_projection]
    variance = moments["square"] - moments["activation"].square() / moments["tokens"]
    return _finite(covariance / (moments[square_norm] * variance))


def ratio_toward(
    own: Float[Tensor, "*resample latent"], other: Float[Tensor, "*resample latent"]
) -> Float[Tensor, "*resample latent"]:
    """other / own, or NaN where `own` is below `SMALLEST_OWN`: not estimable is never the same as absent."""
    return torch.where(own >= SMALLEST_OWN, other / own, torch.nan)


def _finite(value: Tensor) -> Tensor:
    return torch.where(value.isfinite(), value, torch.nan)


def _other(side: str) -> str:
    reference, intervened = MODEL_NAMES
    return reference if side == intervened else intervened
