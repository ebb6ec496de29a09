"""A cache for delphi, read as its documentation says: every firing of the dictionary on the held-out tokens is in it, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from analysis.latents.trained_run import TrainedRun
from analysis.sharing import delphi_cache
from analysis.sharing.delphi_cache import write_delphi
from crosscoder.activations.shards import ShardReader
from crosscoder.config import BatchTopK, DictionaryConfig, FileActivations, RunConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.dictionary.views import crosscoder_config
from crosscoder.errors import ConfigError, DataError
from crosscoder.run.folder import RunFolder
from tests.tiny_pairs import run_config, save_adapter, save_llama
from training.stages import harvest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("delphi")
    base = save_llama(folder / "base")
    dictionary = DictionaryConfig(n_latents=24, sparsity=BatchTopK(k=4))
    config = run_config(
        folder,
        base,
        {"adapter": str(save_adapter(base, folder / "lora"))},
        crosscoder=dictionary.model_dump(),
    )
    harvest(config)
    run = RunFolder.open(config.output)
    reader = ShardReader(run.activations, "train")
    values = reader.gather(torch.arange(reader.n_tokens)).values.float()
    crosscoder = Crosscoder(crosscoder_config(dictionary, reader.d_models))
    crosscoder.set_normalization(values)
    crosscoder.calibrate(values)
    save_crosscoder(crosscoder, run.crosscoder)
    return run


def test_the_cache_holds_every_firing(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delphi_cache, "CONTEXT", 32)
    write_delphi(run, tmp_path)
    opened = TrainedRun(run, run.read_config())
    (place,) = tmp_path.iterdir()
    settings = json.loads((place / "config.json").read_text())
    names = sorted(
        (path.stem for path in place.glob("*.safetensors")), key=lambda name: int(name.split("_")[0])
    )
    spans = [tuple(map(int, name.split("_"))) for name in names]
    n_latents = opened.crosscoder.config.n_latents
    assert spans[0][0] == 0
    assert spans[-1][1] == n_latents - 1
    assert all(one[1] + 1 == other[0] for one, other in zip(spans, spans[1:], strict=False))
    assert settings["n_splits"] == len(spans)

    documents = opened.documents
    held_out = np.flatnonzero(documents.held_out)
    joined = np.concatenate([documents.tokens_of(index) for index in held_out])
    cached: dict[tuple[int, int], float] = {}
    for name, (first, _) in zip(names, spans, strict=True):
        split = load_file(place / f"{name}.safetensors")
        assert split["tokens"].shape[1] == settings["cache_ctx_len"] == 32
        assert np.array_equal(split["tokens"].numpy().ravel(), joined[: split["tokens"].numel()])
        sequence, position, latent = split["locations"].to(torch.int64).T
        for index, number, value in zip(
            sequence * 32 + position, latent + first, split["activations"], strict=True
        ):
            cached[int(index), int(number)] = float(value)
    assert settings["n_tokens"] == len(joined) // 32 * 32

    begins = dict(
        zip(held_out.tolist(), np.cumsum([0, *documents.lengths[held_out][:-1]]).tolist(), strict=True)
    )
    expected: dict[tuple[int, int], float] = {}
    for batch in opened.reader.batches(100):
        codes = opened.crosscoder.encode(batch.values.float()).detach()
        for token, latent in codes.nonzero().tolist():
            place_of = begins[int(batch.document[token])] + int(batch.position[token])
            if place_of < settings["n_tokens"]:
                expected[place_of, latent] = float(codes[token, latent])
    assert cached.keys() == expected.keys()
    assert cached
    for key, value in expected.items():
        assert cached[key] == pytest.approx(value, rel=2e-3)


def test_too_little_text_and_no_text_are_one_line(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delphi_cache, "CONTEXT", 10**6)
    with pytest.raises(DataError, match="held-out tokens are less than one sequence of 1000000"):
        write_delphi(run, tmp_path)
    arrays = RunConfig(
        output=tmp_path / "arrays", activations=FileActivations(reference=Path("a"), intervened=Path("b"))
    )
    with pytest.raises(ConfigError, match="delphi needs the texts"):
        write_delphi(RunFolder.create(arrays.output, arrays), tmp_path)
