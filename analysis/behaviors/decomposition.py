"""Where a shift comes from: what stands at the hookpoint, latent by latent, and what is done above it.

    total       = M_B(h_B) - M_A(h_A) = represented + above
    represented = 1/2 {[M_B(h_B) - M_B(h_A)] + [M_A(h_B) - M_A(h_A)]}
    above       = 1/2 {[M_B(h_A) - M_A(h_A)] + [M_B(h_B) - M_A(h_B)]}

M_m(h): the layers of model m above the hookpoint, run from activations h. Each part is the mean of its two differences, which
is the Shapley value of a game of two players, activations and layers (Shapley 1953): exact, and of opposite sign when the models are
exchanged. How far the two differences of a part lie apart is the interaction. Where activations are read below what an attention layer
still sees of a context, `above` is everything that does not pass through the hookpoint.

    attribution_j = Σ_t w_jt ⟨ḡ_t, d_j⟩,   ḡ = 1/2 Σ_m ∫ ∂M_m/∂h (h_A + α (h_B - h_A)) dα

Integrated gradients (Sundararajan et al. 2017) on the straight path, with h_B - h_A taken apart as in `change`: attributions of latents,
bias, error and the tokens that are left out add up to `represented`, but for the error of the integration, which is reported.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm.auto import tqdm

from crosscoder.behavior import AttributionSettings

from .measurement import LogitMeasurement, Measurement
from .runs import INTERVENED, REFERENCE, Run, unchanged

_FIRST_STEPS = 4
REST = ("bias", "error", "left_out")


@dataclass(frozen=True)
class Corners:
    """M of either model, run from the activations of either, prompt by prompt."""

    reference: Float64[np.ndarray, " prompt"]
    intervened: Float64[np.ndarray, " prompt"]

    intervened_from_reference: Float64[np.ndarray, " prompt"]
    """The intervened model's layers above, from the reference's activations."""

    reference_from_intervened: Float64[np.ndarray, " prompt"]

    @property
    def total(self) -> Float64[np.ndarray, " prompt"]:
        """The shift."""
        return self.intervened - self.reference

    @property
    def represented(self) -> Float64[np.ndarray, " prompt"]:
        """What stands at the hookpoint."""
        above_intervened = self.intervened - self.intervened_from_reference
        return (above_intervened + self.reference_from_intervened - self.reference) / 2

    @property
    def above(self) -> Float64[np.ndarray, " prompt"]:
        """What is done by the layers above."""
        return self.total - self.represented

    @property
    def interaction(self) -> Float64[np.ndarray, " prompt"]:
        """How much more activations do in the intervened model's layers than in the reference's."""
        in_intervened = self.intervened - self.intervened_from_reference
        return in_intervened - (self.reference_from_intervened - self.reference)


def measure_corners(measurement: Measurement) -> Corners:
    """All four."""
    return Corners(
        measurement.values(unchanged(REFERENCE)),
        measurement.values(unchanged(INTERVENED)),
        measurement.values(Run(INTERVENED, REFERENCE)),
        measurement.values(Run(REFERENCE, INTERVENED)),
    )


@dataclass(frozen=True)
class Attribution:
    """The represented part of a shift, taken apart."""

    latents: Float64[np.ndarray, "prompt latent"]
    rest: dict[str, Float64[np.ndarray, " prompt"]]
    """Of bias, error, and the tokens that the dictionary does not read."""

    steps: int
    """Points of the path at which gradients were taken, in each model."""

    residual: Float64[np.ndarray, " prompt"]
    """Represented minus the sum of all attributions: the error of the integration."""

    places: "Places"

    @property
    def mean(self) -> Float64[np.ndarray, " latent"]:
        """Mean over prompts."""
        return self.latents.mean(axis=0)


@dataclass
class Places:
    """Attributions token by token: one entry a firing."""

    prompt: list[np.ndarray] = field(default_factory=list)
    row: list[np.ndarray] = field(default_factory=list)
    """Row of the pass: several belong to a prompt where there are several continuations."""
    position: list[np.ndarray] = field(default_factory=list)
    token_id: list[np.ndarray] = field(default_factory=list)
    latent: list[np.ndarray] = field(default_factory=list)
    weight: list[np.ndarray] = field(default_factory=list)
    value: list[np.ndarray] = field(default_factory=list)


class Integration:
    """Mean gradients along the path, refined by threes: the middles of n equal steps are among those of 3 n."""

    def __init__(self, measurement: LogitMeasurement) -> None:
        self._measurement = measurement
        self._sums: list[Tensor] = []
        self.steps = 0

    def refine(self, steps: int) -> None:
        """Take gradients at the middles of `steps` equal steps; those that are there already are kept."""
        new = range(steps) if steps != 3 * self.steps else [i for i in range(steps) if i % 3 != 1]
        if steps != 3 * self.steps:
            self._sums = []
        for index in range(len(self._measurement.reading.batches)):
            found = self._summed(index, [(place + 0.5) / steps for place in new])
            if index < len(self._sums):
                self._sums[index] += found
            else:
                self._sums.append(found)
        self.steps = steps

    def mean(self, index: int) -> Float[Tensor, "row token d_model"]:
        """ḡ of one batch."""
        return self._sums[index] / (2 * self.steps)

    def _summed(self, index: int, alphas: list[float]) -> Float[Tensor, "row token d_model"]:
        measurement = self._measurement
        start, end = (side.float() for side in measurement.reading.activations(index)[:2])
        total = torch.zeros_like(start)
        for alpha in alphas:
            for model in (REFERENCE, INTERVENED):
                total += measurement.gradient(index, model, start + alpha * (end - start))
        return total


def attribute(
    measurement: LogitMeasurement, corners: Corners, settings: AttributionSettings, n_latents: int
) -> Attribution:
    """Attributions of all prompts, with as many steps as the settings ask for or the residual needs."""
    represented = corners.represented
    integration = Integration(measurement)
    bound = settings.residual * abs(float(corners.total.mean()))
    steps = settings.steps or _FIRST_STEPS
    with tqdm(desc="attribute", unit=" steps") as bar:
        while True:
            integration.refine(steps)
            bar.update(steps - bar.n)
            found = _attributed(measurement, integration, represented, n_latents)
            missed = abs(float(found.residual.mean()))
            if settings.steps or missed < bound or 3 * steps > settings.max_steps:
                return found
            steps *= 3


def _attributed(
    measurement: LogitMeasurement,
    integration: Integration,
    represented: Float64[np.ndarray, " prompt"],
    n_latents: int,
) -> Attribution:
    latents = np.zeros((measurement.n_prompts, n_latents))
    rest = {name: np.zeros(measurement.n_prompts) for name in REST}
    places = Places()
    for index, batch in enumerate(measurement.reading.batches):
        change = measurement.reading.change(index)
        products, others = change.attributed(integration.mean(index))
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
            (places.prompt, prompt),
            (places.row, row[token]),
            (places.position, position[token]),
            (places.token_id, at_token[token]),
            (places.latent, latent),
            (places.weight, weights.value.numpy()),
            (places.value, products.value.numpy()),
        ):
            column.append(values)
    residual = represented - latents.sum(axis=1) - sum(rest.values())
    return Attribution(latents, rest, integration.steps, residual, places)
