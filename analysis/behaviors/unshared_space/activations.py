"""Prompts read by two models that share no space: each in its own tokens, with activations taken apart in its own directions.

    h_t - mean = Σ_j (f_tj - f̄_j) d_j + error_t        on tokens that the dictionary reads
    h_t - mean = left out                               on the others that the token policy leaves in: they have no counterpart

for each model with its own d_j, in raw units; `f` is the code of both models' activations, f̄ its mean and `mean` the activations', over
the run's held-out tokens. These rather than the prompts': what all prompts of a behavior have in common would stand in their mean, and
nothing of it be left to attribute. The sum is exact: the error is defined as what is missing, and the bias falls out.
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
from ..metrics import LogitMetric
from ..patched_metrics import EditEffect, PatchedMetrics, Start
from ..patching import INTERVENED, REFERENCE, PatchedRun
from ..prompt_statistics import Bounds, Values
from ..prompts import Batch, Prompt, form_batches, grouped

_MODELS = (REFERENCE, INTERVENED)
_READ_TOKENS = 4096


class Baseline(NamedTuple):
    """Where every path begins."""

    means: tuple[Float[Tensor, " _"], ...]
    """Mean activation of each model."""

    codes: Float[Tensor, " latent"]
    """Mean activation of each latent."""


def baseline_of(reader: ActivationReader, view: DictionaryView) -> Baseline:
    """Means over all tokens of a reader, in float32 on the device of the dictionary."""
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
    """Some prompts as one model reads them."""

    batch: Batch
    """Its `kept` are the tokens that the token policy leaves in: those that move along a path."""

    read: Bool[Tensor, "row token"]
    """Of those, the ones that the dictionary reads: as many in both models, in the same order."""

    activations: Float[Tensor, "row token d_model"]


class PerModelActivations:
    """Prompts read by both models. What they compute is held in memory."""

    def __init__(
        self,
        pair: ModelPair,
        view: DictionaryView,
        metrics: tuple[LogitMetric, LogitMetric],
        prompts: Sequence[Prompt],
        policy: TokenPolicy,
        baseline: Baseline,
    ) -> None:
        """`metrics`: one for each model, over its own vocabulary."""
        self.pair, self.metrics, self.n_prompts = pair, metrics, len(prompts)
        self.bounds: Bounds | None = None
        self.unit, self.view, self.baseline = metrics[0].unit, view, baseline
        self.batches: list[tuple[ModelBatch, ModelBatch]] = []
        """Of the same prompts, for reference and intervened model."""
        self.codes: list[SparseLatents] = []
        """Of each batch, on the tokens that the dictionary reads."""
        for given in self._given(prompts, policy):
            read = tokens_read(given, prompts)
            activations = self._activations(given)
            one, other = (ModelBatch(*side) for side in zip(given, read, activations, strict=True))
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
        """The metric of one model whose hookpoint puts out `start` of each batch: one number a prompt."""
        return self._patched.values(model, start)

    def values(self, run: PatchedRun) -> Values:
        """See `Measurement.values`, for a model as it is: there is no other run of two models that share no space."""
        assert run.is_unchanged
        return self.values_from(run.model, lambda index: self.batches[index][run.model].activations)

    def compare_with_unchanged(self, part: Part) -> EditEffect:
        """The intervened model without a part beside the model as it is: see `PatchedMetrics.compare_with_unchanged`."""
        (found,) = self._patched.compare_with_unchanged(
            INTERVENED, [lambda index: self.without(INTERVENED, index, part)]
        )
        return found

    def gradient(
        self, model: int, index: int, start: Float[Tensor, "row token d_model"]
    ) -> Float[Tensor, "row token d_model"]:
        """See `PatchedMetrics.gradient`."""
        return self._patched.gradient(model, index, start)

    def moved(self, model: int, index: int) -> Float[Tensor, "row token d_model"]:
        """h - mean of one model, in float32: the path from its mean activation; 0 where the token policy leaves a token out."""
        own = self.batches[index][model]
        mean = self.baseline.means[model].to(own.activations.device)
        return (own.activations.float() - mean) * own.batch.kept.to(mean.device)[..., None]

    def without(self, model: int, index: int, part: Part) -> Float[Tensor, "row token d_model"]:
        """Activations of one model with a part of them brought to its mean."""
        own = self.batches[index][model].activations.float()
        return own - self.part(model, index, part).to(own.device)

    def part(self, model: int, index: int, part: Part) -> Float[Tensor, "row token d_model"]:
        """Some of h - mean; a bias is no part of it."""
        own = self.batches[index][model]
        moved, read = self.moved(model, index), own.read.to(own.activations.device)
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
        """Σ_j (f_j - f̄_j) d_j over some latents (None: all), on the tokens that the dictionary reads."""
        codes, directions, mean = self.codes[index], self.view.raw[model], self.baseline.codes
        if latents is not None:
            mean = mean * latents.to(mean.device)
            chosen = latents.to(codes.latent.device)[codes.latent]
            codes = SparseLatents(codes.token[chosen], codes.latent[chosen], codes.value[chosen], codes.shape)
        return codes.weighted_sum(directions) - mean @ directions

    def norm(self, part: Part) -> float:
        """Frobenius norm of a part of the intervened model's activations, over all prompts."""
        return frobenius_norm(self.part(INTERVENED, index, part) for index in range(len(self.batches)))

    def latent_sizes(self) -> LatentSizes:
        """Of every latent, in the intervened model."""
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

    def _given(self, prompts: Sequence[Prompt], policy: TokenPolicy) -> Iterator[tuple[Batch, Batch]]:
        """Batches of the same prompts for both models, of like length in the one that reads more tokens."""
        rows = [
            metric.rows([prompt.read_by(model) for prompt in prompts])
            for model, metric in enumerate(self.metrics)
        ]
        groups = grouped(rows)
        one, other = (
            form_batches(rows[model], groups, self.pair.tokenizer_of(model), policy) for model in _MODELS
        )
        return zip(one, other, strict=True)

    def _activations(self, given: Sequence[Batch]) -> tuple[Float[Tensor, "row token _"], ...]:
        if self.pair.readers is None:
            return self.pair.activations(given[0].token_ids, given[0].attention)[:2]
        return tuple(
            self.pair.activations_of(model, batch.token_ids, batch.attention)
            for model, batch in enumerate(given)
        )


def tokens_read(
    given: Sequence[Batch], prompts: Sequence[Prompt]
) -> tuple[Bool[Tensor, "row token"], Bool[Tensor, "row _"]]:
    """Tokens that the dictionary reads, in either model: those that both policies leave in and that have a counterpart."""
    one, other = given
    if prompts[0].intervened is None:
        return one.kept, other.kept
    read = torch.zeros_like(one.kept), torch.zeros_like(other.kept)
    for row in range(len(one.length)):
        own = prompts[int(one.prompts[int(one.place[row])])].intervened
        assert own is not None
        met = torch.from_numpy(own.counterparts.astype(np.int64))
        place = (met >= 0).nonzero()[:, 0]
        place = place[one.kept[row, place] & other.kept[row, met[place]]]
        read[0][row, place] = True
        read[1][row, met[place]] = True
    return read
