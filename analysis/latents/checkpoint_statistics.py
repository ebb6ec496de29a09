"""Statistics of a chain of checkpoints in one pass over held-out tokens: the change of each since the reference and since the previous one.

With x_t the activations of checkpoint t, in order of time from the reference, and d_jt the decoder row of latent j in raw units:

    shift/t       Σ f_j ⟨d_jt - d_j0, x_t - x_0⟩              what a latent explains of the change since the reference
    step/t        Σ f_j ⟨d_jt - d_j(t-1), x_t - x_(t-1)⟩      what it explains of the change since the previous checkpoint
    exchanged/t   Σ f_j' ⟨d_jt - d_j(t-1), x_t - x_(t-1)⟩     the same with the code f'

f' is the code of the same token with the activations of checkpoints t and t - 1 exchanged. If the two checkpoints differ only by
exchangeable noise, then exchanging them in one document flips the sign of that document's part of step/t + exchanged/t and changes nothing
else, however differently the dictionary reads the two models. The change alarm relies on this (`checkpoints.change_alarm`).
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
from .dictionary_view import PairedView
from .observation import Observation, Product
from .ordered_sums import OrderedSums, Sums, under, with_prefixes


@dataclass(frozen=True)
class ChainStatistics:
    """The result of `ChainAccumulator`. Tuples have one entry per checkpoint in order of time; None for the reference, and if widths
    differ."""

    names: tuple[str, ...]
    places: tuple[int, ...]
    """Index of each checkpoint on the model axis."""
    n_tokens: int
    shift: tuple[Float64[Tensor, "block latent"] | None, ...]
    """shift/t."""
    step: tuple[Float64[Tensor, "block latent_and_offset"] | None, ...]
    """step/t, and in the last column Σ ⟨b_t - b_(t-1), x_t - x_(t-1)⟩, with b the decoder bias."""
    exchanged: tuple[Float64[Tensor, "block latent_and_offset"] | None, ...]
    """exchanged/t, and the same last column."""
    totals: dict[str, Float64[Tensor, " block"]]
    """`tokens`; for each checkpoint t with a shift, `square/t` Σ‖x_t - x_0‖², and `bias/t` and `error/t`, what bias and error explain of it;
    with a step, `step_square/t` Σ‖x_t - x_(t-1)‖²."""
    fve: tuple[float | None, ...]
    fve_difference: tuple[float | None, ...]
    """Fraction of the variance of x_t - x_0 explained."""
    variance: float
    """Σ‖x_0 - mean‖²."""


class ChainAccumulator:
    """Accumulates `ChainStatistics` from batches."""

    def __init__(self, view: PairedView, n_blocks: int, seed: int) -> None:
        self.view, self.d_models = view, view.d_models
        n_models = len(self.d_models)
        self.places = time_order(n_models)
        self.sums = BlockSums(n_blocks, view.n_latents, seed)
        self.ordered = OrderedSums()
        self._begin_group()
        self._bias = split_models(view.raw_bias()[None], self.d_models)

    def update(self, batch: ActivationBatch, observation: Observation) -> None:
        """Add a batch to the current group; `observation` is what the view computes for it."""
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

    def end_group(self, number: int) -> None:
        """End a group of blocks (`block_groups`). The next batch begins another."""
        self.ordered.add(number, self._sums_of_group())
        self._begin_group()

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors, for `join` in another process; the last group must have ended."""
        return with_prefixes({"block": self.sums.tensors(), "ordered": self.ordered.tensors()})

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Add the groups that another process read."""
        self.sums.join(under(tensors, "block"))
        self.ordered.join(under(tensors, "ordered"))

    def result(self) -> ChainStatistics:
        """Return the statistics of all batches added so far."""
        sums, totals = self.sums.sums(), self.sums.totals()
        times = range(len(self.places))
        ordered = self.ordered.total(self._sums_of_group() if self.fve[0].count else None)
        of_models, of_shifts = (
            [VarianceExplained.of_sums(ordered[f"{name}/{time}"]) for time in times]
            for name in ("model", "shift")
        )
        whole = of_models[0]
        names = model_names(len(self.places))
        return ChainStatistics(
            names=tuple(names[place] for place in self.places),
            places=self.places,
            n_tokens=whole.count,
            shift=tuple(sums.get(f"shift/{time}") for time in times),
            step=tuple(_with_offset("step", time, sums, totals) for time in times),
            exchanged=tuple(_with_offset("exchanged", time, sums, totals) for time in times),
            totals=totals,
            fve=tuple(meter.result() for meter in of_models),
            fve_difference=tuple(meter.result() for meter in of_shifts),
            variance=whole.square - float(whole.total.square().sum()) / max(whole.count, 1),
        )

    def _begin_group(self) -> None:
        self.fve = [VarianceExplained() for _ in self.places]
        self.fve_difference = [VarianceExplained() for _ in self.places]

    def _sums_of_group(self) -> Sums:
        meters = {"model": self.fve, "shift": self.fve_difference}
        return {
            f"{name}/{time}": meter.sums()
            for name, found in meters.items()
            for time, meter in enumerate(found)
        }

    def _add_totals(self, observation: Observation, block: Int64[Tensor, " token"]) -> None:
        start = 0
        for rows, rebuilt in row_chunks(observation.actual, observation.rebuilt):
            actual = split_models(rows.double(), self.d_models)
            errors = split_models(rows.double() - rebuilt.double(), self.d_models)
            rows_block = block[start : start + len(rows)]
            start += len(rows)
            for time, place in enumerate(self.places):
                self.fve[time].add(actual[place], errors[place])
                if time == 0:
                    continue
                before = self.places[time - 1]
                if self._alike(place, 0):
                    shift, error = actual[place] - actual[0], errors[place] - errors[0]
                    self.fve_difference[time].add(shift, error)
                    self.sums.add_totals(f"square/{time}", shift.square().sum(dim=1), rows_block)
                    self.sums.add_totals(f"bias/{time}", shift @ self._bias_step(place, 0), rows_block)
                    self.sums.add_totals(f"error/{time}", (shift * error).sum(dim=1), rows_block)
                if self._alike(place, before):
                    step = actual[place] - actual[before]
                    self.sums.add_totals(f"step_square/{time}", step.square().sum(dim=1), rows_block)
                    self.sums.add_totals(f"offset/{time}", step @ self._bias_step(place, before), rows_block)

    def _bias_step(self, now: int, before: int) -> Float64[Tensor, " d_model"]:
        return (self._bias[now] - self._bias[before])[0].double()

    def _alike(self, one: int, other: int) -> bool:
        return self.d_models[one] == self.d_models[other]

    def _exchanged(
        self, values: Float[Tensor, "token width"], one: int, other: int
    ) -> Float[Tensor, "token width"]:
        """Return the activations with those of two models exchanged."""
        parts = list(split_models(values, self.d_models))
        parts[one], parts[other] = parts[other], parts[one]
        return torch.cat(parts, dim=1)


def _with_offset(
    name: str,
    time: int,
    sums: Mapping[str, Float64[Tensor, "block latent"]],
    totals: Mapping[str, Float64[Tensor, " block"]],
) -> Float64[Tensor, "block latent_and_offset"] | None:
    """Return the sums of all latents with what the bias explains as the last column; None if there are no sums."""
    if f"{name}/{time}" not in sums:
        return None
    return torch.cat([sums[f"{name}/{time}"], totals[f"offset/{time}"][:, None]], dim=1)
