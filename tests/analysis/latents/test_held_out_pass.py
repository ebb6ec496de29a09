"""The pass uses only sparse latents; it must agree with a computation from the full dense code."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import crosscoder.dictionary.topk_selection
from analysis.latents.dictionary_view import DictionaryView, view_of
from analysis.latents.hashing import block_of
from analysis.latents.held_out_pass import Pass, PassAccumulator
from crosscoder.config import AnalysisConfig
from crosscoder.config.model_names import MODEL_NAMES
from crosscoder.dictionary.views import View, view_rows
from tests.analysis.readers import MemoryReader
from tests.dictionaries import KINDS, raw_activations, small_crosscoder

D_MODEL, TOKENS, DOCUMENT = 6, 307, 20
D_MODELS = (D_MODEL, D_MODEL)
READS: tuple[View, ...] = ("paired", "pooled", "difference")
SETTINGS = AnalysisConfig(bootstrap_blocks=16, top_examples=3, quantile_examples=1)


def setting(kind: str, reads: View, n_latents: int = 24) -> tuple[DictionaryView, MemoryReader]:
    """A dictionary with random weights, in float64, and tokens on many of which each latent is silent."""
    values = raw_activations(D_MODELS, TOKENS).double()
    crosscoder = small_crosscoder(kind, "two" if reads == "paired" else "one", n_latents).double()
    rows = view_rows(values, D_MODELS, reads).double()
    crosscoder.set_normalization(rows)
    crosscoder.calibrate(rows)
    return view_of(crosscoder, D_MODELS, reads), MemoryReader(values, D_MODELS, DOCUMENT)


def read_through(view: DictionaryView, reader: MemoryReader, batch: int) -> Pass:
    accumulator = PassAccumulator(view, reader.context(), SETTINGS, 0)
    for part in reader.batches(batch):
        accumulator.update(part)
    return accumulator.result()


class Dense:
    """The same quantities from whole tensors `[token, latent]`."""

    def __init__(self, view: DictionaryView, reader: MemoryReader) -> None:
        crosscoder, reads, values = view.crosscoder, view.reads, reader.values
        reference, intervened = values.split(D_MODEL, dim=1)
        scale = crosscoder.scale.repeat_interleave(D_MODEL)
        shift = intervened - reference
        with torch.no_grad():
            # `view_rows` returns differences in float32.
            rows = shift if reads == "difference" else view_rows(values, D_MODELS, reads)
            codes = crosscoder.encode(rows)
            normalized = (rows - crosscoder.mean) * scale
            written = codes @ crosscoder.W_dec
            rebuilt = (written + crosscoder.b_dec) / scale + crosscoder.mean
            directions = crosscoder.W_dec / scale
            bias = crosscoder.b_dec / scale + crosscoder.mean
        self.per_token: dict[str, Tensor] = {}
        self.of_shift: dict[str, Tensor] = {}
        self.code = self.codes = codes
        if reads == "paired":
            stored, error = crosscoder.W_dec.detach(), normalized - written - crosscoder.b_dec
            targets = {"error": error.detach(), "reconstruction": written}
            for s, side in enumerate(MODEL_NAMES):
                for m, model in enumerate(MODEL_NAMES):
                    for name, target in targets.items():
                        product = target.split(D_MODEL, 1)[m] @ stored.split(D_MODEL, 1)[s].T
                        self.per_token[f"{name}/{side}/{model}"] = codes * product
            raw = directions[:, D_MODEL:] - directions[:, :D_MODEL]
            self.per_token["shift"] = codes * (shift @ raw.T)
            length = (values - bias).square().sum(dim=1) + D_MODEL * float(crosscoder.scale.pow(-2).sum())
            self.per_token["shift/relative"] = self.per_token["shift"] / length[:, None]
            self.of_shift["shift/relative"] = shift.square().sum(dim=1) / length
            self.actual, self.rebuilt, shift_bias = values, rebuilt, bias[D_MODEL:] - bias[:D_MODEL]
        elif reads == "pooled":
            own = codes.chunk(2)
            self.code = torch.maximum(*own)
            self.per_token["shift"] = (own[1] - own[0]) * (shift @ directions.T)
            for name, code in zip(MODEL_NAMES, own, strict=True):
                self.per_token[f"fired/{name}"] = (code > 0).double()
            self.actual, self.rebuilt = values, torch.cat(rebuilt.chunk(2), dim=1)
            shift_bias = torch.zeros_like(bias)
        else:
            self.per_token["shift"] = codes * (shift @ directions.T)
            for name, part in zip(MODEL_NAMES, (reference, intervened), strict=True):
                self.per_token[f"activation/{name}"] = codes * (part @ directions.T)
            self.actual, self.rebuilt, shift_bias = shift, rebuilt, bias
        self.per_token |= {
            "fired": (self.code > 0).double(),
            "activation": self.code,
            "square": self.code.square(),
        }
        error = self.actual - self.rebuilt
        shift_error = error if reads == "difference" else error[:, D_MODEL:] - error[:, :D_MODEL]
        self.of_shift |= {
            "tokens": torch.ones(TOKENS).double(),
            "shift/square": shift.square().sum(dim=1),
            "shift/bias": shift @ shift_bias,
            "shift/error": (shift * shift_error).sum(dim=1),
        }
        self.block = torch.from_numpy(block_of(reader.document.numpy(), SETTINGS.bootstrap_blocks, 0))

    def by_block(self, per_token: Tensor) -> Tensor:
        sums = per_token.new_zeros(SETTINGS.bootstrap_blocks, *per_token.shape[1:])
        return sums.index_add(0, self.block, per_token)

    def top(self) -> Iterator[tuple[int, int, int, float]]:
        """Latent, document, position and peak of the strongest documents."""
        for latent, column in enumerate(self.code.T):
            documents = column.split(DOCUMENT)
            ranked = sorted(range(len(documents)), key=lambda i: (-float(documents[i].max()), i))
            for document in ranked[: SETTINGS.top_examples]:
                peak = float(documents[document].max())
                if peak > 0:
                    yield latent, document, int(documents[document].argmax()), peak


@pytest.mark.parametrize("batch", [TOKENS, 33])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reads", READS)
def test_the_pass_agrees_with_the_dense_code(reads: View, kind: str, batch: int) -> None:
    view, reader = setting(kind, reads)
    found, dense = read_through(view, reader, batch), Dense(view, reader)
    statistics = found.statistics
    fired = dense.code > 0
    assert 0.05 < float(fired.double().mean()) < 0.9
    assert statistics.sums.keys() == dense.per_token.keys()
    for name, per_token in dense.per_token.items():
        torch.testing.assert_close(
            statistics.sums[name], dense.by_block(per_token), rtol=1e-9, atol=1e-9, msg=name
        )
    assert statistics.totals.keys() == dense.of_shift.keys()
    for name, per_token in dense.of_shift.items():
        torch.testing.assert_close(
            statistics.totals[name], dense.by_block(per_token), rtol=1e-9, atol=1e-9, msg=name
        )
    in_document = torch.stack([part.any(dim=0) for part in fired.split(DOCUMENT)])
    assert torch.equal(statistics.documents, in_document.sum(dim=0))
    assert torch.equal(statistics.by_source[0], fired.sum(dim=0))
    assert statistics.l0 == pytest.approx(float((dense.codes > 0).sum()) / len(dense.codes))
    assert torch.equal(statistics.histograms.counts.sum(dim=2).long().T, statistics.by_source)
    torch.testing.assert_close(statistics.histograms.maximum, dense.code.amax(dim=0).float())
    explained = {"difference": (view.shift_of(dense.actual), view.shift_of(dense.rebuilt))}
    if reads != "difference":
        parts = zip(dense.actual.split(D_MODEL, 1), dense.rebuilt.split(D_MODEL, 1), strict=True)
        explained |= dict(zip(MODEL_NAMES, parts, strict=True))
    for name, (actual, rebuilt) in explained.items():
        spread = float((actual - actual.mean(dim=0)).square().sum())
        expected = 1 - float((actual - rebuilt).square().sum()) / spread
        assert statistics.fve[name] == pytest.approx(expected, rel=1e-9), name
    top = zip(found.top.latent, found.top.document, found.top.position, found.top.peak, strict=True)
    expected_top = list(dense.top())
    assert [entry[:3] for entry in top] == [entry[:3] for entry in expected_top]
    assert found.top.peak == pytest.approx([peak for *_, peak in expected_top], rel=1e-9)


class Watch(TorchDispatchMode):
    """Records every strided tensor with as many entries as a dense code."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.entries = entries
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.layout == torch.strided and value.numel() >= self.entries:
                self.seen.append(str(func))
        return result


@pytest.mark.parametrize("reads", READS)
def test_no_tensor_as_large_as_a_dense_code_is_allocated(
    reads: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a dense code is far larger than the weights, the activations and their float64 copies."""
    monkeypatch.setattr(crosscoder.dictionary.topk_selection, "_BLOCK_BYTES", {"cpu": 1})
    view, reader = setting("batch_topk", reads, n_latents=200)
    accumulator = PassAccumulator(view, reader.context(), SETTINGS, 0)
    (batch,) = reader.batches(TOKENS)
    # The statistics themselves are 256 bins and 16 blocks a latent.
    with Watch(TOKENS * 200) as watch:
        accumulator.update(batch)
    assert not watch.seen
    with Watch(TOKENS * 200) as control:
        view.crosscoder.encode(view_rows(batch.values, D_MODELS, reads).double())
    assert control.seen


def test_a_batch_in_which_nothing_fires_counts_its_tokens() -> None:
    view, reader = setting("relu", "paired")
    with torch.no_grad():
        view.crosscoder.b_enc.fill_(-1e6)
    found = read_through(view, reader, 100)
    assert found.statistics.n_tokens == TOKENS
    assert found.statistics.n_documents == -(-TOKENS // DOCUMENT)
    assert not found.statistics.documents.any()
    assert len(found.top) == len(found.sample) == 0
    assert np.isfinite(found.statistics.totals["shift/error"].numpy()).all()
