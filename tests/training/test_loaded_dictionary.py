"""A run with a dictionary that was trained elsewhere: nothing is trained, and everything that needs a training is named as missing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crosscoder.config import BatchTopK, ControlsConfig, CrosscoderConfig, JumpReLU, RunConfig
from crosscoder.config.model_names import model_names
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.dialects import crosscoder_learning
from crosscoder.dictionary.dialects.saelens import export_saelens
from crosscoder.dictionary.storage import load_crosscoder, read_record, save_crosscoder
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.folder import RunFolder
from tests.analysis.report_runs import report_text
from training.stages import doctor, sweep, train

D_MODEL = 6


@pytest.fixture
def arrays(tmp_path: Path) -> dict[str, Any]:
    """Paired activations as a user's own arrays."""
    generator = np.random.default_rng(0)
    shared = generator.standard_normal((900, D_MODEL)).astype(np.float32)
    np.save(tmp_path / "a.npy", shared)
    np.save(tmp_path / "b.npy", 3 * shared + generator.standard_normal((900, D_MODEL)).astype(np.float32))
    return {"kind": "files", "reference": str(tmp_path / "a.npy"), "intervened": str(tmp_path / "b.npy")}


def dictionary(names: tuple[str, ...] = model_names(2), **changes: Any) -> Crosscoder:
    settings: dict[str, Any] = {"n_latents": 16, "sparsity": BatchTopK(k=3)} | changes
    config = CrosscoderConfig(d_models=(D_MODEL,) * len(names), model_names=names, **settings)
    crosscoder = Crosscoder(config, seed=3)
    crosscoder.set_normalization(torch.randn(200, config.width, generator=torch.Generator().manual_seed(0)))
    crosscoder.calibrate(torch.randn(200, config.width, generator=torch.Generator().manual_seed(1)))
    return crosscoder


def config_of(tmp_path: Path, arrays: dict[str, Any], load: Any, **changes: Any) -> RunConfig:
    section = {"load": load} | changes.pop("crosscoder", {})
    return RunConfig.model_validate(
        {"output": tmp_path / "run", "activations": arrays, "crosscoder": section} | changes
    )


def test_the_dictionary_is_taken_as_it_is(tmp_path: Path, arrays: dict[str, Any]) -> None:
    crosscoder = dictionary()
    save_crosscoder(crosscoder, tmp_path / "own")
    config = config_of(tmp_path, arrays, str(tmp_path / "own"))
    train(config)
    folder = RunFolder.open(config.output)
    taken = load_crosscoder(folder.crosscoder)
    for name, tensor in crosscoder.state_dict().items():
        assert torch.equal(taken.state_dict()[name], tensor), name
    manifest, settings = folder.read_manifest(), folder.read_config()
    assert manifest["loaded"]["calibrated_tokens"] is None
    assert manifest["loaded"]["controls_not_available"] == [
        "drift",
        "intermittent",
        "identity",
        "shuffled",
        "seed_1",
        "seed_2",
    ]
    assert manifest["stages"]["train"]["tokens"] == 0
    assert manifest["evaluation"]["metrics/held_out_l0"] > 0
    assert (settings.crosscoder.n_latents, settings.crosscoder.sparsity) == (16, BatchTopK(k=3))
    assert not (folder.path / "controls").exists()
    assert not folder.metrics.exists()


def test_the_same_settings_continue_the_run(tmp_path: Path, arrays: dict[str, Any]) -> None:
    save_crosscoder(dictionary(), tmp_path / "own")
    config = config_of(tmp_path, arrays, str(tmp_path / "own"))
    train(config)
    before = RunFolder.open(config.output).manifest.read_text()
    train(config)
    train(RunFolder.open(config.output).read_config())
    assert RunFolder.open(config.output).manifest.read_text() == before


@pytest.mark.parametrize("uncalibrated", [False, True])
def test_another_tools_dictionary_keeps_its_threshold_or_is_calibrated(
    tmp_path: Path, arrays: dict[str, Any], uncalibrated: bool
) -> None:
    crosscoder = dictionary()
    threshold = crosscoder.sparsity.get_buffer("threshold")
    stored = float(threshold)
    if uncalibrated:
        threshold.fill_(-1)
    crosscoder_learning.write(crosscoder, tmp_path / "theirs")
    load: dict[str, Any] = {"source": str(tmp_path / "theirs"), "models": ["reference", "intervened"]}
    config = config_of(tmp_path, arrays, load)
    if uncalibrated:
        with pytest.raises(ConfigError, match="was never set; give --threshold"):
            train(config)
        config = config_of(tmp_path, arrays, load | {"uncalibrated": True})
    train(config)
    folder = RunFolder.open(config.output)
    found = float(load_crosscoder(folder.crosscoder).sparsity.get_buffer("threshold"))
    record = folder.read_manifest()["loaded"]
    assert (found == stored) is not uncalibrated
    assert (record["calibrated_tokens"] is not None) is uncalibrated
    if uncalibrated:
        assert folder.read_manifest()["evaluation"]["metrics/held_out_l0"] == pytest.approx(3, rel=0.3)
    origin = read_record(folder.crosscoder)["provenance"]
    assert origin["imported"]["dialect"] == "crosscoder_learning"
    assert origin["training"] is None


@pytest.mark.parametrize("reads", ["pooled", "difference"])
def test_a_dictionary_of_one_model_decides_what_the_run_reads(
    tmp_path: Path, arrays: dict[str, Any], reads: str
) -> None:
    export_saelens(dictionary(("pooled",), sparsity=JumpReLU(target_l0=None)), tmp_path / "sae")
    settings = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    del settings["metadata"]["crosscoder"]
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(settings))
    load = {"source": str(tmp_path / "sae"), "reads": reads}
    if reads == "difference":
        load["direction"] = "intervened-reference"
    config = config_of(tmp_path, arrays, load)
    train(config)
    train(config)
    read = RunFolder.open(config.output).read_config().crosscoder
    assert (read.reads, read.sparsity.kind) == (reads, "jumprelu")


@pytest.mark.parametrize(
    ("made", "changes", "error", "message"),
    [
        (
            {"names": model_names(3)},
            {},
            ConfigError,
            r"reads reference 6, intervened 6, snapshot_1 6 wide, but the models",
        ),
        ({"names": ("reference",)}, {}, ConfigError, "reads reference 6 wide, but the models"),
        (
            {},
            {"crosscoder": {"n_latents": 32}},
            ConfigError,
            "crosscoder.n_latents: 32 is given, but .* has 16",
        ),
        (
            {},
            {"crosscoder": {"reads": "pooled"}},
            ConfigError,
            "crosscoder.reads: pooled is given, but .* has paired",
        ),
        ({}, {"crosscoder": {"sparsity": {"kind": "topk", "k": 3}}}, ConfigError, "crosscoder.sparsity"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path,
    arrays: dict[str, Any],
    made: dict[str, Any],
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    save_crosscoder(dictionary(**made), tmp_path / "own")
    config = config_of(tmp_path, arrays, str(tmp_path / "own"), **changes)
    with pytest.raises(error, match=message) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert not RunFolder(config.output).crosscoder.exists()


def test_doctor_checks_the_dictionary_and_estimates_no_training(
    tmp_path: Path, arrays: dict[str, Any]
) -> None:
    save_crosscoder(dictionary(), tmp_path / "own")
    text = doctor(config_of(tmp_path, arrays, str(tmp_path / "own")))
    assert "the dictionary is loaded, so nothing is chosen" in text
    assert "train    nothing" in text
    with pytest.raises(ConfigError, match=r"crosscoder\.n_latents"):
        doctor(config_of(tmp_path, arrays, str(tmp_path / "own"), crosscoder={"n_latents": 32}))


def test_a_missing_source_is_named(tmp_path: Path, arrays: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="not found; give a folder, a file or a Hub id"):
        train(config_of(tmp_path, arrays, str(tmp_path / "nothing")))


def test_there_is_nothing_to_sweep_or_to_shape(tmp_path: Path, arrays: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"crosscoder\.load: the dictionary is trained already"):
        sweep(config_of(tmp_path, arrays, "somewhere"), [2])
    with pytest.raises(ValueError, match="load trains nothing"):
        config_of(tmp_path, arrays, "somewhere", crosscoder={"tied": 0.5})
    with pytest.raises(ValueError, match=r"training\.start_from has no effect"):
        config_of(tmp_path, arrays, "somewhere", training={"start_from": "elsewhere"})
    with pytest.raises(ValueError, match=r"pair\.hookpoint is null; name the hookpoint"):
        RunConfig.model_validate(
            {
                "output": tmp_path,
                "pair": {"reference": {"model": "a"}, "intervened": {"model": "b"}},
                "text": {"sources": [{"path": "t.jsonl", "name": "t"}]},
                "crosscoder": {"load": "somewhere"},
            }
        )
    with pytest.raises(ValueError, match=r"sparsity\.target_l0 is null; a training needs a number"):
        RunConfig.model_validate(
            {
                "output": tmp_path,
                "activations": arrays,
                "crosscoder": {"sparsity": {"kind": "relu", "target_l0": None}},
            }
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batch_topk", "jumprelu"])
def test_a_run_goes_to_a_page_with_labels_and_says_what_it_cannot_have(
    tmp_path: Path, arrays: dict[str, Any], kind: str
) -> None:
    from crosscoder.command.stages_in_turn import run_all

    sparsity = BatchTopK(k=3) if kind == "batch_topk" else JumpReLU(target_l0=None)
    export_saelens(dictionary(sparsity=sparsity), tmp_path / "theirs")
    config = config_of(
        tmp_path, arrays, str(tmp_path / "theirs"), controls=ControlsConfig(seeds=1).model_dump()
    )
    run_all(config)
    folder = RunFolder.open(config.output)
    text = report_text(folder)
    assert "Loaded from:" in text
    assert "drift, intermittent, identity, shuffled, seed_1" in text
    assert "which the loaded dictionary may have been trained on" in text
    assert "not used in training" not in text
    assert (folder.browser / "index.html").is_file()
