"""Prompts read by two models that share no space: each with its tokenizer, and activations decomposed along its decoder directions.

    h_t - mean = Σ_j (f_tj - f̄_j) d_j + error_t        on tokens that the dictionary reads
    h_t - mean = left out                               on other tokens that the token policy keeps, which have no counterpart

for each model with its d_j, in raw units. `f` is the joint code of both models' activations; f̄ and `mean` are the mean code and the mean
activation over the run's held-out tokens. Means over the prompts would contain what all prompts of a behavior have in common, and nothing
of it would be left to attribute. The sum is exact because the error is defined as the remainder, and the bias cancels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crosscoder.activations.batch import ActivationReader, split_models
from crosscoder.config import TokenPolicy
from crosscoder.dictionary.sparse_latents import SparseLatents
from crosscoder.language_models.pair import ModelPair

from ...latents.dictionary_view import DictionaryView
from ..activations import LatentSizes, frobenius_norm
from ..change_decomposition import Part
from ..logit_metrics import LogitMetric
from ..patched_metrics import EditEffect, PatchedMetrics, Start
from ..patching import INTERVENED, REFERENCE, PatchedRun
from ..prompt_statistics import Bounds, Values
from ..prompts import Batch, Prompt, form_batches, group_by_length

_MODELS = (REFERENCE, INTERVENED)
_READ_TOKENS = 4096


class Baseline(NamedTuple):
    """Start of every attribution path."""

    means: tuple[Float[Tensor, " _"], ...]
    """Mean activation of each model."""

    codes: Float[Tensor, " latent"]
    """Mean activation of each latent."""


def baseline_of(reader: ActivationReader, view: DictionaryView) -> Baseline:
    """Compute the means over all tokens of a reader, in float32 on the dictionary's device."""
    total = torch.zeros(sum(view.d_models), dtype=torch.float64)
    codes = torch.zeros(view.n_latents, dtype=torch.float64)
    for batch in reader.batches(_READ_TOKENS):
        total += batch.values.double().sum(dim=0).cpu()
        sparse_latents = view.encode(batch.values).sparse_latents.cpu()
        codes.index_add_(0, sparse_latents.latent, sparse_latents.value.double())
    mean = (total / reader.n_tokens).float().to(view.device)
    return Baseline(
        tuple(part[0] for part in split_models(mean[None], view.d_models)[:2]),
        (codes / reader.n_tokens).float().to(view.device),
    )


@dataclass(frozen=True)
class ModelBatch:
    """A batch of prompts as one model reads them."""

    batch: Batch
    """`kept` marks the tokens that the token policy keeps: those that move along the path."""

    read: Bool[Tensor, "row token"]
    """The kept tokens that the dictionary reads: equally many in both models, in the same order."""

    activations: Float[Tensor, "row token d_model"]


class PerModelActivations:
    """Prompts read by both models, with their activations in memory."""

    def __init__(
        self,
        pair: ModelPair,
        view: DictionaryView,
        metrics: tuple[LogitMetric, LogitMetric],
        prompts: Sequence[Prompt],
        policy: TokenPolicy,
        baseline: Baseline,
    ) -> None:
        """`metrics`: one per model, over its vocabulary."""
        self.pair, self.metrics, self.n_prompts = pair, metrics, len(prompts)
        self.bounds: Bounds | None = None
        self.unit, self.view, self.baseline = metrics[0].unit, view, baseline
        self.batches: list[tuple[ModelBatch, ModelBatch]] = []
        """The same prompts for reference and intervened model."""
        self.codes: list[SparseLatents] = []
        """Codes of each batch, on the tokens that the dictionary reads."""
        for pair_of_batches in self._batch_pairs(prompts, policy):
            read = tokens_read(pair_of_batches, prompts)
            activations = self._run_models(pair_of_batches)
            one, other = (ModelBatch(*side) for side in zip(pair_of_batches, read, activations, strict=True))
            self.batches.append((one, other))
            parts = [
                side.activations[side.read.to(pair.device)].float().to(view.device) for side in (one, other)
            ]
            self.codes.append(view.encode(torch.cat(parts, dim=1)).sparse_latents)
        self._patched = PatchedMetrics(
            pair,
            metrics,
            [(one.batch, other.batch) for one, other in self.batches],
            lambda model, index: self.batches[index][model].activations,
            self.n_prompts,
        )

    def values_from(self, model: int, start: Start) -> Values:
        """Return the metric of one model run from the activations `start`: one value per prompt."""
        return self._patched.values(model, start)

    def values_without(self, model: int, parts: Sequence[Part]) -> Iterator[Values]:
        """Yield the metric of one model without each of the parts, several in one forward pass; later ones only when asked for."""
        return self._patched.each(model, [self._start_without(model, part) for part in parts])

    def _start_without(self, model: int, part: Part) -> Start:
        return lambda index: self.without(model, index, part)

    def values(self, run: PatchedRun) -> Values:
        """See `Measurement.values`. Only unchanged runs are defined for two models that share no space."""
        assert run.is_unchanged
        return self.values_from(run.model, lambda index: self.batches[index][run.model].activations)

    def compare_with_unchanged(self, part: Part) -> EditEffect:
        """Compare the intervened model without a part to the unchanged one: see `PatchedMetrics.compare_with_unchanged`."""
        (effect,) = self._patched.compare_with_unchanged(
            INTERVENED, [lambda index: self.without(INTERVENED, index, part)]
        )
        return effect

    def gradient(
        self, model: int, index: int, start: Float[Tensor, "row token d_model"]
    ) -> Float[Tensor, "row token d_model"]:
        """See `PatchedMetrics.gradient`."""
        return self._patched.gradient(model, index, start)

    def moved(self, model: int, index: int) -> Float[Tensor, "row token d_model"]:
        """Return h - mean of one model in float32, the path from its mean activation; 0 on tokens that the policy leaves out."""
        model_batch = self.batches[index][model]
        mean = self.baseline.means[model].to(model_batch.activations.device)
        return (model_batch.activations.float() - mean) * model_batch.batch.kept.to(mean.device)[..., None]

    def without(self, model: int, index: int, part: Part) -> Float[Tensor, "row token d_model"]:
        """Return the activations of one model with a part mean-ablated."""
        whole = self.batches[index][model].activations.float()
        return whole - self.part(model, index, part).to(whole.device)

    def part(self, model: int, index: int, part: Part) -> Float[Tensor, "row token d_model"]:
        """Return a part of h - mean, which has no bias."""
        model_batch = self.batches[index][model]
        moved, read = self.moved(model, index), model_batch.read.to(model_batch.activations.device)
        whole = torch.zeros_like(moved)
        if part.latents is not None:
            whole[read] += self.sum_of_latents(model, index, part.latents).to(whole.device)
        if part.error:
            whole[read] += moved[read] - self.sum_of_latents(model, index).to(whole.device)
        if part.left_out:
            whole[~read] += moved[~read]
        return whole * part.scale

    def sum_of_latents(
        self, model: int, index: int, latents: Bool[Tensor, " latent"] | None = None
    ) -> Float[Tensor, "read d_model"]:
        """Return Σ_j (f_j - f̄_j) d_j over the given latents (None: all), on the tokens that the dictionary reads."""
        codes, directions, mean = self.codes[index], self.view.raw[model], self.baseline.codes
        if latents is not None:
            mean = mean * latents.to(mean.device)
            selected = latents.to(codes.latent.device)[codes.latent]
            codes = SparseLatents(
                codes.token[selected], codes.latent[selected], codes.value[selected], codes.shape
            )
        return codes.weighted_sum(directions) - mean @ directions

    def norm(self, part: Part) -> float:
        """Return the Frobenius norm of a part of the intervened model's activations over all prompts."""
        return frobenius_norm(self.part(INTERVENED, index, part) for index in range(len(self.batches)))

    def latent_sizes(self) -> LatentSizes:
        """Return the size of every latent in the intervened model."""
        mean = self.baseline.codes.double().cpu()
        total, square, fired, n_read = (
            torch.zeros_like(mean),
            torch.zeros_like(mean),
            torch.zeros_like(mean),
            0,
        )
        for codes in (codes.cpu() for codes in self.codes):
            n_read += codes.shape[0]
            for sums, values in (
                (total, codes.value),
                (square, codes.value.square()),
                (fired, torch.ones_like(codes.value)),
            ):
                sums.index_add_(0, codes.latent, values.double())
        spread = (square - 2 * mean * total + n_read * mean.square()).clamp(min=0).sqrt()
        return LatentSizes((spread * self.view.raw[INTERVENED].norm(dim=1).cpu()).float(), fired.long())

    def _batch_pairs(self, prompts: Sequence[Prompt], policy: TokenPolicy) -> Iterator[tuple[Batch, Batch]]:
        """Yield batches of the same prompts for both models, grouped by the longer of the two tokenizations."""
        rows = [
            metric.rows([prompt.read_by(model) for prompt in prompts])
            for model, metric in enumerate(self.metrics)
        ]
        groups = group_by_length(rows)
        one, other = (
            form_batches(rows[model], groups, self.pair.tokenizer_of(model), policy, self.pair.max_positions)
            for model in _MODELS
        )
        return zip(one, other, strict=True)

    def _run_models(self, batches: Sequence[Batch]) -> tuple[Float[Tensor, "row token _"], ...]:
        if self.pair.readers is None:
            return self.pair.activations(batches[0].token_ids, batches[0].attention)[:2]
        return tuple(
            self.pair.activations_of(model, batch.token_ids, batch.attention)
            for model, batch in enumerate(batches)
        )


def tokens_read(
    batches: Sequence[Batch], prompts: Sequence[Prompt]
) -> tuple[Bool[Tensor, "row token"], Bool[Tensor, "row _"]]:
    """Return the tokens that the dictionary reads in each model: kept by both token policies, with a counterpart."""
    one, other = batches
    if prompts[0].intervened is None:
        return one.kept, other.kept
    read = torch.zeros_like(one.kept), torch.zeros_like(other.kept)
    for row in range(len(one.length)):
        intervened = prompts[int(one.prompts[int(one.place[row])])].intervened
        assert intervened is not None
        counterparts = torch.from_numpy(intervened.counterparts.astype(np.int64))
        position = (counterparts >= 0).nonzero()[:, 0]
        position = position[one.kept[row, position] & other.kept[row, counterparts[position]]]
        read[0][row, position] = True
        read[1][row, counterparts[position]] = True
    return read
