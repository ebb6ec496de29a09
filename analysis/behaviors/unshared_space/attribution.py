"""Attribution of a shift between two models that share no space: each model's behavior is attributed along its own directions.

    total       = M_B(h_B) - M_A(h_A) = Σ_j (a_j^B - a_j^A) + error + left out + baseline + residual
    a_j^m       = Σ_t (f_tj - f̄_j) ⟨ḡ_t^m, d_j^m⟩,   ḡ^m = ∫ ∂M_m/∂h (mean_m + α (h_m - mean_m)) dα
    baseline    = M_B(mean_B) - M_A(mean_A)

Activations of one model cannot be patched into the other, so the shift cannot be split into a part represented at the hookpoint and a
part from the layers above. Instead, each model's behavior is attributed by integrated gradients (Sundararajan et al. 2017) along the
straight path from its mean activation, with h - mean decomposed as in `activations`. A latent's share is the difference between its
attributions in the two models. All parts add up to the shift, up to the integration error, which is reported, and all change sign when
the models are exchanged.
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
    """Attribution of one model's behavior relative to its mean activation."""

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
        """The integration error: the effect minus the sum of all attributions."""
        return self.effect - self.latents.sum(axis=1) - self.error - self.left_out


@dataclass(frozen=True)
class AttributionDifference:
    """Attribution of the shift between two models."""

    reference: ModelAttribution
    intervened: ModelAttribution
    steps: int
    """Number of integration points on each path."""

    def difference(self, part: Callable[[ModelAttribution], Values]) -> Values:
        """Return a part of the intervened model's behavior minus the same part of the reference's."""
        return part(self.intervened) - part(self.reference)

    @property
    def total(self) -> Values:
        """The shift."""
        return self.difference(lambda side: side.value)

    @property
    def latents(self) -> Float64[np.ndarray, "prompt latent"]:
        """The attribution of the shift to each latent."""
        return self.intervened.latents - self.reference.latents

    @property
    def residual(self) -> Values:
        """The integration error of the shift."""
        return self.difference(lambda side: side.residual)

    @property
    def direction(self) -> float:
        """Sign of the shift."""
        return float(np.sign(self.total.mean()))


def attribute_unshared(
    activations: PerModelActivations, settings: AttributionSettings
) -> AttributionDifference:
    """Return the attributions in both models, with as many steps as set or as a small residual needs."""
    ends = [
        (
            activations.values_from(model, _point_on_path(activations, model, 1.0)),
            activations.values_from(model, _point_on_path(activations, model, 0.0)),
        )
        for model in _MODELS
    ]
    integrations = [_path_gradients(activations, model) for model in _MODELS]

    def attribute_with(steps: int) -> AttributionDifference:
        for integration in integrations:
            integration.refine(steps)
        sides = [_attributed(activations, model, *ends[model], integrations[model]) for model in _MODELS]
        return AttributionDifference(sides[REFERENCE], sides[INTERVENED], steps)

    return refine_until_complete(attribute_with, settings, ends[INTERVENED][0] - ends[REFERENCE][0])


def _path_gradients(activations: PerModelActivations, model: int) -> Integration:
    """Return the gradients of a model along the path from its mean activation to its activations."""
    return Integration(
        len(activations.batches),
        [
            lambda index, alpha: activations.gradient(
                model, index, _point_on_path(activations, model, alpha)(index)
            )
        ],
    )


def _point_on_path(activations: PerModelActivations, model: int, alpha: float) -> Start:
    """Return the point at `alpha` of the path: 0 is the mean activation, 1 the model's activations."""

    def start(index: int) -> Float[Tensor, "row token d_model"]:
        end = activations.batches[index][model].activations.float()
        return end - (1 - alpha) * activations.moved(model, index)

    return start


def _attributed(
    activations: PerModelActivations, model: int, value: Values, baseline: Values, integration: Integration
) -> ModelAttribution:
    n_prompts, n_latents = activations.n_prompts, activations.view.n_latents
    latents = np.zeros((n_prompts, n_latents))
    error, left_out = np.zeros(n_prompts), np.zeros(n_prompts)
    for index in range(len(activations.batches)):
        model_batch, codes = activations.batches[index][model], activations.codes[index]
        gradient = integration.mean(index)
        device = codes.latent.device
        moved, read = (
            (gradient * activations.moved(model, index)).sum(dim=2),
            model_batch.read.to(gradient.device),
        )
        prompt = torch.from_numpy(model_batch.batch.prompts[model_batch.batch.place.numpy()])
        prompt_of_read = prompt[model_batch.read.nonzero()[:, 0]].to(device)
        inner = gradient[read].to(device)
        directions = activations.view.raw[model]
        # f̄_j is subtracted at every token, whether the latent fires there or not.
        summed = torch.zeros(n_prompts, inner.shape[1], device=device).index_add_(0, prompt_of_read, inner)
        batch_latents = -(summed @ directions.T) * activations.baseline.codes
        products = codes.value * codes.products(directions, inner)
        batch_latents.index_put_((prompt_of_read[codes.token], codes.latent), products, accumulate=True)
        latents += batch_latents.double().cpu().numpy()
        on_read = torch.zeros(n_prompts, dtype=torch.float64).index_add_(
            0, prompt_of_read.cpu(), moved[read].double().cpu()
        )
        error += on_read.numpy() - batch_latents.double().sum(dim=1).cpu().numpy()
        outside = (moved * ~read).sum(dim=1).double().cpu()
        left_out += torch.zeros(n_prompts, dtype=torch.float64).index_add_(0, prompt, outside).numpy()
    return ModelAttribution(value, baseline, latents, error, left_out)
