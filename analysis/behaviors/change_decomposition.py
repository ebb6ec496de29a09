"""Decomposition by a dictionary of the change between the two models' activations:

    h_B - h_A = Σ_j w_j d_j + bias + error        on tokens that the dictionary reads
    h_B - h_A = left out                          on the others: special tokens and the first tokens of a text

with w_j d_j = f_j (d_j^B - d_j^A) for a crosscoder, f_j d_j for a diff-SAE, (f_j^B - f_j^A) d_j for a shared-dictionary SAE, all in
raw units. The sum is exact because the error is defined as the remainder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crosscoder.dictionary.sparse_latents import SparseLatents

from ..latents.dictionary_view import DictionaryView


@dataclass(frozen=True)
class Part:
    """A part of the change: selected latents, and optionally the bias, the error and the tokens left out."""

    latents: Bool[Tensor, " latent"] | None = None
    """None: no latents."""

    bias: bool = False
    error: bool = False
    left_out: bool = False

    scale: float = 1.0
    """Factor on the part; random parts are scaled to the norm of the part they are compared with."""

    def scaled(self, factor: float) -> "Part":
        """Return the same part scaled by a factor."""
        return replace(self, scale=self.scale * factor)


class Change:
    """The change on the tokens of one forward pass."""

    def __init__(
        self,
        view: DictionaryView,
        activations: Sequence[Float[Tensor, "row token d_model"]],
        kept: Bool[Tensor, "row token"],
    ) -> None:
        """
        Args:
            activations: Activations of all models that the dictionary reads, in raw units.
            kept: The tokens that the dictionary reads.
        """
        self.reference, self.intervened = activations[0], activations[1]
        self.kept = kept.to(self.reference.device)
        rows = [side[self.kept].float().to(view.device) for side in activations]
        self._difference = rows[1] - rows[0]
        self._bias = view.shift_bias()
        observation = view.observe(torch.cat(rows, dim=1))
        self._reconstructions = view.rebuilt_sides(observation, rows[0])
        self.weights: SparseLatents = observation.weights
        """w_j on the kept tokens, in order."""

        self.directions = view.weighted_shift_directions()

    def part(self, part: Part) -> Float[Tensor, "row token d_model"]:
        """Return a part of h_B - h_A in the precision of the dictionary; 0 on padding if the activations are equal there."""
        whole = torch.zeros(self.reference.shape, device=self._difference.device)
        inside = self._inside(part)
        whole[self.kept.to(whole.device)] = inside
        if part.left_out:
            outside = ~self.kept
            difference = (self.intervened[outside].float() - self.reference[outside].float()).to(whole.device)
            whole[outside.to(whole.device)] = difference * part.scale
        return whole

    def sum_of_latents(self, latents: Bool[Tensor, " latent"]) -> Float[Tensor, "kept d_model"]:
        """Return Σ_j w_j d_j over the given latents, on the kept tokens."""
        selected = latents.to(self.directions.device)[self.weights.latent]
        weights = self.weights
        subset = SparseLatents(
            weights.token[selected], weights.latent[selected], weights.value[selected], weights.shape
        )
        return subset.weighted_sum(self.directions)

    def error(self) -> Float[Tensor, "kept d_model"]:
        """Return the reconstruction error of the change, on the kept tokens."""
        return self._difference - self.weights.weighted_sum(self.directions) - self._bias

    def _inside(self, part: Part) -> Float[Tensor, "kept d_model"]:
        total = torch.zeros_like(self._difference)
        if part.latents is not None:
            total += self.sum_of_latents(part.latents)
        if part.bias:
            total += self._bias
        if part.error:
            total += self.error()
        return total * part.scale

    def attributions(
        self, gradient: Float[Tensor, "row token d_model"]
    ) -> tuple[SparseLatents, dict[str, Float[Tensor, " row"]]]:
        """Return ⟨gradient, part⟩ for every firing, and for each row that of the bias, the error and the tokens left out."""
        device = self._difference.device
        inner = gradient[self.kept.to(gradient.device)].float().to(device)
        products = self.weights.with_value(self.weights.value * self.weights.products(self.directions, inner))
        row = self.kept.nonzero(as_tuple=True)[0].to(device)
        n_rows = len(self.reference)

        def by_row(values: Float[Tensor, " kept"]) -> Float[Tensor, " row"]:
            return values.new_zeros(n_rows).index_add(0, row, values)

        outside = ~self.kept
        difference = (self.intervened.float() - self.reference.float()) * outside[..., None]
        return products, {
            "bias": by_row(inner @ self._bias),
            "error": by_row((inner * self.error()).sum(dim=1)),
            "left_out": (gradient.float().to(difference.device) * difference).sum(dim=(1, 2)).to(device),
        }

    def reconstruction(self, model: int) -> Float[Tensor, "row token d_model"]:
        """Return one model's activations, replaced by their reconstruction on the tokens that the dictionary reads."""
        whole = (self.reference, self.intervened)[model].float().clone()
        whole[self.kept] = self._reconstructions[model].to(whole.device)
        return whole
