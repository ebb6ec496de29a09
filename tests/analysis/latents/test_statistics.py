from typing import NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.latents.dictionary_view import DictionaryView, view_of
from analysis.latents.statistics import Statistics, StatisticsAccumulator
from crosscoder.activations.batch import ActivationBatch, split_models
from crosscoder.config import BatchTopK, CrosscoderConfig, DictionaryConfig, ReLU
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.views import View, crosscoder_config
from crosscoder.planted import SMALL, PlantedPair
from tests.analysis.readers import MemoryReader, collect

D_MODELS = (48, 48)
READS: tuple[View, ...] = ("paired", "pooled", "difference")


def observer_on(values: Tensor, reads: View, n_latents: int = 24) -> DictionaryView:
    """An untrained dictionary in float64: theorems about sums hold for any weights."""
    config = DictionaryConfig(reads=reads, n_latents=n_latents, sparsity=BatchTopK(k=4))
    crosscoder = Crosscoder(crosscoder_config(config, D_MODELS)).double()
    values = values.double()
    rows = (
        values
        if reads == "paired"
        else values[:, :48]
        if reads == "pooled"
        else values[:, 48:] - values[:, :48]
    )
    crosscoder.set_normalization(rows)
    crosscoder.calibrate(rows)
    with torch.no_grad():
        crosscoder.b_dec.normal_()
    return view_of(crosscoder, D_MODELS, reads)


def assert_same(one: Statistics, other: Statistics, tolerance: float = 1e-9) -> None:
    assert one.sums.keys() == other.sums.keys()
    assert one.totals.keys() == other.totals.keys()
    for name in one.sums:
        assert torch.allclose(one.sums[name], other.sums[name], rtol=tolerance, atol=tolerance), name
    for name in one.totals:
        assert torch.allclose(one.totals[name], other.totals[name], rtol=tolerance, atol=tolerance), name
    for name in ("documents", "by_source", "source_tokens", "source_documents"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(one.histograms.counts, other.histograms.counts)
    assert torch.allclose(one.histograms.maximum, other.histograms.maximum)
    assert (one.n_tokens, one.n_documents, one.l0) == (other.n_tokens, other.n_documents, other.l0)
    for name, value in one.fve.items():
        assert value is other.fve[name] or value == pytest.approx(other.fve[name], rel=1e-6)
    assert one.cosine == pytest.approx(other.cosine)
    assert one.relative_difference == pytest.approx(other.relative_difference)


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("batch", [1, 7, 20, 64])
def test_batched_equals_whole(reads: View, batch: int) -> None:
    """Even if batches split documents."""
    values = PlantedPair().sample(160)
    reader, view = MemoryReader(values, D_MODELS), observer_on(values, reads)
    assert_same(collect(view, reader), collect(view, reader, list(reader.batches(batch))))


@pytest.mark.parametrize("reads", READS)
def test_the_order_of_documents_does_not_matter(reads: View) -> None:
    values = PlantedPair().sample(400)
    reader, view = MemoryReader(values, D_MODELS), observer_on(values, reads)
    batches = list(reader.batches(40))
    order = np.random.default_rng(0).permutation(len(batches))
    assert_same(collect(view, reader), collect(view, reader, [batches[i] for i in order]))


@pytest.mark.parametrize("reads", READS)
def test_permuting_the_latents_permutes_the_statistics(reads: View) -> None:
    values = PlantedPair().sample(400)
    reader, view = MemoryReader(values, D_MODELS), observer_on(values, reads)
    order = torch.randperm(view.n_latents)
    plain = collect(view, reader)
    crosscoder = Crosscoder(view.crosscoder.config).double()
    state = view.crosscoder.state_dict()
    state |= {
        "W_dec": state["W_dec"][order],
        "W_enc": state["W_enc"][:, order],
        "b_enc": state["b_enc"][order],
    }
    crosscoder.load_state_dict(state)
    permuted = collect(view_of(crosscoder, D_MODELS, reads), reader)
    for name in plain.sums:
        assert torch.allclose(plain.sums[name][:, order], permuted.sums[name], rtol=1e-5, atol=1e-4), name
    assert torch.equal(plain.documents[order], permuted.documents)


@pytest.mark.parametrize("reads", READS)
def test_latents_bias_and_error_account_for_the_whole_shift(reads: View) -> None:
    """x_int - x_ref is a sum of parts, so their projections onto it sum to its square, for any dictionary."""
    values = PlantedPair().sample(2000) + 3 * torch.randn(96)
    statistics = collect(observer_on(values, reads), MemoryReader(values, D_MODELS))
    square = statistics.totals["shift/square"].sum()
    parts = (
        statistics.sums["shift"].sum()
        + statistics.totals["shift/bias"].sum()
        + statistics.totals["shift/error"].sum()
    )
    assert float(parts / square) == pytest.approx(1, abs=1e-5)
    assert float(square) == pytest.approx(
        float((values[:, 48:] - values[:, :48]).double().square().sum()), rel=1e-6
    )


def test_sums_equal_a_dense_computation() -> None:
    """For every quantity."""
    values = PlantedPair().sample(300)
    view = observer_on(values, "paired")
    crosscoder = view.crosscoder
    statistics = collect(view, MemoryReader(values, D_MODELS))
    with torch.no_grad():
        latents = crosscoder.encode(values)
        error = crosscoder.normalize(values.double()) - crosscoder.rebuild(latents)
    decoder = split_models(crosscoder.W_dec.detach().double(), D_MODELS)
    errors = split_models(error, D_MODELS)
    assert torch.equal(statistics.total("fired"), (latents > 0).sum(dim=0).double())
    assert torch.allclose(statistics.total("square"), latents.square().sum(dim=0))
    expected = (latents * (errors[0] @ decoder[1].T)).sum(dim=0)
    assert torch.allclose(statistics.total("error/intervened/reference"), expected, rtol=1e-4, atol=1e-3)
    raw = view.raw[1].double() - view.raw[0].double()
    shift = (values[:, 48:] - values[:, :48]).double()
    assert torch.allclose(
        statistics.total("shift"), (latents * (shift @ raw.T)).sum(dim=0), rtol=1e-4, atol=1e-3
    )
    documents = (latents > 0).view(15, 20, -1).any(dim=1).sum(dim=0)
    assert torch.equal(statistics.documents, documents)
    assert float(statistics.totals["tokens"].sum()) == 300


def test_similarity_of_the_models_is_measured_without_the_dictionary() -> None:
    values = PlantedPair().sample(500)
    statistics = collect(observer_on(values, "paired"), MemoryReader(values, D_MODELS))
    reference, intervened = values[:, :48].double(), values[:, 48:].double()
    assert statistics.cosine == pytest.approx(
        float(torch.cosine_similarity(reference, intervened, dim=1).mean())
    )
    spread = float((reference - reference.mean(dim=0)).square().sum())
    assert statistics.relative_difference == pytest.approx(
        float((intervened - reference).square().sum()) / spread
    )


def test_identical_models_have_no_shift() -> None:
    values = PlantedPair().sample(200)[:, :48].repeat(1, 2)
    statistics = collect(observer_on(values, "paired"), MemoryReader(values, D_MODELS))
    assert float(statistics.totals["shift/square"].sum()) == 0
    assert statistics.fve["difference"] is None
    assert statistics.cosine == pytest.approx(1)


def test_models_of_different_width_share_no_products() -> None:
    config = CrosscoderConfig(
        d_models=(4, 6), model_names=("reference", "intervened"), n_latents=5, sparsity=ReLU(target_l0=2)
    )
    view = view_of(Crosscoder(config), (4, 6), "paired")
    statistics = collect(view, MemoryReader(torch.randn(60, 10), (4, 6)))
    assert set(statistics.sums) == {"fired", "activation", "square"}
    assert statistics.cosine is None
    assert set(statistics.totals) == {"tokens"}


class TwoSources:
    """Every other document is from the second source, and the first token of each is a template token."""

    source_names: tuple[str, ...] = ("even", "odd")
    has_template = True

    def source_of(self, document: Tensor) -> Tensor:
        return document % 2

    def template_at(self, document: Tensor, position: Tensor) -> Tensor:
        return position == 0

    def length_of(self, document: np.ndarray) -> np.ndarray:
        return np.full(len(document), 20)

    def show(self, document: np.ndarray, position: np.ndarray) -> NoReturn:
        raise NotImplementedError


def test_sources_and_template_tokens_are_counted() -> None:
    pair = PlantedPair(counts=SMALL)
    values = pair.sample(1200)
    reader, view = MemoryReader(values, D_MODELS), view_of(pair.dictionary(), D_MODELS, "paired")
    accumulator = StatisticsAccumulator(view, TwoSources(), 8, 0)
    for batch in reader.batches(50):
        accumulator.update(batch, view.observe(batch.values))
    statistics = accumulator.result()
    fired = view.encode(values).sparse_latents.dense() > 0
    odd = reader.document % 2 == 1
    assert torch.equal(statistics.by_source[1], fired[odd].sum(dim=0))
    assert torch.equal(statistics.by_source.sum(dim=0), fired.sum(dim=0))
    assert torch.equal(statistics.histograms.counts.sum(dim=2).long().T, statistics.by_source)
    assert statistics.template is not None
    assert torch.equal(statistics.template, fired[reader.position == 0].sum(dim=0))
    assert statistics.source_tokens.tolist() == [600, 600]
    assert statistics.source_documents.tolist() == [30, 30]


def test_the_block_of_a_document_does_not_depend_on_other_documents() -> None:
    values = PlantedPair().sample(200)
    reader, view = MemoryReader(values, D_MODELS), observer_on(values, "paired")
    whole = collect(view, reader).totals["tokens"]
    batches: list[ActivationBatch] = list(reader.batches(100))
    halves = [collect(view, reader, [batch]).totals["tokens"] for batch in batches]
    assert torch.equal(whole, halves[0] + halves[1])
    assert not torch.equal(whole, collect(view, reader, seed=1).totals["tokens"])
