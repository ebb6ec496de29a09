"""Attribution of a shift to the latents at the hookpoint and to the layers above it.

    total       = M_B(h_B) - M_A(h_A) = represented + above
    represented = 1/2 {[M_B(h_B) - M_B(h_A)] + [M_A(h_B) - M_A(h_A)]}
    above       = 1/2 {[M_B(h_A) - M_A(h_A)] + [M_B(h_B) - M_A(h_B)]}

M_m(h) is the metric of model m, run forward from the hookpoint with activations h. Each part is the mean of its two differences: the
Shapley value of a game with two players, activations and layers (Shapley 1953). It is exact and changes sign when the models are
exchanged. The interaction is the difference between the two differences of a part. If the intervention is a context that layers above
the hookpoint attend to directly, `above` includes everything that does not pass through the hookpoint.

    attribution_j = Σ_t w_jt ⟨ḡ_t, d_j⟩,   ḡ = 1/2 Σ_m ∫ ∂M_m/∂h (h_A + α (h_B - h_A)) dα

Integrated gradients (Sundararajan et al. 2017) along the straight path, with h_B - h_A decomposed as in `change_decomposition`. The
attributions of latents, bias, error and the tokens left out add up to `represented`, up to the integration error, which is reported.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from crosscoder.config.behavior import AttributionSettings

from .integration import Gradient, Integration, refine_until_complete
from .measurement import LogitMeasurement, Measurement
from .patching import INTERVENED, REFERENCE, PatchedRun, unchanged

REST = ("bias", "error", "left_out")


@dataclass(frozen=True)
class PatchingCorners:
    """The metric of each model run from the activations of each, for every prompt."""

    reference: Float64[np.ndarray, " prompt"]
    intervened: Float64[np.ndarray, " prompt"]

    intervened_from_reference: Float64[np.ndarray, " prompt"]
    """The intervened model's upper layers run from the reference's activations."""

    reference_from_intervened: Float64[np.ndarray, " prompt"]

    @property
    def total(self) -> Float64[np.ndarray, " prompt"]:
        """The shift."""
        return self.intervened - self.reference

    @property
    def represented(self) -> Float64[np.ndarray, " prompt"]:
        """The part of the shift that is represented at the hookpoint."""
        above_intervened = self.intervened - self.intervened_from_reference
        return (above_intervened + self.reference_from_intervened - self.reference) / 2

    @property
    def above(self) -> Float64[np.ndarray, " prompt"]:
        """The part of the shift from the layers above the hookpoint."""
        return self.total - self.represented

    @property
    def interaction(self) -> Float64[np.ndarray, " prompt"]:
        """The effect of the activations in the intervened model's layers minus that in the reference's."""
        in_intervened = self.intervened - self.intervened_from_reference
        return in_intervened - (self.reference_from_intervened - self.reference)


def measure_corners(measurement: Measurement) -> PatchingCorners:
    """Measure the four combinations."""
    return PatchingCorners(
        measurement.values(unchanged(REFERENCE)),
        measurement.values(unchanged(INTERVENED)),
        measurement.values(PatchedRun(INTERVENED, REFERENCE)),
        measurement.values(PatchedRun(REFERENCE, INTERVENED)),
    )


@dataclass(frozen=True)
class Attribution:
    """Decomposition of the represented part of a shift."""

    latents: Float64[np.ndarray, "prompt latent"]
    rest: dict[str, Float64[np.ndarray, " prompt"]]
    """Attributions of the bias, the error, and the tokens that the dictionary does not read."""

    steps: int
    """Number of integration points in each model."""

    residual: Float64[np.ndarray, " prompt"]
    """Represented minus the sum of all attributions: the integration error."""

    tokens: "TokenAttributions"

    gradients: list[Float[Tensor, "_ _ d_model"]]
    """ḡ of every batch. It does not depend on the dictionary: with it, another dictionary's attributions cost no backward pass."""

    @property
    def mean(self) -> Float64[np.ndarray, " latent"]:
        """The mean over prompts."""
        return self.latents.mean(axis=0)


@dataclass
class TokenAttributions:
    """Attributions at single tokens: one entry per firing."""

    prompt: list[np.ndarray] = field(default_factory=list)
    row: list[np.ndarray] = field(default_factory=list)
    """Row of the forward pass; a prompt with several continuations has several rows."""
    position: list[np.ndarray] = field(default_factory=list)
    token_id: list[np.ndarray] = field(default_factory=list)
    latent: list[np.ndarray] = field(default_factory=list)
    weight: list[np.ndarray] = field(default_factory=list)
    value: list[np.ndarray] = field(default_factory=list)


def path_gradients(measurement: LogitMeasurement) -> Integration:
    """Return the gradients of both models along the path from the reference's activations to the intervened model's."""

    def gradient_of(model: int) -> Gradient:
        def gradient(index: int, alpha: float) -> Float[Tensor, "row token d_model"]:
            start, end = (side.float() for side in measurement.activations.of_batch(index)[:2])
            return measurement.gradient(index, model, start + alpha * (end - start))

        return gradient

    return Integration(
        len(measurement.activations.batches), [gradient_of(REFERENCE), gradient_of(INTERVENED)]
    )


def attribute(
    measurement: LogitMeasurement, corners: PatchingCorners, settings: AttributionSettings, n_latents: int
) -> Attribution:
    """Return the attributions of all prompts, with as many steps as set or as a small residual needs."""
    represented, integration = corners.represented, path_gradients(measurement)

    def attribute_with(steps: int) -> Attribution:
        integration.refine(steps)
        gradients = [integration.mean(index) for index in range(len(measurement.activations.batches))]
        return attribute_along(measurement, gradients, steps, represented, n_latents)

    return refine_until_complete(attribute_with, settings, corners.total)


def attribute_along(
    measurement: LogitMeasurement,
    gradients: list[Float[Tensor, "_ _ d_model"]],
    steps: int,
    represented: Float64[np.ndarray, " prompt"],
    n_latents: int,
) -> Attribution:
    """Return the attributions for given mean gradients, one per batch, made of `steps` points in each model."""
    latents = np.zeros((measurement.n_prompts, n_latents))
    rest = {name: np.zeros(measurement.n_prompts) for name in REST}
    tokens = TokenAttributions()
    for index, batch in enumerate(measurement.activations.batches):
        change = measurement.activations.change(index)
        products, others = change.attributions(gradients[index])
        products, weights = products.cpu(), change.weights.cpu()
        row, position = (place.numpy() for place in batch.kept.nonzero(as_tuple=True))
        prompt_of_row = batch.prompts[batch.place.numpy()]
        token, latent = products.token.numpy(), products.latent.numpy()
        prompt = prompt_of_row[row[token]]
        np.add.at(latents, (prompt, latent), products.value.double().numpy())
        for name, values in others.items():
            np.add.at(rest[name], prompt_of_row, values.double().cpu().numpy())
        at_token = batch.token_ids.numpy()[row, position]
        for column, values in (
            (tokens.prompt, prompt),
            (tokens.row, row[token]),
            (tokens.position, position[token]),
            (tokens.token_id, at_token[token]),
            (tokens.latent, latent),
            (tokens.weight, weights.value.numpy()),
            (tokens.value, products.value.numpy()),
        ):
            column.append(values)
    residual = represented - latents.sum(axis=1) - sum(rest.values())
    return Attribution(latents, rest, steps, residual, tokens, gradients)
