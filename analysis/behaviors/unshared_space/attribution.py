"""Where a shift between two models that share no space comes from: what each model makes of the behavior, taken apart in itself.

    total       = M_B(h_B) - M_A(h_A) = Σ_j (a_j^B - a_j^A) + error + left out + baseline + residual
    a_j^m       = Σ_t (f_tj - f̄_j) ⟨ḡ_t^m, d_j^m⟩,   ḡ^m = ∫ ∂M_m/∂h (mean_m + α (h_m - mean_m)) dα
    baseline    = M_B(mean_B) - M_A(mean_A)

Activations of one model cannot stand in the other, so no part can be said to be represented at the hookpoint rather than done above
it. Instead each model's behavior is attributed by integrated gradients (Sundararajan et al. 2017) on the straight path from its mean
activation, with h - mean taken apart as in `own_reading`; a latent's share is the difference of what it does in the two. All parts
add up to the shift, but for the error of the integration, which is reported, and all change their sign when the models are exchanged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from crosscoder.config.behavior import AttributionSettings

from ..integration import Integration, refine_until_complete
from ..patched_metrics import Start
from ..patching import INTERVENED, REFERENCE
from ..prompt_statistics import Values
from .activations import PerModelActivations

_MODELS = (REFERENCE, INTERVENED)


@dataclass(frozen=True)
class ModelAttribution:
    """What one model makes of a behavior, above its mean activation."""

    value: Values
    """M(h)."""

    baseline: Values
    """M(mean)."""

    latents: Float64[np.ndarray, "prompt latent"]
    error: Values
    left_out: Values

    @property
    def effect(self) -> Values:
        """M(h) - M(mean)."""
        return self.value - self.baseline

    @property
    def residual(self) -> Values:
        """What the attributions miss: the error of the integration."""
        return self.effect - self.latents.sum(axis=1) - self.error - self.left_out


@dataclass(frozen=True)
class AttributionDifference:
    """The shift between two models, taken apart."""

    reference: ModelAttribution
    intervened: ModelAttribution
    steps: int
    """Points of each path at which gradients were taken."""

    def difference(self, part: Callable[[ModelAttribution], Values]) -> Values:
        """A part of the intervened model's behavior minus the same of the reference's."""
        return part(self.intervened) - part(self.reference)

    @property
    def total(self) -> Values:
        """The shift."""
        return self.difference(lambda side: side.value)

    @property
    def latents(self) -> Float64[np.ndarray, "prompt latent"]:
        """Of each latent."""
        return self.intervened.latents - self.reference.latents

    @property
    def residual(self) -> Values:
        """What the attributions miss of the shift."""
        return self.difference(lambda side: side.residual)

    @property
    def direction(self) -> float:
        """Sign of the shift."""
        return float(np.sign(self.total.mean()))


def attribute_unshared(
    activations: PerModelActivations, settings: AttributionSettings
) -> AttributionDifference:
    """Attributions in both models, with as many steps as the settings ask for or the residual needs."""
    ends = [
        (
            activations.values_from(model, _from(activations, model, 1.0)),
            activations.values_from(model, _from(activations, model, 0.0)),
        )
        for model in _MODELS
    ]
    integrations = [_path_gradients(activations, model) for model in _MODELS]

    def attributed(steps: int) -> AttributionDifference:
        for integration in integrations:
            integration.refine(steps)
        sides = [_attributed(activations, model, *ends[model], integrations[model]) for model in _MODELS]
        return AttributionDifference(sides[REFERENCE], sides[INTERVENED], steps)

    return refine_until_complete(attributed, settings, ends[INTERVENED][0] - ends[REFERENCE][0])


def _path_gradients(activations: PerModelActivations, model: int) -> Integration:
    """Gradients of a model from its mean activation to its own."""
    return Integration(
        len(activations.batches),
        [lambda index, alpha: activations.gradient(model, index, _from(activations, model, alpha)(index))],
    )


def _from(activations: PerModelActivations, model: int, alpha: float) -> Start:
    """A point on the path: 0 is the mean activation, 1 the model's own."""

    def start(index: int) -> Float[Tensor, "row token d_model"]:
        own = activations.batches[index][model].activations.float()
        return own - (1 - alpha) * activations.moved(model, index)

    return start


def _attributed(
    activations: PerModelActivations, model: int, value: Values, baseline: Values, integration: Integration
) -> ModelAttribution:
    n_prompts, n_latents = activations.n_prompts, activations.view.n_latents
    latents = np.zeros((n_prompts, n_latents))
    error, left_out = np.zeros(n_prompts), np.zeros(n_prompts)
    for index in range(len(activations.batches)):
        own, codes = activations.batches[index][model], activations.codes[index]
        gradient = integration.mean(index)
        device = codes.latent.device
        moved, read = (gradient * activations.moved(model, index)).sum(dim=2), own.read.to(gradient.device)
        prompt = torch.from_numpy(own.batch.prompts[own.batch.place.numpy()])
        of_read = prompt[own.read.nonzero()[:, 0]].to(device)
        inner = gradient[read].to(device)
        directions = activations.view.raw[model]
        # f̄_j stands on every token, whether the latent fires there or not.
        summed = torch.zeros(n_prompts, inner.shape[1], device=device).index_add_(0, of_read, inner)
        own_latents = -(summed @ directions.T) * activations.baseline.codes
        products = codes.value * codes.products(directions, inner)
        own_latents.index_put_((of_read[codes.token], codes.latent), products, accumulate=True)
        latents += own_latents.double().cpu().numpy()
        on_read = torch.zeros(n_prompts, dtype=torch.float64).index_add_(
            0, of_read.cpu(), moved[read].double().cpu()
        )
        error += on_read.numpy() - own_latents.double().sum(dim=1).cpu().numpy()
        outside = (moved * ~read).sum(dim=1).double().cpu()
        left_out += torch.zeros(n_prompts, dtype=torch.float64).index_add_(0, prompt, outside).numpy()
    return ModelAttribution(value, baseline, latents, error, left_out)
