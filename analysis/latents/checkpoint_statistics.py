"""A chain of checkpoints in one pass over held-out tokens: what each of them changed, and what each changed against the one before.

With x_t the activations of checkpoint t, in the order of time, reference first, and d_jt the decoder row of latent j in raw units:

    shift/t       Σ f_j ⟨d_jt - d_j0, x_t - x_0⟩              what a latent explains of the change since the reference
    step/t        Σ f_j ⟨d_jt - d_j(t-1), x_t - x_(t-1)⟩      and of that since the checkpoint before
    exchanged/t   Σ f_j' ⟨d_jt - d_j(t-1), x_t - x_(t-1)⟩

f' is the code of the same token with the activations of the checkpoints t and t - 1 exchanged. Where the two differ by nothing but
noise that might as well have been the other's, exchanging them in a document turns the sign of its part of step/t + exchanged/t
and leaves the rest as it is, however unlike the dictionary reads the two. That is what the alarm stands on (`alarm`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch, split_models
from crosscoder.config.model_names import model_names, time_order
from crosscoder.dictionary.metrics import VarianceExplained, row_chunks

from .block_sums import BlockSums
from .dictionary_view import Observation, PairedView, Product


@dataclass(frozen=True)
class ChainStatistics:
    """What `ChainAccumulator` yields. Lists have an entry for each checkpoint in the order of time; None where models differ in
    width, and for the reference, which has nothing before it."""

    names: tuple[str, ...]
    places: tuple[int, ...]
    """On the axis of models."""
    n_tokens: int
    shift: tuple[Float64[Tensor, "block latent"] | None, ...]
    """shift/t."""
    step: tuple[Float64[Tensor, "block latent_and_offset"] | None, ...]
    """step/t, and in the last column Σ ⟨b_t - b_(t-1), x_t - x_(t-1)⟩, b being what the dictionary writes when nothing fires."""
    exchanged: tuple[Float64[Tensor, "block latent_and_offset"] | None, ...]
    """exchanged/t, and the same last column."""
    totals: dict[str, Float64[Tensor, " block"]]
    """`tokens`, and for each checkpoint t with a shift `square/t` Σ‖x_t - x_0‖², `bias/t` and `error/t`: what bias and error explain
    of it; with a step `step_square/t` Σ‖x_t - x_(t-1)‖²."""
    fve: tuple[float | None, ...]
    fve_difference: tuple[float | None, ...]
    """Of x_t - x_0."""
    variance: float
    """Σ‖x_0 - mean‖²."""


class ChainAccumulator:
    """Add batches with `update`, then ask for the `result`."""

    def __init__(self, view: PairedView, n_blocks: int, seed: int) -> None:
        self.view, self.d_models = view, view.d_models
        n_models = len(self.d_models)
        self.places = time_order(n_models)
        self.sums = BlockSums(n_blocks, view.n_latents, seed)
        self.fve = [VarianceExplained() for _ in self.places]
        self.fve_difference = [VarianceExplained() for _ in self.places]
        self._bias = split_models(view.raw_bias()[None], self.d_models)

    def update(self, batch: ActivationBatch, observation: Observation) -> None:
        """Add some tokens; `observation` is what the observer makes of `batch`."""
        block = self.sums.blocks(batch.document)
        values = observation.actual
        parts, raw = split_models(values, self.d_models), self.view.raw
        self.sums.add_totals("tokens", torch.ones(len(block)), block)
        for time in range(1, len(self.places)):
            now, before = self.places[time], self.places[time - 1]
            if self._alike(now, 0):
                shift = parts[now] - parts[0]
                product = Product(f"shift/{time}", raw[now] - raw[0], shift)
                self.sums.add_products(observation.codes.sparse_latents, (product,), block)
            if self._alike(now, before):
                step = parts[now] - parts[before]
                exchanged = self.view.encode(self._exchanged(values, now, before))
                for name, codes in (("step", observation.codes), ("exchanged", exchanged)):
                    product = Product(f"{name}/{time}", raw[now] - raw[before], step)
                    self.sums.add_products(codes.sparse_latents, (product,), block)
        self._add_totals(observation, block)

    def result(self) -> ChainStatistics:
        """Everything of the batches added so far."""
        sums, totals = self.sums.sums(), self.sums.totals()
        times = range(len(self.places))
        whole = self.fve[0]
        names = model_names(len(self.places))
        return ChainStatistics(
            names=tuple(names[place] for place in self.places),
            places=self.places,
            n_tokens=whole.count,
            shift=tuple(sums.get(f"shift/{time}") for time in times),
            step=tuple(_with_offset("step", time, sums, totals) for time in times),
            exchanged=tuple(_with_offset("exchanged", time, sums, totals) for time in times),
            totals=totals,
            fve=tuple(meter.result() for meter in self.fve),
            fve_difference=tuple(meter.result() for meter in self.fve_difference),
            variance=whole.square - float(whole.total.square().sum()) / max(whole.count, 1),
        )

    def _add_totals(self, observation: Observation, block: Int64[Tensor, " token"]) -> None:
        start = 0
        for rows, rebuilt in row_chunks(observation.actual, observation.rebuilt):
            actual = split_models(rows.double(), self.d_models)
            errors = split_models(rows.double() - rebuilt.double(), self.d_models)
            own = block[start : start + len(rows)]
            start += len(rows)
            for time, place in enumerate(self.places):
                self.fve[time].add(actual[place], errors[place])
                if time == 0:
                    continue
                before = self.places[time - 1]
                if self._alike(place, 0):
                    shift, error = actual[place] - actual[0], errors[place] - errors[0]
                    self.fve_difference[time].add(shift, error)
                    self.sums.add_totals(f"square/{time}", shift.square().sum(dim=1), own)
                    self.sums.add_totals(f"bias/{time}", shift @ self._bias_step(place, 0), own)
                    self.sums.add_totals(f"error/{time}", (shift * error).sum(dim=1), own)
                if self._alike(place, before):
                    step = actual[place] - actual[before]
                    self.sums.add_totals(f"step_square/{time}", step.square().sum(dim=1), own)
                    self.sums.add_totals(f"offset/{time}", step @ self._bias_step(place, before), own)

    def _bias_step(self, now: int, before: int) -> Float64[Tensor, " d_model"]:
        return (self._bias[now] - self._bias[before])[0].double()

    def _alike(self, one: int, other: int) -> bool:
        return self.d_models[one] == self.d_models[other]

    def _exchanged(
        self, values: Float[Tensor, "token width"], one: int, other: int
    ) -> Float[Tensor, "token width"]:
        """The same tokens with the activations of two models exchanged."""
        parts = list(split_models(values, self.d_models))
        parts[one], parts[other] = parts[other], parts[one]
        return torch.cat(parts, dim=1)


def _with_offset(
    name: str,
    time: int,
    sums: Mapping[str, Float64[Tensor, "block latent"]],
    totals: Mapping[str, Float64[Tensor, " block"]],
) -> Float64[Tensor, "block latent_and_offset"] | None:
    """Sums of all latents and, beside them, what the bias explains; None where there are none."""
    if f"{name}/{time}" not in sums:
        return None
    return torch.cat([sums[f"{name}/{time}"], totals[f"offset/{time}"][:, None]], dim=1)
