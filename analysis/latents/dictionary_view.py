"""What a dictionary computes for a batch of tokens, for each view of a pair: codes, reconstructions, and the products that the
statistics sum.

    paired       a crosscoder: both models share one code
    pooled       a shared-dictionary SAE: each model has its own code
    difference   a diff-SAE: one code, of intervened - reference
"""

from collections.abc import Iterator
from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from crosscoder.activations.batch import have_difference, join_models, split_models
from crosscoder.activations.linear_map import LinearMap
from crosscoder.config.model_names import MODEL_NAMES
from crosscoder.config.pair import MIN_MAP_COSINE
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.sparse_latents import SparseLatents
from crosscoder.dictionary.views import View, view_rows
from crosscoder.run.folder import RunFolder

from .geometry import Geometry
from .observation import Codes, Observation, Product


class DictionaryView:
    """Reads tokens with a trained dictionary. Create one with `view_of`."""

    reads: View
    linear_map: LinearMap | None = None
    """Connects models that share no space; None if they share one, or no map is good enough."""

    agreement: float = 1.0
    """Median cosine with which the linear map takes the directions that both models have from one to the other; 1 without a map."""

    def __init__(self, crosscoder: Crosscoder, d_models: tuple[int, ...]) -> None:
        self.crosscoder = crosscoder.eval()
        self.d_models = d_models
        self.n_latents = crosscoder.config.n_latents
        self.raw = tuple(part.detach() for part in crosscoder.raw_decoder())
        """Decoder rows in raw units: one tensor per model for `paired`, otherwise one tensor."""

    @property
    def comparable(self) -> bool:
        """Whether the models have the same width, so that their difference exists."""
        return have_difference(self.d_models)

    @property
    def aligned(self) -> bool:
        """Whether directions of the two models can be compared: they share a space, or a linear map connects them."""
        return self.comparable or self.linear_map is not None

    @property
    def device(self) -> torch.device:
        """Device of the dictionary."""
        return self.crosscoder.W_dec.device

    def raw_bias(self) -> Float[Tensor, " width"]:
        """Return what the dictionary writes when no latent fires, in raw units."""
        return self.crosscoder.denormalize(self.crosscoder.b_dec.detach()[None])[0]

    @torch.no_grad()
    def encode(self, values: Float[Tensor, "token width"]) -> Codes:
        """Encode tokens as at inference; takes raw activations of any precision."""
        return self._encode(self._to_dictionary(values))

    @torch.no_grad()
    def observe(self, values: Float[Tensor, "token width"]) -> Observation:
        """Encode and reconstruct tokens, and return the products to sum; takes raw activations of any precision."""
        values = self._to_dictionary(values)
        return self._observe(values, self._encode(values))

    def contributions(self, codes: Codes) -> tuple[SparseLatents, SparseLatents]:
        """Return how strongly each latent writes into each model: its value times its raw decoder norm."""
        raise NotImplementedError

    def shift_directions(self) -> Float[Tensor, "latent d_model"]:
        """Return what one unit of a latent adds to intervened - reference, in raw units; 0 for `pooled`, which has one direction."""
        raise NotImplementedError

    def shift_bias(self) -> Float[Tensor, " d_model"]:
        """Return what the dictionary adds to intervened - reference when no latent fires, in raw units."""
        raise NotImplementedError

    def weighted_shift_directions(self) -> Float[Tensor, "latent d_model"]:
        """Return what a latent adds to intervened - reference per unit of `Observation.weights`, in raw units."""
        return self.shift_directions()

    def rebuilt_sides(
        self, observation: Observation, reference: Float[Tensor, "token d_model"]
    ) -> tuple[Float[Tensor, "token d_model"], Float[Tensor, "token d_model"]]:
        """Return the reconstructions of both models; a diff-SAE adds its reconstruction to `reference`."""
        if self.reads == "difference":
            return reference, reference + observation.rebuilt
        one, other, *_ = split_models(observation.rebuilt, self.d_models)
        return one, other

    def shift_of(self, rows: Float[Tensor, "token _"]) -> Float[Tensor, "token d_model"]:
        """Return intervened - reference of rows like `Observation.actual`."""
        if self.reads == "difference":
            return rows
        return _difference(rows, self.d_models)

    def _encode(self, values: Float[Tensor, "token width"]) -> Codes:
        raise NotImplementedError

    def _observe(self, values: Float[Tensor, "token width"], codes: Codes) -> Observation:
        raise NotImplementedError

    def _to_dictionary(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        return values.to(self.device, self.crosscoder.W_enc.dtype)


class PairedView(DictionaryView):
    """A crosscoder on any number of models; comparisons are between the first two."""

    reads: View = "paired"

    def __init__(
        self, crosscoder: Crosscoder, d_models: tuple[int, ...], linear_map: LinearMap | None = None
    ) -> None:
        super().__init__(crosscoder, d_models)
        agreement = 1.0 if linear_map is None else Geometry.of(crosscoder, linear_map).agreement()
        # Not estimable counts as too little: comparisons with NaN are false.
        self.linear_map = linear_map if agreement >= MIN_MAP_COSINE else None
        self.agreement = agreement
        # Scales stored rows to training space; after folding, stored rows are in raw space.
        scales = crosscoder.score_scale.tolist()
        stored = split_models(crosscoder.W_dec.detach(), d_models)
        self.directions = tuple(rows * scale for rows, scale in zip(stored, scales, strict=True))
        """Decoder rows in training space."""
        self._to_training = scales
        # In training space the mean squared length of a model's activations is its width.
        normalization = (crosscoder.scale * crosscoder.score_scale).tolist()
        self._mean_squared_length = sum(
            d_model / scale**2 for d_model, scale in zip(d_models[:2], normalization, strict=False)
        )
        self.directions_in = self._side_directions() if self.aligned else {}
        """Decoder rows of each side in the training space of each model, by (side, model); empty if the models cannot be compared."""
        self._shift_directions = self.raw[1] - self.raw[0] if self.comparable else None
        self._unmapped_directions = self._unmapped_rows()

    def _encode(self, values: Float[Tensor, "token width"]) -> Codes:
        return Codes(self.crosscoder.encode_sparse(values))

    def _observe(self, values: Float[Tensor, "token width"], codes: Codes) -> Observation:
        rebuilt = self.crosscoder.rebuild(codes.sparse_latents)
        products = tuple(self._products(values, rebuilt))
        return Observation(
            codes, values, self.crosscoder.denormalize(rebuilt), codes.sparse_latents, products
        )

    def _products(
        self, values: Float[Tensor, "token width"], rebuilt: Float[Tensor, "token width"]
    ) -> Iterator[Product]:
        """Yield the products of latent scaling in training space, for each side's direction and each model's target, and those of the shift.

        Yields none if directions of the two models cannot be compared.
        """
        if not self.aligned:
            return
        written = split_models(rebuilt - self.crosscoder.b_dec, self.d_models)
        parts_of = {
            "error": self._errors(values, rebuilt),
            # Contiguous tensors, which all their products read without a copy.
            "reconstruction": tuple(
                part * scale for part, scale in zip(written, self._to_training, strict=True)
            ),
        }
        for name, parts in parts_of.items():
            for model, targets in zip(MODEL_NAMES, parts[:2], strict=True):
                for side in MODEL_NAMES:
                    yield Product(f"{name}/{side}/{model}", self.directions_in[side, model], targets)
        relative = self._squared_length(values).reciprocal()
        if self.comparable:
            yield Product("shift", self.shift_directions(), _difference(values, self.d_models), relative)
        if self.linear_map is not None:
            unmapped = self.linear_map.unmapped(values, self.d_models)
            for side, rows, targets in zip(MODEL_NAMES, self._unmapped_directions, unmapped, strict=True):
                yield Product(f"unmapped/{side}", rows, targets, relative)

    @torch.no_grad()
    def codes_and_errors(
        self, values: Float[Tensor, "token width"]
    ) -> tuple[SparseLatents, tuple[Float[Tensor, "token _"], ...]]:
        """Return the code of raw activations, and the error that its reconstruction leaves of each model, in training space."""
        values = self._to_dictionary(values)
        codes = self.crosscoder.encode_sparse(values)
        return codes, self._errors(values, self.crosscoder.rebuild(codes))

    def _errors(
        self, values: Float[Tensor, "token width"], rebuilt: Float[Tensor, "token width"]
    ) -> tuple[Float[Tensor, "token _"], ...]:
        error = split_models(self.crosscoder.normalize(values).sub_(rebuilt), self.d_models)
        return tuple(part * scale for part, scale in zip(error, self._to_training, strict=True))

    def _squared_length(self, values: Float[Tensor, "token width"]) -> Float[Tensor, " token"]:
        """Return the squared distance of each token from the decoder bias, over both models, in raw units, plus its mean over tokens.

        The mean keeps a token with almost no length from outweighing the others.
        """
        width = sum(self.d_models[:2])
        square = (values[:, :width] - self.raw_bias()[:width]).square().sum(dim=1)
        return square + self._mean_squared_length

    def _unmapped_rows(self) -> tuple[Float[Tensor, "latent _"], ...]:
        """Return what one unit of a latent writes into each model minus the map of what it writes into the other, in raw units."""
        if self.linear_map is None:
            return ()
        return tuple(
            self.raw[into] - self.raw[1 - into] @ self.linear_map.maps[into].to(self.raw[into])
            for into in (0, 1)
        )

    def _side_directions(self) -> dict[tuple[str, str], Float[Tensor, "latent _"]]:
        """Return the decoder rows of each side in the training space of each model, by (side, model).

        A map determines the direction only. The length in the other model's training space is that in its own, relative to the length of
        tokens if widths differ, so that β is on the same scale as decoder norms.
        """
        rows = {(side, side): values for side, values in zip(MODEL_NAMES, self.directions, strict=False)}
        for side, model in (MODEL_NAMES, MODEL_NAMES[::-1]):
            own, into = MODEL_NAMES.index(side), MODEL_NAMES.index(model)
            if self.linear_map is None:
                rows[side, model] = rows[side, side]
            else:
                direction = normalize(self.raw[own] @ self.linear_map.maps[into].to(self.raw[own]), dim=1)
                length = self.directions[own].norm(dim=1, keepdim=True)
                rows[side, model] = direction * length * (self.d_models[into] / self.d_models[own]) ** 0.5
        return rows

    def contributions(self, codes: Codes) -> tuple[SparseLatents, SparseLatents]:
        """Return the shared code times the norm of each model's direction."""
        return _scaled(codes.sparse_latents, self.raw[0].norm(dim=1)), _scaled(
            codes.sparse_latents, self.raw[1].norm(dim=1)
        )

    def shift_directions(self) -> Float[Tensor, "latent d_model"]:
        """Return d^intervened - d^reference."""
        assert self._shift_directions is not None
        return self._shift_directions

    def shift_bias(self) -> Float[Tensor, " d_model"]:
        """Return b^intervened - b^reference."""
        return _difference(self.raw_bias()[None], self.d_models)[0]


class PooledView(DictionaryView):
    """A shared-dictionary SAE, which encodes each model's tokens separately."""

    reads: View = "pooled"

    def _encode(self, values: Float[Tensor, "token width"]) -> Codes:
        return _pooled(self.crosscoder.encode_sparse(view_rows(values, self.d_models, "pooled")))

    def _observe(self, values: Float[Tensor, "token width"], codes: Codes) -> Observation:
        assert codes.per_model is not None
        reference, intervened = codes.per_model
        rebuilt = join_models(
            [self.crosscoder.denormalize(self.crosscoder.rebuild(code)) for code in codes.per_model]
        )
        # The models differ in their codes, not in the direction: a latent adds (f_intervened - f_reference) d.
        weights = codes.sparse_latents.with_value(intervened.value - reference.value)
        shift = Product("shift", self.raw[0], _difference(values, self.d_models))
        return Observation(codes, values, rebuilt, weights, (shift,))

    def contributions(self, codes: Codes) -> tuple[SparseLatents, SparseLatents]:
        """Return each model's code times the norm of their common direction."""
        assert codes.per_model is not None
        reference, intervened = codes.per_model
        norm = self.raw[0].norm(dim=1)
        return _scaled(reference, norm), _scaled(intervened, norm)

    def shift_directions(self) -> Float[Tensor, "latent d_model"]:
        """Return 0: both models use one direction."""
        return torch.zeros_like(self.raw[0])

    def weighted_shift_directions(self) -> Float[Tensor, "latent d_model"]:
        """Return the direction of both models; its weight is the difference of their codes."""
        return self.raw[0]

    def shift_bias(self) -> Float[Tensor, " d_model"]:
        """Return 0: both models use one bias."""
        return torch.zeros_like(self.raw_bias())


class DifferenceView(DictionaryView):
    """A diff-SAE: a sparse autoencoder of intervened - reference."""

    reads: View = "difference"

    def _encode(self, values: Float[Tensor, "token width"]) -> Codes:
        return Codes(self.crosscoder.encode_sparse(_difference(values, self.d_models)))

    def _observe(self, values: Float[Tensor, "token width"], codes: Codes) -> Observation:
        shift = _difference(values, self.d_models)
        (directions,) = self.raw
        products = [Product("shift", directions, shift)]
        for model, part in zip(MODEL_NAMES, split_models(values, self.d_models), strict=True):
            products.append(Product(f"activation/{model}", directions, part))
        rebuilt = self.crosscoder.denormalize(self.crosscoder.rebuild(codes.sparse_latents))
        return Observation(codes, shift, rebuilt, codes.sparse_latents, tuple(products))

    def contributions(self, codes: Codes) -> tuple[SparseLatents, SparseLatents]:
        """Return 0 for the reference, and what the latent adds to it for the intervened model."""
        norm = self.raw[0].norm(dim=1)
        return _scaled(codes.sparse_latents, torch.zeros_like(norm)), _scaled(codes.sparse_latents, norm)

    def shift_directions(self) -> Float[Tensor, "latent d_model"]:
        """Return the direction."""
        return self.raw[0]

    def shift_bias(self) -> Float[Tensor, " d_model"]:
        """Return the bias."""
        return self.raw_bias()


def view_of(
    crosscoder: Crosscoder, d_models: tuple[int, ...], reads: View, linear_map: LinearMap | None = None
) -> DictionaryView:
    """Return the view of a dictionary on models of widths `d_models`; `linear_map` is for crosscoders only."""
    match reads:
        case "paired":
            return PairedView(crosscoder, d_models, linear_map)
        case "pooled":
            return PooledView(crosscoder, d_models)
        case "difference":
            return DifferenceView(crosscoder, d_models)
        case _:
            assert_never(reads)


def linear_map_of(folder: RunFolder) -> LinearMap | None:
    """Load the linear map of a run; None if it has none. Raises `FormatError` if the file is damaged."""
    return LinearMap.load(folder.linear_map) if folder.linear_map.is_file() else None


def _difference(
    values: Float[Tensor, "token width"], d_models: tuple[int, ...]
) -> Float[Tensor, "token d_model"]:
    """Return intervened - reference as `inputs.view_rows` does, but in the precision of `values`."""
    reference, intervened = split_models(values, d_models)[:2]
    return intervened - reference


def _scaled(sparse_latents: SparseLatents, factor: Float[Tensor, " latent"]) -> SparseLatents:
    return sparse_latents.with_value(sparse_latents.value * factor[sparse_latents.latent])


def _pooled(both: SparseLatents) -> Codes:
    """Merge two codes into one, from rows that hold the reference's tokens first, then the intervened model's."""
    n_tokens, n_latents = both.shape[0] // 2, both.shape[1]
    model = (both.token >= n_tokens).long()
    entries = (both.token - model * n_tokens) * n_latents + both.latent
    entry, place = entries.unique(return_inverse=True)
    values = both.value.new_zeros(2, len(entry))
    values[model, place] = both.value
    token = entry // n_latents
    larger = SparseLatents(token, entry - token * n_latents, values.amax(dim=0), (n_tokens, n_latents))
    return Codes(larger, (larger.with_value(values[0]), larger.with_value(values[1])))
