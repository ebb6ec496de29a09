"""Training that begins from a finished dictionary."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from crosscoder.config import BatchTopK, CrosscoderConfig
from crosscoder.config.dictionary_source import DictionarySource
from crosscoder.config.model_names import model_names
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.dialects.saelens import export_saelens
from crosscoder.dictionary.storage import load_crosscoder, save_crosscoder
from crosscoder.errors import ConfigError, FormatError
from tests.dictionaries import KINDS, raw_activations, small_crosscoder
from tests.training.in_memory import make_trainer, planted_source, run_config, source_of
from training.warm_start import starting_point as start_at


def starting_point(folder: Path, shape: CrosscoderConfig) -> Crosscoder:
    return start_at(DictionarySource(source=str(folder)), shape)[0]


class Broken(Exception):
    pass


def shape_of(d_models: tuple[int, ...], **changes: Any) -> CrosscoderConfig:
    settings = {"n_latents": 24, "sparsity": BatchTopK(k=4)} | changes
    return CrosscoderConfig(d_models=d_models, model_names=model_names(len(d_models)), **settings)


@pytest.mark.parametrize("kind", ["batch_topk", "topk", "relu", "jumprelu"])
def test_training_begins_at_the_final_loss_of_the_given_dictionary(tmp_path: Path, kind: str) -> None:
    sparsity = KINDS[kind].model_dump()
    first = make_trainer(run_config(tmp_path / "first", steps=40, sparsity=sparsity))
    finished = first.fit()
    save_crosscoder(finished, tmp_path / "first" / "crosscoder")
    further = run_config(
        tmp_path / "second", sparsity=sparsity, k_anneal=0.0, start_from=tmp_path / "first" / "crosscoder"
    )
    second = make_trainer(further)
    batch, _ = next(planted_source().batches(64))
    fresh = make_trainer(run_config(tmp_path / "fresh", sparsity=sparsity, k_anneal=0.0))
    fresh._initialize()
    second._initialize()
    for name, value in finished.state_dict().items():
        assert torch.equal(second.state.crosscoder.state_dict()[name], value), name
    began = float(second.step(batch)[0]["mse"])
    ended = float(first.step(batch)[0]["mse"])
    assert began == pytest.approx(ended, rel=1e-5)
    assert began < 0.8 * float(fresh.step(batch)[0]["mse"])
    record = second.folder.read_manifest()["started_from"]
    assert record["source"] == str(tmp_path / "first" / "crosscoder")


def test_a_resumed_run_no_longer_needs_the_first_dictionary(tmp_path: Path) -> None:
    place = tmp_path / "first"
    save_crosscoder(make_trainer(run_config(tmp_path / "a", steps=8)).fit(), place)
    whole = make_trainer(run_config(tmp_path / "whole", start_from=place)).fit()
    config = run_config(tmp_path / "broken", start_from=place)
    stopped = make_trainer(config)
    stopped.training = stopped.training.model_copy(update={"checkpoint_every": 5})
    batches = stopped.source.batches(64)

    def five_only(*_: Any) -> Iterator[Any]:
        yield from islice(batches, 5)
        raise Broken

    stopped.source.batches = five_only  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(Broken):
        stopped.fit()
    for path in place.iterdir():
        path.unlink()
    resumed = make_trainer(config).fit()
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("known", [1, 2])
def test_additional_models_begin_as_the_reference(tmp_path: Path, known: int) -> None:
    """On tokens where the new models agree with the reference, latents and reconstructions do not change."""
    before = small_crosscoder("relu", {1: "one", 2: "two"}[known])
    save_crosscoder(before, tmp_path / "before")
    d_models = (6,) * (known + 2)
    after = starting_point(tmp_path / "before", shape_of(d_models, sparsity=KINDS["relu"]))
    values = raw_activations((6,) * known)
    chain = torch.cat([values, values[:, :6], values[:, :6]], dim=1)
    torch.testing.assert_close(after.encode(chain), before.encode(values), rtol=1e-4, atol=1e-4)
    rebuilt, expected = after(chain), before(values)
    torch.testing.assert_close(rebuilt[:, :known], expected, rtol=1e-4, atol=1e-4)
    for index in (known, known + 1):
        torch.testing.assert_close(rebuilt[:, index], expected[:, 0], rtol=1e-4, atol=1e-4)


def test_a_pair_can_be_extended_to_a_chain(tmp_path: Path) -> None:
    source = planted_source()
    finished = make_trainer(run_config(tmp_path / "pair", steps=60)).fit()
    save_crosscoder(finished, tmp_path / "pair" / "crosscoder")
    values, held_out = source.sample(1000), source.held_out().gather(torch.arange(1500)).values
    chain = source_of(
        torch.cat([values, values[:, :48]], dim=1),
        torch.cat([held_out, held_out[:, :48]], dim=1),
        (48, 48, 48),
    )
    config = run_config(tmp_path / "chain", k_anneal=0.0, start_from=tmp_path / "pair" / "crosscoder")
    extended = make_trainer(config, chain)
    extended._initialize()
    fresh = make_trainer(run_config(tmp_path / "fresh", k_anneal=0.0), chain)
    fresh._initialize()
    batch, _ = next(chain.batches(64))
    assert float(extended.step(batch)[0]["mse"]) < 0.8 * float(fresh.step(batch)[0]["mse"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (shape_of((6, 6), n_latents=25), "crosscoder.n_latents 24, but this run has 25"),
        (shape_of((6, 6), sparsity=KINDS["relu"]), "crosscoder.sparsity.kind batch_topk, but this run has relu"),
        (shape_of((6, 8)), "reads reference 6 wide, intervened 6 wide, but this run reads reference 6 wide, intervened 8 wide"),
        (shape_of((6,)), "the first models of this run must be those of the dictionary"),
        (shape_of((6, 6, 7)), "the additional models must be as wide as the reference"),
        (shape_of((6, 6), n_exclusive=2), "exclusive latents 0, but this run has 2"),
        (shape_of((6, 6), n_tied=2), "tied latents 0, but this run has 2"),
    ],
)  # fmt: skip
def test_another_shape_is_refused_in_one_line(tmp_path: Path, shape: CrosscoderConfig, message: str) -> None:
    save_crosscoder(small_crosscoder("batch_topk", "two"), tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        starting_point(tmp_path, shape)
    assert str(caught.value).startswith("training.start_from: ")
    assert "\n" not in str(caught.value)


def test_a_dictionary_with_exclusive_latents_cannot_be_extended(tmp_path: Path) -> None:
    save_crosscoder(Crosscoder(shape_of((6, 6), n_exclusive=2)), tmp_path)
    assert load_crosscoder(tmp_path).config.n_exclusive == 2
    with pytest.raises(ConfigError, match="cannot be extended to 3 models"):
        starting_point(tmp_path, shape_of((6, 6, 6), n_exclusive=2))
    with pytest.raises(FormatError, match="gone: not found"):
        starting_point(tmp_path / "gone", shape_of((6, 6)))


def test_training_begins_from_the_dictionary_of_another_tool(tmp_path: Path) -> None:
    """A TopK dictionary from SAELens, which weights latents by nothing; its decoder rows have equal norms."""
    sparsity = {"kind": "topk", "k": 4}
    first = make_trainer(run_config(tmp_path / "first", steps=8, sparsity=sparsity)).fit()
    export_saelens(first, tmp_path / "theirs")
    source = DictionarySource(source=str(tmp_path / "theirs"))
    start, record = start_at(source, first.config)
    assert record["dialect"] == "saelens"
    assert start.config.scores == "decoder_norms"
    values = planted_source().sample(64)
    assert torch.equal(start.encode(values) > 0, first.encode(values) > 0)
    further = make_trainer(run_config(tmp_path / "second", sparsity=sparsity, start_from=source))
    further._initialize()
    assert further.folder.read_manifest()["started_from"]["dialect"] == "saelens"
    assert torch.equal(further.state.crosscoder.W_dec, start.W_dec)


def test_stored_score_weights_that_differ_from_decoder_norms_are_refused(tmp_path: Path) -> None:
    crosscoder = small_crosscoder("topk", "two")
    stored = Crosscoder(crosscoder.config.model_copy(update={"scores": "stored"}))
    stored.load_state_dict(crosscoder.state_dict() | {"score_weight": torch.ones(24)})
    save_crosscoder(stored, tmp_path)
    with pytest.raises(ConfigError, match="compete by stored weights that differ from their decoder norms"):
        starting_point(tmp_path, shape_of((6, 6), sparsity=KINDS["topk"]))
