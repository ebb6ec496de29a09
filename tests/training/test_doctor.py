from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crosscoder.config import RunConfig
from crosscoder.errors import ConfigError, DataError, PairError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.text.documents import tokenize
from tests.tiny_pairs import run_config, save_gpt2, save_llama
from training.doctor import check_hook, doctor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    save_llama(folder / "reference")
    save_llama(folder / "intervened", 1)
    save_llama(folder / "wide", 2, width=24)
    save_gpt2(folder / "gpt2")
    return folder


def config_of(
    folder: Path, intervened: str = "intervened", hookpoint: str = "model.layers.1", **more: Any
) -> RunConfig:
    config = run_config(folder, folder / "reference", folder / intervened, **more)
    assert config.pair is not None
    return config.model_copy(update={"pair": config.pair.model_copy(update={"hookpoint": hookpoint})})


def test_the_report_has_every_section(folder: Path) -> None:
    text = doctor(config_of(folder, training={"n_tokens": 20_000, "batch_tokens": 100}))
    for part in (
        str(folder / "reference"),
        "float32, 16 wide at model.layers.1",
        "the same for all models, 300 tokens, with a chat template",
        "reference: equals hidden_states[2] on 10 documents",
        "intervened: equals hidden_states[2] on 10 documents",
        "linear CKA",
        "layer 1       0.",
        "embeddings    ",
        "<- hookpoint",
        "cosine",
        "norm        median",
        "chat        8 documents",
        "prose       24 documents",
        "tokens/s",
        "disk",
        "harvest",
        "memory",
        "for 200 steps of 100 tokens",
        "training.lr 0.0071 (0.0566 / √64)",
        "controls 6.0 times the training time in addition, if trained one after the other: drift, intermittent, identity, shuffled, "
        "seed_1, seed_2",
    ):
        assert part in text
    assert "TOO LITTLE" not in text


def test_unequal_widths_have_no_cosine(folder: Path) -> None:
    text = doctor(config_of(folder, "wide"))
    assert "24 wide" in text
    assert "linear CKA" in text
    assert "cosine" not in text


def test_a_view_that_needs_equal_widths_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"crosscoder\.reads: 'difference' needs two models of equal width"):
        doctor(config_of(folder, "wide", crosscoder={"reads": "difference"}))


def test_an_identity_control_is_recognized(folder: Path) -> None:
    text = doctor(config_of(folder, "reference"))
    assert "an identity control" in text
    assert "linear CKA  1.0000" in text
    assert "cosine      mean 1.0000, lowest 1.0000" in text


def hook_of(config: RunConfig, change: Any = None) -> list[str]:
    assert config.pair is not None
    assert config.text is not None
    pair = load_pair(config.pair)
    if change is not None:
        change(pair)
    documents = tokenize(config.text, config.tokens, pair.tokenizer, pair.chat_template, config.seed)
    return [check_hook(pair, documents, model) for model in range(2)]


def test_the_last_layer_is_compared_after_the_final_norm(folder: Path) -> None:
    for line in hook_of(config_of(folder, hookpoint="model.layers.2")):
        assert "equals hidden_states[3]" in line
        assert "compared after the final norm" in line


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_hook_of_another_architecture(folder: Path, layer: int) -> None:
    config = run_config(folder, folder / "gpt2", folder / "gpt2", text={**texts(folder), "max_length": 60})
    assert config.pair is not None
    pair = config.pair.model_copy(update={"hookpoint": f"transformer.h.{layer}"})
    assert all(
        f"equals hidden_states[{layer + 1}]" in line
        for line in hook_of(config.model_copy(update={"pair": pair}))
    )


def texts(folder: Path) -> dict[str, Any]:
    return {"sources": [{"path": str(folder / "texts/prose.jsonl"), "name": "prose"}]}


def test_a_module_that_is_no_layer_is_not_compared(folder: Path) -> None:
    assert (
        "model.layers.1.mlp is not a decoder layer"
        in hook_of(config_of(folder, hookpoint="model.layers.1.mlp"))[0]
    )


def test_a_hook_that_reads_something_else_is_refused(folder: Path) -> None:
    def misread(pair: ModelPair) -> None:
        network = pair.models[1]
        pair._modules = (pair._modules[0], network.get_submodule("model.layers.0"))

    with pytest.raises(
        PairError, match=r"at model\.layers\.1 of the intervened model differ from .*hidden_states\[2\]"
    ):
        hook_of(config_of(folder), misread)


def files(folder: Path, reference: Any, intervened: Any) -> RunConfig:
    paths = {}
    for name, array in (("reference", reference), ("intervened", intervened)):
        np.save(folder / f"{name}.npy", np.asarray(array, dtype=np.float32))
        paths[name] = str(folder / f"{name}.npy")
    return RunConfig.model_validate(
        {"output": str(folder / "run"), "activations": {"kind": "files", **paths}}
    )


def test_files_are_examined_without_models(tmp_path: Path) -> None:
    values = torch.randn(1024, 8)
    text = doctor(files(tmp_path, values, 2 * values))
    assert "[1,024, 8]" in text
    assert "all values are finite" in text
    assert "768 to train on, 256 held out" in text
    assert "change      median 100.0%" in text
    assert "linear CKA  1.0000" in text
    values[3, 3] = np.nan
    with pytest.raises(DataError, match="NaN or infinite values in 1 of 1024 rows"):
        doctor(files(tmp_path, values, values))


def test_insufficient_disk_and_memory_are_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import doctor as module

    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(module, "machine_memory", lambda: 10**6)
    text = doctor(config_of(folder))
    assert text.count("TOO LITTLE") == 2
    (folder / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; give the path of a folder"):
        doctor(config_of(folder, output=str(folder / "file" / "run")))
