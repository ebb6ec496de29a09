import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from analysis.stage_times import stage_times
from crosscoder.config import ControlsConfig, RunConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.load import with_overrides
from crosscoder.errors import ConfigError, CrosscoderError, DataError, PairError, ResourceError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.text.documents import tokenize
from tests.crosscoder.config.hostile_settings import bounded
from tests.tiny_pairs import run_config, save_gpt2, save_llama
from training.doctor import check_hook, doctor
from training.recipe import choices, with_chosen
from training.run_time import measured_source, training_times
from training.stages import train


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
        "reference: equals the output of layer 1 in a full pass of 10 documents",
        "intervened: equals the output of layer 1 in a full pass of 10 documents",
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
        "\ntime\n  harvest  about ",
        ": 200 steps of ",
        "training.lr 0.0071 (0.0566 / √64)",
    ):
        assert part in text
    assert "TOO LITTLE" not in text and "TOO FEW" not in text
    controls = next(line for line in text.splitlines() if line.startswith("  controls "))
    assert re.findall(r"(\w+) [\d.]+ s[,;]?", controls.partition(": ")[2]) == [
        "drift", "intermittent", "identity", "shuffled", "seed_1", "seed_2",
    ]  # fmt: skip


def stages_of(text: str) -> dict[str, float]:
    """Seconds of each stage, as the text of `doctor` gives them."""
    lines = text.partition("\ntime\n")[2].splitlines()
    found = {}
    for line in lines:
        if match := re.fullmatch(r"  (.+?) +(?:about|up to) (?:(\d+) min )?([\d.]+) s, \d+%: .+", line):
            found[match[1]] = 60 * int(match[2] or 0) + float(match[3])
    return found


def test_every_stage_has_a_time_and_the_shares_are_of_their_sum(folder: Path) -> None:
    behavior = Behavior.model_validate(
        {
            "name": "asks",
            "prompts": ["one two", "two three", "four five", "six seven"],
            "metric": {"kind": "divergence"},
        }
    )
    config = config_of(folder, training={"n_tokens": 20_000, "batch_tokens": 100}, discovery={"prompts": 40})
    text = doctor(config, [behavior], stage_times)
    stages = stages_of(text)
    assert list(stages) == [
        "harvest", "survey", "train", "sweep", "controls", "splice", "discover", "analyze", "attribute asks",
    ]  # fmt: skip
    shares = [int(share) for share in re.findall(r" s, (\d+)%: ", text)]
    assert abs(sum(shares) - 100) <= len(shares)
    assert "in all   about" in text


def test_twice_the_steps_take_twice_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is a multiple of measured steps: here each step, evaluation and checkpoint takes 10 ms."""
    from training import run_time

    monkeypatch.setattr(run_time, "seconds_each", lambda step, device, **limits: 0.01)
    source = measured_source(torch.randn(512, 16), (8, 8))
    settings = {"n_latents": 64, "sparsity": {"kind": "topk", "k": 4}}
    found = []
    for n_tokens in (10**6, 2 * 10**6):
        config = RunConfig.model_validate(
            {
                "output": "nowhere",
                "activations": {"kind": "files", "reference": "a.npy", "intervened": "b.npy"},
                "crosscoder": settings,
                "training": {"n_tokens": n_tokens, "batch_tokens": 64, "lr": 1e-3},
                "controls": {"seeds": 0, "drift": False, "intermittent": False, "shuffled": False},
            }
        )
        config = with_chosen(config, choices(config, source.d_models, 512))
        times, crosscoder = training_times(config, source, 256)
        assert [one.name for one in times] == ["train", "controls"]
        assert crosscoder.config.n_latents == 64
        found.append(times[0].seconds)
    steps = 10**6 / 64
    assert found[0] == pytest.approx(0.01 * (steps + 2 * steps / 200), rel=0.01)
    assert found[1] / found[0] == pytest.approx(2, rel=0.01)
    assert not Path("nowhere").exists()


def test_what_each_of_several_ranks_needs_is_told(tmp_path: Path) -> None:
    values = torch.randn(1024, 64)
    config = files(tmp_path, values, 2 * values)
    given = {"n_tokens": 20_000, "batch_tokens": 100, "latent_shards": 4}
    config = config.model_copy(update={"training": config.training.model_copy(update=given)})
    config = with_overrides(config, ["crosscoder.n_latents=1022", "crosscoder.sparsity.k=8"])
    text = doctor(config)
    assert "memory   on each of 4 ranks about" in text
    assert re.search(r"  on each of 4 ranks +0\.1 M", text)
    assert "latents  256 of 1,022 on each of 4 ranks" in text
    # 100 tokens, 128 wide, in float32, of which a ring sends 2 · 3/4.
    assert "reconstruction 76.8 kB" in text
    assert text.count("\n  step     about ") == 3
    assert "axis" not in text
    assert "at most half of the batch" in doctor(with_overrides(config, ["training.batch_tokens=4096"]))


@pytest.mark.parametrize(("lr", "steps", "few"), [(1e-3, 100, True), (1e-3, 2000, False), (1e-5, 6000, True)])
def test_too_few_steps_for_the_learning_rate_are_told(
    tmp_path: Path, lr: float, steps: int, few: bool
) -> None:
    values = torch.randn(1024, 64)
    config = files(tmp_path, values, 2 * values)
    training = config.training.model_copy(update={"lr": lr, "n_tokens": 100 * steps, "batch_tokens": 100})
    text = doctor(config.model_copy(update={"training": training, "controls": ControlsConfig.none()}))
    assert (f"TOO FEW STEPS: {steps:,} steps at training.lr {lr:g} move a weight" in text) == few


@pytest.mark.parametrize("n_latents", [10**9, 2**31, 10**15, 2**62])
def test_a_dictionary_beyond_the_machine_is_told_and_never_allocated(tmp_path: Path, n_latents: int) -> None:
    values = torch.randn(512, 8)
    config = files(tmp_path, values, 2 * values)
    larger = config.crosscoder.model_copy(update={"n_latents": n_latents})
    config = config.model_copy(update={"crosscoder": larger})
    with bounded():
        text = doctor(config)
        assert "TOO LITTLE; lower crosscoder.n_latents" in text
        assert "not measured, because the memory does not suffice" in text
        with pytest.raises(
            ResourceError, match=rf"^crosscoder\.n_latents: a dictionary of {n_latents} latents needs"
        ):
            train(config)


HOSTILE = {
    "crosscoder": st.fixed_dictionaries(
        {},
        optional={
            "n_latents": st.sampled_from([1, 2, 64, 4097, 2**31, 10**15, 2**62]),
            "sparsity": st.sampled_from(
                [
                    {"kind": "topk", "k": 1}, {"kind": "batch_topk", "k": 64}, {"kind": "batch_topk", "k": 2**62}, {},
                    {"kind": "relu", "target_l0": 1e-30, "coefficient": 1e6}, {"kind": "jumprelu", "target_l0": 3, "bandwidth": 1e-30},
                ]
            ),
            "reads": st.sampled_from(["paired", "pooled", "difference"]),
            "nested": st.sampled_from([[], [0.5], [1e-9], [0.999]]),
            "exclusive": st.sampled_from([0, 0.5, 1e-9]),
            "decoder_norm": st.sampled_from([1e-30, 1, 1e6]),
        },
    ),
    "training": st.fixed_dictionaries(
        {},
        optional={
            "n_tokens": st.sampled_from([1, 100, 10**18, 2**63 - 1]),
            "batch_tokens": st.sampled_from([1, 7, 4096, 2**40, 2**62]),
            "lr": st.sampled_from([1e-30, 1e-3, 1e30]),
            "warmup": st.sampled_from([0, 1]),
            "k_anneal": st.sampled_from([0, 1]),
            "k_start_multiple": st.sampled_from([1, 1e6]),
            "gradient_clip": st.sampled_from([1e-30, 1e30]),
            "step": st.sampled_from(["auto", "dense", "sparse"]),
            "calibration_tokens": st.sampled_from([1, 2**62]),
            "evaluate_every": st.sampled_from([1, 2**62]),
            "auxiliary": st.sampled_from([{"k": 1}, {"k": 2**62}, {"coefficient": 0}, {"dead_after_tokens": 2**62}]),
        },
    ),
    "controls": st.fixed_dictionaries(
        {}, optional={"seeds": st.sampled_from([0, 1, 100]), "difference": st.booleans(), "workers": st.sampled_from([1, 1024])}
    ),
    "analysis": st.sampled_from([{}, {"bootstrap_samples": 1, "bootstrap_blocks": 1}, {"top_examples": 4096}]),
    "seed": st.sampled_from([0, 2**32 - 1]),
}  # fmt: skip


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    values = torch.randn(512, 8)
    return files(tmp_path_factory.mktemp("hostile"), values, values + 0.1 * torch.randn(512, 8))


def examine(arrays: RunConfig, changes: dict[str, Any]) -> None:
    """Every settings that can be loaded can be examined, within a bound of time and memory."""
    data = arrays.model_dump(mode="json")
    for section, values in changes.items():
        data[section] = data[section] | values if isinstance(values, dict) else values
    try:
        config = RunConfig.model_validate(data)
    except ValidationError:
        assume(False)
        raise
    with bounded(20):
        try:
            text = doctor(config, (), stage_times)
        except CrosscoderError as error:
            text = str(error)
        assert "\ntime\n" in text or re.search(r"crosscoder|training|activations|controls", text), text


def fuzz(arrays: RunConfig, cases: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    limits = settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=checks,
    )
    limits(given(st.fixed_dictionaries({}, optional=HOSTILE))(lambda changes: examine(arrays, changes)))()


def test_hostile_sizes_are_examined_or_refused(arrays: RunConfig) -> None:
    fuzz(arrays, 4)


@pytest.mark.slow
def test_many_hostile_sizes_are_examined_or_refused(arrays: RunConfig) -> None:
    fuzz(arrays, 30)


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


def test_the_last_layer_is_compared_before_the_final_norm(folder: Path) -> None:
    for line in hook_of(config_of(folder, hookpoint="model.layers.2")):
        assert "equals the output of layer 2" in line


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_hook_of_another_architecture(folder: Path, layer: int) -> None:
    config = run_config(folder, folder / "gpt2", folder / "gpt2", text={**texts(folder), "max_length": 60})
    assert config.pair is not None
    pair = config.pair.model_copy(update={"hookpoint": f"transformer.h.{layer}"})
    assert all(
        f"equals the output of layer {layer}" in line
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
        PairError,
        match=r"at model\.layers\.1 of the intervened model differ from the output of decoder layer 1",
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
    from training import memory

    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(memory, "machine_memory", lambda: 10**6)
    text = doctor(config_of(folder))
    assert text.count("TOO LITTLE") == 2
    (folder / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; give the path of a folder"):
        doctor(config_of(folder, output=str(folder / "file" / "run")))
