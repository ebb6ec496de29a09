"""The statistics behind the labels, for all latents and both directions in one pass over held-out tokens.

Documents are assigned to blocks, and every sum is kept per block and latent, so that intervals can resample documents later without another
pass. Products are computed in the precision of the dictionary, sums in float64. Memory: 8 bytes per block, latent and quantity (64 blocks,
4096 latents, 12 quantities: 25 MB).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch, have_difference, split_models
from crosscoder.config.model_names import MODEL_NAMES
from crosscoder.dictionary.metrics import ReconstructionMeter, VarianceExplained, row_chunks
from crosscoder.dictionary.sparse_latents import SparseLatents

from .block_sums import BlockSums
from .dictionary_view import DictionaryView
from .document_runs import document_runs
from .histograms import ActivationHistograms
from .observation import Observation
from .ordered_sums import OrderedSums, Sums, under, with_prefixes
from .token_context import TokenContext

_SIMILARITY = "similarity"
"""Name of the sums of `_Similarity`, beside those of each FVE."""


@dataclass(frozen=True)
class Statistics:
    """The result of `StatisticsAccumulator`."""

    n_tokens: int
    n_documents: int
    sums: Mapping[str, Float64[Tensor, "block latent"]]
    """Sums per block and latent over the tokens of the block: `fired`, `activation` Σf, `square` Σf², and the products of the view:

    `error/S/M` Σf⟨d^S, e^M⟩ and `reconstruction/S/M` Σf⟨d^S, x̂^M - b^M⟩, in training space, with the direction of side S and the target of
    model M; `shift` Σf⟨δ, x^intervened - x^reference⟩, in raw units; with a linear map, `unmapped/S` Σf⟨δ^S, u^S⟩, in raw units, with u^S
    what the map does not explain of the activations of S, and δ^S what the latent writes into it. `shift/relative` and `unmapped/S/relative`
    divide every token by its squared length."""
    totals: Mapping[str, Float64[Tensor, " block"]]
    """Sums per block: `tokens`; in raw units, `shift/square` Σ‖Δx‖², `shift/bias` Σ⟨b_Δ, Δx⟩, `shift/error` Σ⟨e_Δ, Δx⟩ and
    `unmapped/S/square` Σ‖u^S‖²; `shift/relative` Σ‖Δx‖²/‖x‖² and `unmapped/S/relative` Σ‖u^S‖²/‖x‖²."""
    documents: Int64[Tensor, " latent"]
    """Documents in which each latent fired."""
    template: Int64[Tensor, " latent"] | None
    """Firings on template tokens; None if the tokens are unknown."""
    source_names: tuple[str, ...]
    by_source: Int64[Tensor, "source latent"]
    """Firings in each source."""
    source_tokens: Int64[Tensor, " source"]
    source_documents: Int64[Tensor, " source"]
    histograms: ActivationHistograms
    fve: Mapping[str, float | None]
    """Fraction of variance explained of `reference`, `intervened` and their `difference`; None if the dictionary does not reconstruct it."""
    l0: float
    """Latents that fire on a token; of a shared-dictionary SAE, in each model's own code, which k bounds."""
    cosine: float | None
    """Mean cosine between the two models' activations of a token; None if widths differ."""
    relative_difference: float | None
    """E‖x^intervened - x^reference‖² / E‖x^reference - mean‖²."""
    means: tuple[Float64[Tensor, " _"], ...]
    """Mean activation of each model, raw units."""

    def total(self, name: str) -> Float64[Tensor, " latent"]:
        """Return one of `sums`, over all blocks."""
        return self.sums[name].sum(dim=0)


class StatisticsAccumulator:
    """Accumulates `Statistics` from batches. The rows of a document must be contiguous."""

    def __init__(self, view: DictionaryView, context: TokenContext, n_blocks: int, seed: int) -> None:
        self.view = view
        self.context = context
        self.n_tokens = 0
        self.n_documents = 0
        n_latents, n_sources = view.n_latents, len(context.source_names)
        self.block_sums = BlockSums(n_blocks, n_latents, seed)
        self.documents = torch.zeros(n_latents, dtype=torch.int64)
        self.template = torch.zeros(n_latents, dtype=torch.int64) if context.has_template else None
        self.by_source = torch.zeros(n_sources, n_latents, dtype=torch.int64)
        self.source_tokens = torch.zeros(n_sources, dtype=torch.int64)
        self.source_documents = torch.zeros(n_sources, dtype=torch.int64)
        self.histograms = ActivationHistograms(n_latents, n_sources)
        self._axis = view.crosscoder.config.d_models if view.reads == "difference" else view.d_models
        self.ordered = OrderedSums()
        self.meter, self.similarity = self._begin_group()
        self._shift_bias = view.shift_bias().double() if view.comparable else None
        self._open_document = -1
        self._fired_in_open = torch.zeros(n_latents, dtype=torch.bool)

    def update(self, batch: ActivationBatch, observation: Observation) -> None:
        """Add a batch to the current group; `observation` is what the view computes for it."""
        sparse_latents = observation.codes.sparse_latents.cpu()
        block = self.block_sums.blocks(batch.document)
        self.n_tokens += len(batch.values)
        self._add_firings(sparse_latents, observation.codes.per_model, block)
        self.block_sums.add_products(observation.weights, observation.products, block)
        self._add_totals(observation, block)
        self._add_counts(batch, sparse_latents)
        self._add_documents(batch, sparse_latents)
        self.meter.update(observation.actual, observation.rebuilt, sparse_latents)
        self.similarity.update(batch.values)

    def end_group(self, number: int) -> None:
        """End a group of blocks (`block_groups`). The next batch begins another."""
        self.ordered.add(number, self._sums_of_group())
        self.meter, self.similarity = self._begin_group()

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors, for `join` in another process; the last group must have ended."""
        counts = {"n": torch.tensor([self.n_tokens, self.n_documents])} | self._counts()
        parts = {"block": self.block_sums, "ordered": self.ordered, "histogram": self.histograms}
        return with_prefixes({"count": counts} | {name: part.tensors() for name, part in parts.items()})

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Add the groups that another process read."""
        counts = under(tensors, "count")
        n_tokens, n_documents = counts["n"].tolist()
        self.n_tokens += n_tokens
        self.n_documents += n_documents
        for name, count in self._counts().items():
            count += counts[name]
        for name, part in (
            ("block", self.block_sums), ("ordered", self.ordered), ("histogram", self.histograms)
        ):  # fmt: skip
            part.join(under(tensors, name))

    def result(self) -> Statistics:
        """Return the statistics of all batches added so far."""
        totals = self.ordered.total(self._sums_of_group() if self.meter.n_tokens else None)
        meters = {
            name: VarianceExplained.of_sums(sums) for name, sums in totals.items() if name != _SIMILARITY
        }
        fve: dict[str, float | None] = {"reference": None, "intervened": None, "difference": None}
        fve |= {name: meters[name].result() for name in fve if name in meters}
        similarity = _Similarity.of_sums(self.view.d_models, totals[_SIMILARITY])
        return Statistics(
            n_tokens=self.n_tokens,
            n_documents=self.n_documents,
            sums=self.block_sums.sums(),
            totals=self.block_sums.totals(),
            documents=self.documents,
            template=self.template,
            source_names=self.context.source_names,
            by_source=self.by_source,
            source_tokens=self.source_tokens,
            source_documents=self.source_documents,
            histograms=self.histograms,
            fve=fve,
            l0=self._l0(),
            cosine=similarity.cosine(),
            relative_difference=similarity.relative_difference(),
            means=similarity.means(),
        )

    def _begin_group(self) -> tuple[ReconstructionMeter, "_Similarity"]:
        return ReconstructionMeter(self._axis, self.view.n_latents), _Similarity(self.view.d_models)

    def _sums_of_group(self) -> Sums:
        """Return the sums of the current group that no block keeps."""
        if self.view.reads == "difference":
            meters = {"difference": self.meter.per_model[0]}
        else:
            meters = dict(zip(MODEL_NAMES, self.meter.per_model, strict=False))
            meters |= {} if self.meter.difference is None else {"difference": self.meter.difference}
        sums = {name: meter.sums() for name, meter in meters.items()}
        return sums | {_SIMILARITY: self.similarity.sums()}

    def _counts(self) -> dict[str, Int64[Tensor, "..."]]:
        """Return the counts, which add up in any order."""
        names = ("documents", "by_source", "source_tokens", "source_documents")
        counts = {name: getattr(self, name) for name in names}
        return counts if self.template is None else counts | {"template": self.template}

    def _l0(self) -> float:
        names = [f"fired/{model}" for model in MODEL_NAMES] if self.view.reads == "pooled" else ["fired"]
        sums = self.block_sums.sums()
        fired = sum(float(sums[name].sum()) for name in names)
        return fired / (len(names) * self.n_tokens)

    def _add_firings(
        self,
        sparse_latents: SparseLatents,
        per_model: tuple[SparseLatents, SparseLatents] | None,
        block: Int64[Tensor, " token"],
    ) -> None:
        index = block[sparse_latents.token] * self.view.n_latents + sparse_latents.latent
        self.block_sums.add("fired", index, torch.ones_like(sparse_latents.value))
        self.block_sums.add("activation", index, sparse_latents.value)
        self.block_sums.add("square", index, sparse_latents.value.double().square())
        if per_model is not None:
            for name, code in zip(MODEL_NAMES, per_model, strict=True):
                self.block_sums.add(f"fired/{name}", index, (code.value > 0).double())

    def _add_totals(self, observation: Observation, block: Int64[Tensor, " token"]) -> None:
        quantities = {"tokens": torch.ones(len(block), dtype=torch.float64)}
        if self._shift_bias is not None:
            parts = []
            for rows, rebuilt in row_chunks(observation.actual, observation.rebuilt):
                rows = rows.double()
                shift, error = self.view.shift_of(rows), self.view.shift_of(rows - rebuilt.double())
                bias = shift @ self._shift_bias
                parts.append(torch.stack([shift.square().sum(dim=1), bias, (shift * error).sum(dim=1)]))
            names = ("shift/square", "shift/bias", "shift/error")
            quantities |= dict(zip(names, torch.cat(parts, dim=1), strict=True))
        for product in observation.products:
            if product.token_weight is None:
                continue
            square = product.targets.double().square().sum(dim=1)
            if product.name.startswith("unmapped/"):
                quantities[f"{product.name}/square"] = square
            quantities[f"{product.name}/relative"] = square * product.token_weight.double()
        for name, value in quantities.items():
            self.block_sums.add_totals(name, value, block)

    def _add_counts(self, batch: ActivationBatch, sparse_latents: SparseLatents) -> None:
        source = self.context.source_of(batch.document.cpu())
        n_sources, n_latents = self.by_source.shape
        self.source_tokens += torch.bincount(source, minlength=n_sources)
        index = source[sparse_latents.token] * n_latents + sparse_latents.latent
        self.by_source += torch.bincount(index, minlength=n_sources * n_latents).view(n_sources, n_latents)
        self.histograms.update(sparse_latents, source)
        if self.template is not None:
            on_template = self.context.template_at(batch.document.cpu(), batch.position.cpu())
            self.template += torch.bincount(
                sparse_latents.latent[on_template[sparse_latents.token]], minlength=n_latents
            )

    def _add_documents(self, batch: ActivationBatch, sparse_latents: SparseLatents) -> None:
        """Count each pair of document and latent once, even if the document continues in the next batch."""
        names, local = torch.unique_consecutive(batch.document.cpu(), return_inverse=True)
        runs = document_runs(sparse_latents, local)
        self.documents += torch.bincount(runs.latent, minlength=len(self.documents))
        continues = int(names[0]) == self._open_document
        if continues:
            in_first = runs.latent[runs.document == 0]
            self.documents[in_first] -= self._fired_in_open[in_first].long()
        new_documents = names[1:] if continues else names
        self.n_documents += len(new_documents)
        self.source_documents += torch.bincount(
            self.context.source_of(new_documents), minlength=len(self.source_documents)
        )
        if not continues or len(names) > 1:
            self._fired_in_open = torch.zeros_like(self._fired_in_open)
        self._open_document = int(names[-1])
        self._fired_in_open[runs.latent[runs.document == len(names) - 1]] = True


class _Similarity:
    """Accumulates how similar the two models' activations are."""

    def __init__(self, d_models: tuple[int, ...]) -> None:
        self.d_models = d_models
        self.comparable = have_difference(d_models)
        self.count = 0
        self.total = [torch.zeros(d_model, dtype=torch.float64) for d_model in d_models]
        self.square = 0.0
        self.difference = 0.0
        self.cosines = 0.0

    def update(self, values: Float[Tensor, "token width"]) -> None:
        for (rows,) in row_chunks(values):
            parts = split_models(rows.double(), self.d_models)
            self.count += len(rows)
            for total, part in zip(self.total, parts, strict=True):
                total += part.sum(dim=0).cpu()
            self.square += float(parts[0].square().sum())
            if self.comparable:
                self.difference += float((parts[1] - parts[0]).square().sum())
                self.cosines += float(torch.cosine_similarity(parts[0], parts[1], dim=1).sum())

    def sums(self) -> Float64[Tensor, " sum"]:
        """Return all sums in one vector; those of several parts of the tokens add up to those of the whole."""
        numbers = [self.count, self.square, self.difference, self.cosines]
        return torch.cat([torch.tensor(numbers, dtype=torch.float64), *self.total])

    @classmethod
    def of_sums(cls, d_models: tuple[int, ...], sums: Float64[Tensor, " sum"]) -> Self:
        similarity = cls(d_models)
        numbers, *totals = sums.split([4, *d_models])
        count, similarity.square, similarity.difference, similarity.cosines = numbers.tolist()
        similarity.count, similarity.total = int(count), totals
        return similarity

    def cosine(self) -> float | None:
        return self.cosines / self.count if self.comparable and self.count else None

    def relative_difference(self) -> float | None:
        variance = self.square - float(self.total[0].square().sum()) / max(self.count, 1)
        return self.difference / variance if self.comparable and variance > 0 else None

    def means(self) -> tuple[Float64[Tensor, " _"], ...]:
        return tuple(total / max(self.count, 1) for total in self.total)
