"""What a dictionary makes of some tokens, for each way of reading a pair: codes, rebuilt activations, and the products
that the statistics sum up.

    paired       a crosscoder: both models share one code
    pooled       a shared-dictionary SAE: each model has its own code
    difference   a diff-SAE: one code, of intervened - reference
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.activations import join_models, split_models
from crosscoder.dictionary import Crosscoder
from crosscoder.reading import MODEL_NAMES, Reads, present

from .firings import Firings


class Product(NamedTuple):
    """A quantity to sum over tokens: weight[t, j] · ⟨directions[j], targets[t]⟩."""

    name: str
    weights: Float[Tensor, "token latent"]
    directions: Float[Tensor, "latent d_model"]
    targets: Float[Tensor, "token d_model"]


class Codes(NamedTuple):
    """What some tokens are encoded to."""

    latents: Float[Tensor, "token latent"]
    """The code that counts as firing; for `pooled` the larger of the two models' codes."""

    per_model: tuple[Float[Tensor, "token latent"], Float[Tensor, "token latent"]] | None = None
    """The two codes of `pooled`, else None."""


@dataclass(frozen=True)
class Observation:
    """What a dictionary makes of some tokens."""

    codes: Codes

    firings: Firings
    """The firings of `codes.latents`."""

    actual: Float[Tensor, "token _"]
    """What is rebuilt, in raw units: the activations of both models, or their difference."""

    rebuilt: Float[Tensor, "token _"]
    """`actual` as the dictionary rebuilds it."""

    products: tuple[Product, ...]


class Observer:
    """Reads tokens with a trained dictionary. Made by `observer_for`."""

    reads: Reads

    def __init__(self, crosscoder: Crosscoder, d_models: tuple[int, ...]) -> None:
        self.crosscoder = crosscoder.eval()
        self.d_models = d_models
        self.n_latents = crosscoder.config.n_latents
        self.raw = tuple(part.detach() for part in crosscoder.raw_decoder())
        """Decoder rows in raw units: one tensor for each model of `paired`, else one."""

    @property
    def comparable(self) -> bool:
        """Whether there are two models with a common space, so that a difference exists."""
        return len(self.d_models) == 2 and self.d_models[0] == self.d_models[1]

    @property
    def device(self) -> torch.device:
        """Where the dictionary is."""
        return self.crosscoder.W_dec.device

    def raw_bias(self) -> Float[Tensor, " width"]:
        """What the dictionary writes when no latent fires, in raw units."""
        empty = self.crosscoder.W_dec.new_zeros(1, self.n_latents)
        with torch.no_grad():
            return self.crosscoder.denormalize(self.crosscoder.rebuild(empty))[0]

    @torch.no_grad()
    def encode(self, values: Float[Tensor, "token width"]) -> Codes:
        """Encode tokens under the inference rule; raw activations of any precision."""
        return self._encode(self._prepared(values))

    @torch.no_grad()
    def observe(self, values: Float[Tensor, "token width"]) -> Observation:
        """Encode tokens, rebuild them, and lay out the products to sum; raw activations of any precision."""
        values = self._prepared(values)
        return self._observe(values, self._encode(values))

    def contributions(
        self, codes: Codes
    ) -> tuple[Float[Tensor, "token latent"], Float[Tensor, "token latent"]]:
        """How strongly each latent writes into reference and intervened: its value times its raw decoder norm."""
        raise NotImplementedError

    def shift_directions(self) -> Float[Tensor, "latent d_model"]:
        """What one unit of a latent adds to intervened - reference, in raw units; zero for `pooled`, whose directions agree."""
        raise NotImplementedError

    def shift_bias(self) -> Float[Tensor, " d_model"]:
        """What the dictionary adds to intervened - reference when no latent fires, in raw units."""
        raise NotImplementedError

    def shift_error(self, observation: Observation) -> Float[Tensor, "token d_model"]:
        """What the dictionary leaves out of intervened - reference, in raw units."""
        error = observation.actual - observation.rebuilt
        if self.reads == "difference":
            return error
        reference, intervened = split_models(error, self.d_models)
        return intervened - reference

    def _encode(self, values: Float[Tensor, "token width"]) -> Codes:
        raise NotImplementedError

    def _observe(self, values: Float[Tensor, "token width"], codes: Codes) -> Observation:
        raise NotImplementedError

    def _prepared(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        return values.to(self.device, self.crosscoder.W_enc.dtype)

    def _rebuild(self, firings: Firings) -> Float[Tensor, "token _"]:
        """What the dictionary rebuilds from a code, normalized."""
        return firings.weighted_sum(self.crosscoder.W_dec) + self.crosscoder.b_dec


class PairedObserver(Observer):
    """A crosscoder on any number of models; comparisons are made between the first two."""

    reads: Reads = "paired"

    def __init__(self, crosscoder: Crosscoder, d_models: tuple[int, ...]) -> None:
        super().__init__(crosscoder, d_models)
        # Leads to training space from the space of the stored rows, which after folding is raw space.
        lengths = torch.tensor(d_models, device=crosscoder.score_scale.device)
        self.to_training = crosscoder.score_scale.repeat_interleave(lengths)
        self.directions = split_models(crosscoder.W_dec.detach() * self.to_training, d_models)
        """Decoder rows in training space."""

    def _encode(self, values: Float[Tensor, "token width"]) -> Codes:
        return Codes(self.crosscoder.encode(values))

    def _observe(self, values: Float[Tensor, "token width"], codes: Codes) -> Observation:
        latents = codes.latents
        firings = Firings.of(latents)
        normalized, rebuilt = self.crosscoder.normalize(values), self._rebuild(firings)
        products = (
            *self._scaling("error", latents, (normalized - rebuilt) * self.to_training),
            *self._scaling("reconstruction", latents, (rebuilt - self.crosscoder.b_dec) * self.to_training),
        )
        if self.comparable:
            reference, intervened = split_models(values, self.d_models)
            products += (Product("shift", latents, self.shift_directions(), intervened - reference),)
        return Observation(codes, firings, values, self.crosscoder.denormalize(rebuilt), products)

    def _scaling(
        self, name: str, latents: Float[Tensor, "token latent"], targets: Float[Tensor, "token width"]
    ) -> Iterator[Product]:
        """The products of latent scaling, in training space: each side's direction against each model's target."""
        if not self.comparable:
            return
        for side, rows in zip(MODEL_NAMES, self.directions, strict=True):
            for model, part in zip(MODEL_NAMES, split_models(targets, self.d_models), strict=True):
                yield Product(f"{name}/{side}/{model}", latents, rows, part)

    def contributions(
        self, codes: Codes
    ) -> tuple[Float[Tensor, "token latent"], Float[Tensor, "token latent"]]:
        """The shared code, times the norm of each model's direction."""
        return (
            codes.latents * self.raw[0].norm(dim=1),
            codes.latents * self.raw[1].norm(dim=1),
        )

    def shift_directions(self) -> Float[Tensor, "latent d_model"]:
        """d^intervened - d^reference."""
        return self.raw[1] - self.raw[0]

    def shift_bias(self) -> Float[Tensor, " d_model"]:
        """b^intervened - b^reference."""
        reference, intervened = self.raw_bias().split(list(self.d_models))
        return intervened - reference


class PooledObserver(Observer):
    """An SAE that both models share; each model's tokens are encoded alone."""

    reads: Reads = "pooled"

    def _encode(self, values: Float[Tensor, "token width"]) -> Codes:
        reference, intervened = self.crosscoder.encode(present(values, self.d_models, "pooled")).chunk(2)
        return Codes(torch.maximum(reference, intervened), (reference, intervened))

    def _observe(self, values: Float[Tensor, "token width"], codes: Codes) -> Observation:
        assert codes.per_model is not None
        reference, intervened = codes.per_model
        rebuilt = [self.crosscoder.denormalize(self._rebuild(Firings.of(code))) for code in codes.per_model]
        parts = split_models(values, self.d_models)
        # The two models' codes differ, their directions do not: a latent carries (f_intervened - f_reference) d.
        shift = Product("shift", intervened - reference, self.raw[0], parts[1] - parts[0])
        return Observation(codes, Firings.of(codes.latents), values, join_models(rebuilt), (shift,))

    def contributions(
        self, codes: Codes
    ) -> tuple[Float[Tensor, "token latent"], Float[Tensor, "token latent"]]:
        """Each model's own code, times the norm of the direction they share."""
        assert codes.per_model is not None
        reference, intervened = codes.per_model
        norm = self.raw[0].norm(dim=1)
        return reference * norm, intervened * norm

    def shift_directions(self) -> Float[Tensor, "latent d_model"]:
        """Zero: both models use one direction."""
        return torch.zeros_like(self.raw[0])

    def shift_bias(self) -> Float[Tensor, " d_model"]:
        """Zero: both models use one bias."""
        return torch.zeros_like(self.raw_bias())


class DifferenceObserver(Observer):
    """A sparse autoencoder of intervened - reference."""

    reads: Reads = "difference"

    def _encode(self, values: Float[Tensor, "token width"]) -> Codes:
        return Codes(self.crosscoder.encode(_difference(values, self.d_models)))

    def _observe(self, values: Float[Tensor, "token width"], codes: Codes) -> Observation:
        shift, firings = _difference(values, self.d_models), Firings.of(codes.latents)
        (directions,) = self.raw
        products = [Product("shift", codes.latents, directions, shift)]
        for model, part in zip(MODEL_NAMES, split_models(values, self.d_models), strict=True):
            products.append(Product(f"activation/{model}", codes.latents, directions, part))
        rebuilt = self.crosscoder.denormalize(self._rebuild(firings))
        return Observation(codes, firings, shift, rebuilt, tuple(products))

    def contributions(
        self, codes: Codes
    ) -> tuple[Float[Tensor, "token latent"], Float[Tensor, "token latent"]]:
        """Nothing for the reference, and for the intervened model what the latent adds on top of it."""
        return torch.zeros_like(codes.latents), codes.latents * self.raw[0].norm(dim=1)

    def shift_directions(self) -> Float[Tensor, "latent d_model"]:
        """The direction itself."""
        return self.raw[0]

    def shift_bias(self) -> Float[Tensor, " d_model"]:
        """The bias itself."""
        return self.raw_bias()


def observer_for(crosscoder: Crosscoder, d_models: tuple[int, ...], reads: Reads) -> Observer:
    """The observer for a way of reading a pair with models of widths `d_models`."""
    match reads:
        case "paired":
            return PairedObserver(crosscoder, d_models)
        case "pooled":
            return PooledObserver(crosscoder, d_models)
        case "difference":
            return DifferenceObserver(crosscoder, d_models)
        case _:
            assert_never(reads)


def _difference(
    values: Float[Tensor, "token width"], d_models: tuple[int, ...]
) -> Float[Tensor, "token d_model"]:
    """Like `reading.present`, in the precision of `values`."""
    reference, intervened = split_models(values, d_models)
    return intervened - reference
