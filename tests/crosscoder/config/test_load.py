"""Loading settings files with overrides, and the messages about wrong settings."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosscoder.config import (
    AdapterSource,
    BatchTopK,
    CachedActivations,
    DictionaryConfig,
    FileActivations,
    JumpReLU,
    LabelRule,
    ModelSource,
    PairConfig,
    ReLU,
    RunConfig,
    StreamedActivations,
    TextConfig,
    TextSource,
    TopK,
    TrainingConfig,
    WandbConfig,
)
from crosscoder.config.load import dump_config, load_config, with_overrides
from crosscoder.errors import ConfigError

PAIR = """
output: runs/a
pair: {reference: {model: a}, intervened: {model: b}, hookpoint: model.layers.3}
text: {sources: [{path: t.jsonl, name: chat}]}
"""
FILES = "output: runs/a\nactivations: {kind: files, reference: a.npy, intervened: b.npy}\n"


def load(folder: Path, text: str, *words: str) -> RunConfig:
    path = folder / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, words)


def error_message(folder: Path, text: str, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *words)
    message = str(caught.value)
    assert "\n" not in message
    assert "pydantic" not in message
    return message.replace(f"{folder}{os.sep}", "")


# --- scalars ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), (".5", 0.5), ("2", 2.0), ("1_0e-1", 1.0), ("+3e-4", 3e-4)],
)
def test_a_number_is_a_number_in_a_file_and_on_the_command_line(
    tmp_path: Path, text: str, value: float
) -> None:
    assert load(tmp_path, f"{FILES}training: {{lr: {text}}}").training.lr == value
    assert load(tmp_path, FILES, f"training.lr={text}").training.lr == value


def test_whole_numbers_may_be_grouped_or_written_with_an_exponent(tmp_path: Path) -> None:
    config = load(tmp_path, f"{FILES}training: {{n_tokens: 2_000_000, batch_tokens: 1e3}}")
    assert (config.training.n_tokens, config.training.batch_tokens) == (2_000_000, 1000)


@pytest.mark.parametrize("word", ["no", "on", "off", "y", "1:30", "2024-01-01", "0x1F", "null_", "~a"])
def test_words_that_yaml_1_1_gives_a_meaning_stay_text(tmp_path: Path, word: str) -> None:
    assert load(tmp_path, f"{FILES}wandb: {{name: {word}}}").wandb.name == word
    assert load(tmp_path, FILES, f"wandb.name={word}").wandb.name == word


@pytest.mark.parametrize("word", ["*best*", "@home", "%3", "a: b #2", "run #3", "`x`", "-"])
def test_plain_words_on_the_command_line_need_no_quotes(tmp_path: Path, word: str) -> None:
    assert load(tmp_path, FILES, f"wandb.name={word}").wandb.name == word


def test_no_means_false_where_a_boolean_belongs(tmp_path: Path) -> None:
    assert load(tmp_path, f"{FILES}tokens: {{mask_special: no}}").tokens.mask_special is False


@pytest.mark.parametrize("text", ["'1e-4'", "true", ".nan", ".inf", "nan", "inf", "'32'", "1e999"])
def test_text_and_booleans_are_refused_as_numbers(tmp_path: Path, text: str) -> None:
    assert "number" in error_message(tmp_path, f"{FILES}training: {{lr: {text}}}")
    assert "number" in error_message(tmp_path, FILES, f"training.lr={text}")


def test_null_leaves_a_setting_open_only_where_a_rule_can_choose_it(tmp_path: Path) -> None:
    assert load(tmp_path, FILES, "training.lr=null").training.lr is None
    assert "number" in error_message(tmp_path, FILES, "training.warmup=null")


# --- overrides --------------------------------------------------------------------------------------------------------


def test_overrides_take_precedence_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, f"{FILES}training: {{lr: 0.5, warmup: 0.25}}", "training.lr=0.125", "seed=7")
    assert (config.training.lr, config.training.warmup, config.seed) == (0.125, 0.25, 7)
    assert config.training.decay == TrainingConfig().decay


@pytest.mark.parametrize(
    "block",
    [
        "",
        "crosscoder: {sparsity: {kind: batch_topk, k: 99}}",
        "crosscoder: {sparsity: {kind: relu, target_l0: 30, coefficient: 2}}",
        "crosscoder: {sparsity: {kind: jumprelu, target_l0: 30, bandwidth: 2}}",
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_an_override_can_change_the_kind(tmp_path: Path, block: str, order: int) -> None:
    words = ["crosscoder.sparsity.kind=topk", "crosscoder.sparsity.k=8"][::order]
    assert load(tmp_path, FILES + block, *words).crosscoder.sparsity == TopK(k=8)


def test_a_new_kind_keeps_settings_of_both_kinds(tmp_path: Path) -> None:
    block = "crosscoder: {n_latents: 64, sparsity: {kind: relu, target_l0: 30, coefficient: 2}}"
    config = load(tmp_path, FILES + block, "crosscoder.sparsity.kind=jumprelu")
    assert config.crosscoder == DictionaryConfig(n_latents=64, sparsity=JumpReLU(target_l0=30, coefficient=2))


def test_an_override_for_the_old_kind_is_an_error(tmp_path: Path) -> None:
    words = ["crosscoder.sparsity.target_l0=3", "crosscoder.sparsity.kind=topk", "crosscoder.sparsity.k=8"]
    message = error_message(tmp_path, FILES + "crosscoder: {sparsity: {kind: relu, target_l0: 30}}", *words)
    assert message == (
        "crosscoder.sparsity.target_l0: no setting of kind topk; it belongs to kind relu and jumprelu "
        "(on the command line)"
    )


def test_a_block_without_a_kind_has_the_default_kind(tmp_path: Path) -> None:
    config = load(tmp_path, PAIR + "activations: {dtype: float32}\ncrosscoder: {sparsity: {k: 5}}")
    assert config.activations == CachedActivations(dtype="float32")
    assert config.crosscoder.sparsity == BatchTopK(k=5)
    assert load(tmp_path, PAIR, "activations.dtype=float32").activations == CachedActivations(dtype="float32")


def test_overrides_reach_into_lists_and_take_flow_values(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        PAIR,
        "text.sources.0.limit=10",
        "wandb.tags=[a, b]",
        "crosscoder.sparsity={kind: topk, k: 3}",
    )
    assert config.text is not None
    assert config.text.sources[0].limit == 10
    assert config.wandb.tags == ("a", "b")
    assert config.crosscoder.sparsity == TopK(k=3)


def test_overrides_apply_to_loaded_settings(tmp_path: Path) -> None:
    config = load(tmp_path, FILES)
    assert with_overrides(
        config, ["crosscoder.sparsity.kind=relu", "crosscoder.sparsity.target_l0=3"]
    ) == config.model_copy(update={"crosscoder": DictionaryConfig(sparsity=ReLU(target_l0=3))})


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("training: {lrr: 1}", "training.lrr: no such setting (did you mean 'lr'?) (in tiny.yaml)"),
        ("trainin: {lr: 1}", "trainin: no such setting (did you mean 'training'?) (in tiny.yaml)"),
        ("n_latents: 8", "n_latents: no such setting (did you mean 'crosscoder.n_latents'?) (in tiny.yaml)"),
        ("training: {lr: fast}", "training.lr: expected a number, got 'fast' (in tiny.yaml)"),
        (
            "training: {batch_tokens: 2.5}",
            "training.batch_tokens: expected a whole number, got 2.5 (in tiny.yaml)",
        ),
        ("seed: true", "seed: expected a whole number, got true (in tiny.yaml)"),
        ("training: {lr: 0}", "training.lr: should be greater than 0, got 0 (in tiny.yaml)"),
        ("training: 3", "training: expected a mapping of settings, got 3 (in tiny.yaml)"),
        ("training:", "training: expected a mapping of settings, got nothing (in tiny.yaml)"),
        ("wandb: {tags: x}", "wandb.tags: expected a list such as [a, b], got 'x' (in tiny.yaml)"),
        ("wandb: {name: 3}", "wandb.name: expected text, got 3; put it in quotes (in tiny.yaml)"),
        (
            "tokens: {mask_special: perhaps}",
            "tokens.mask_special: expected true or false, got 'perhaps' (in tiny.yaml)",
        ),
        (
            "training: {precision: bf16}",
            "training.precision: expected one of auto, float32, bfloat16, got 'bf16' (did you mean 'bfloat16'?) "
            "(in tiny.yaml)",
        ),
        (
            "crosscoder: {sparsity: {kind: topkk, k: 3}}",
            "crosscoder.sparsity: kind 'topkk' is unknown (did you mean 'topk'?); "
            "give one of batch_topk, topk, relu, jumprelu (in tiny.yaml)",
        ),
        (
            "crosscoder: {sparsity: topk}",
            "crosscoder.sparsity: expected a mapping such as {kind: batch_topk, ...}, got 'topk' (in tiny.yaml)",
        ),
        (
            "crosscoder: {sparsity: {kind: relu}}",
            "crosscoder.sparsity.target_l0: missing; needed: average number of latents that fire on a token; the penalty weight is "
            "controlled to reach it (in tiny.yaml)",
        ),
        (
            "crosscoder: {n_latents: 16, sparsity: {kind: topk, k: 32}}",
            "crosscoder: sparsity.k is 32, larger than n_latents 16; give a k of at most n_latents (in tiny.yaml)",
        ),
        (
            "text: {sources: [{path: a, name: b}]}",
            "activations come from files, so pair and text have no effect; remove them (in tiny.yaml)",
        ),
        ("3: 4", "3: the name of a setting must be text (in tiny.yaml)"),
        ("seed: 1\nseed: 2", "tiny.yaml: not valid YAML, line 4, column 1: 'seed' is given twice"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, block: str, expected: str) -> None:
    assert error_message(tmp_path, FILES + block) == expected


@pytest.mark.parametrize(
    ("intervened", "expected"),
    [
        ("{}", "pair.intervened.model: missing"),
        ("{adaptr: c}", "pair.intervened.adaptr: no such setting (did you mean 'adapter'?)"),
        ("{adapter: c, dtype: float32}", "pair.intervened.dtype: cannot be combined with adapter"),
        ("{adapter: 3}", "pair.intervened.adapter: expected text, got 3"),
        ("{model: c, revision: 12}", "pair.intervened.revision: expected text, got 12"),
        ("c", "pair.intervened: expected a mapping of settings, got 'c'"),
        ("{context: 3}", "pair.intervened.context: expected text, got 3"),
        (
            "{model: c, device_map: 3}",
            "pair.intervened.device_map: expected one of auto, balanced, sequential, got 3",
        ),
        (
            "{model: c, device_map: {a: [1]}}",
            "pair.intervened.device_map: expected one of auto, balanced, sequential, got {'a': [1]}",
        ),
        ("{model: c, device_map: {}}", "pair.intervened: device_map is empty"),
        ("{model: c, offload_folder: d}", "pair.intervened: offload_folder is given, but device_map is not"),
    ],
)
def test_only_the_matching_variant_is_reported(tmp_path: Path, intervened: str, expected: str) -> None:
    message = error_message(tmp_path, PAIR.replace("{model: b}", intervened))
    assert message.startswith(expected)
    assert "Source" not in message


def test_a_context_allows_no_snapshots(tmp_path: Path) -> None:
    text = PAIR.replace("{model: b}", "{context: before}, snapshots: [{model: c}]")
    assert error_message(tmp_path, text).startswith(
        "pair: 1 snapshots, but a context leaves the weights unchanged, so there are no checkpoints in between; remove snapshots"
    )


CHAIN = FILES.replace("b.npy", "b.npy, snapshots: [c.npy]")


@pytest.mark.parametrize("reads", ["pooled", "difference"])
def test_snapshots_need_the_paired_view(tmp_path: Path, reads: str) -> None:
    assert error_message(tmp_path, f"{CHAIN}crosscoder: {{reads: {reads}}}") == (
        f"crosscoder.reads is '{reads}', which reads two models, but there are 1 snapshots between them; use 'paired', or "
        "remove the snapshots (in tiny.yaml)"
    )


def test_exclusive_latents_are_counted_for_every_model(tmp_path: Path) -> None:
    text = "crosscoder: {exclusive: 0.4}"
    assert load(tmp_path, FILES + text).crosscoder.exclusive == 0.4
    assert "0.4 for each of 3 models and tied 0 add up to more than 1" in error_message(
        tmp_path, CHAIN + text
    )


def test_several_errors_are_counted_and_a_misspelling_comes_first(tmp_path: Path) -> None:
    message = error_message(
        tmp_path, "output: a\nactivations: {kind: files, referenc: a.npy, intervened: b.npy}"
    )
    assert message.startswith("activations.referenc: no such setting (did you mean 'reference'?)")
    assert message.endswith("(in tiny.yaml; 1 more)")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("lr", "'lr': expected KEY=VALUE, e.g. training.lr=3e-4"),
        ("training.=3", "'training.=3': expected KEY=VALUE, e.g. training.lr=3e-4"),
        ("training.lr=fast", "training.lr: expected a number, got 'fast' (on the command line)"),
        ("training.lrr=1", "training.lrr: no such setting (did you mean 'lr'?) (on the command line)"),
        ("output.x=1", "output: is 'runs/a', so it has no setting 'x'"),
        ("training.lr=[1", "training.lr: '[1' is not valid YAML, line 1, column 3: expected ',' or ']'"),
        (
            "crosscoder.sparsity.kind=topkk",
            "crosscoder.sparsity: kind 'topkk' is unknown (did you mean 'topk'?)",
        ),
    ],
)
def test_a_wrong_override_is_one_line(tmp_path: Path, word: str, expected: str) -> None:
    assert error_message(tmp_path, FILES, word).startswith(expected)


def test_a_missing_list_entry_is_named(tmp_path: Path) -> None:
    expected = "text.sources.1: no such entry; text.sources has 1 entries, counted from 0"
    assert error_message(tmp_path, PAIR, "text.sources.1.limit=3") == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "tiny.yaml: is empty, expected settings such as 'output: runs/first'"),
        (b"# nothing\n", "tiny.yaml: is empty, expected settings such as 'output: runs/first'"),
        (b"- a\n", "tiny.yaml: expected a mapping of settings, got ['a']"),
        (b"output: a\nseed: [1\n", "tiny.yaml: not valid YAML, line 3, column 1: expected ',' or ']'"),
        (
            b"output: !!python/name:os.system x\n",
            "tiny.yaml: not valid YAML, line 1, column 9: could not determine",
        ),
        (b"output: \xff\n", "tiny.yaml: not UTF-8 text (byte 8), expected a YAML file"),
        (b"output: \x00\n", "tiny.yaml: not valid YAML, special characters are not allowed"),
        (b"[" * 20_000, "tiny.yaml: line 1, column 51: nested too deeply, more than 50 levels"),
    ],
)
def test_a_file_without_settings_is_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).replace(f"{tmp_path}{os.sep}", "").startswith(expected)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_with_similar_names(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(FILES)
    with pytest.raises(ConfigError, match=r"tinny\.yaml: no such file \(did you mean 'tiny\.yaml'\?\)$"):
        load_config(tmp_path / "tinny.yaml")
    with pytest.raises(ConfigError, match=r"x\.yaml: no such file, and no folder .*elsewhere$"):
        load_config(tmp_path / "elsewhere" / "x.yaml")
    with pytest.raises(ConfigError, match=r"is a folder, expected a YAML file; it holds tiny\.yaml$"):
        load_config(tmp_path)


@given(st.data())
def test_one_changed_letter_in_a_key_never_passes(data: st.DataObject) -> None:
    block, name = data.draw(
        st.sampled_from(
            [(block, name) for block in ("training", "analysis", "wandb") for name in _names(block)]
        )
    )
    index = data.draw(st.integers(0, len(name) - 1))
    letter = data.draw(st.characters(categories=["Ll"], max_codepoint=127))
    wrong = name[:index] + letter + name[index + 1 :]
    if wrong in _names(block):
        return
    with pytest.raises(ConfigError, match=rf"^{block}\.{wrong}: no such setting") as caught:
        with_overrides(RunConfig.model_validate(_FILES), [f"{block}.{wrong}=1"])
    assert "\n" not in str(caught.value)


_FILES = {"output": "runs/a", "activations": {"kind": "files", "reference": "a.npy", "intervened": "b.npy"}}


def _names(block: str) -> list[str]:
    value = getattr(RunConfig.model_validate(_FILES), block)
    return list(type(value).model_fields)


# --- paths ------------------------------------------------------------------------------------------------------------


def test_relative_paths_resolve_against_the_file_if_they_exist_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "configs"
    (folder / "base").mkdir(parents=True)
    (folder / "t.jsonl").touch()
    (folder / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    text = """
output: runs
pair: {reference: {model: base}, intervened: {adapter: org/adapter}, hookpoint: model.layers.3}
text: {sources: [{path: t.jsonl, name: here}, {path: other.jsonl, name: there}, {path: "*.jsonl", name: all}, {path: "*.csv", name: none}]}
"""
    (folder / "x.yaml").write_text(text)
    config = load_config(Path("configs/x.yaml"))
    assert config.pair is not None
    assert config.text is not None
    assert config.pair.reference.model == str(folder / "base")
    assert config.pair.intervened == AdapterSource(adapter="org/adapter")
    assert [source.path for source in config.text.sources] == [
        folder / "t.jsonl",
        Path("other.jsonl"),
        folder / "*.jsonl",
        Path("*.csv"),
    ]
    assert config.output == Path("runs")


def test_paths_in_a_list_resolve_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "early").mkdir(parents=True)
    (tmp_path / "configs" / "c.npy").touch()
    monkeypatch.chdir(tmp_path)
    files = "{kind: files, reference: a.npy, intervened: b.npy, snapshots: [c.npy, d.npy, c.npy]}"
    (tmp_path / "configs" / "x.yaml").write_text(f"output: runs\nactivations: {files}")
    config = load_config(Path("configs/x.yaml"), ["activations.snapshots.2=c.npy"])
    assert isinstance(config.activations, FileActivations)
    assert config.activations.snapshots == (tmp_path / "configs" / "c.npy", Path("d.npy"), Path("c.npy"))
    assert config.n_snapshots == 3
    pair = "{reference: {model: a}, snapshots: [{model: early}, {adapter: early}], intervened: {model: b}, hookpoint: h}"
    (tmp_path / "configs" / "y.yaml").write_text(
        f"output: runs\npair: {pair}\ntext: {{sources: [{{path: t.jsonl, name: t}}]}}"
    )
    config = load_config(Path("configs/y.yaml"))
    assert config.pair is not None
    early = str(tmp_path / "configs" / "early")
    assert config.pair.snapshots == (ModelSource(model=early), AdapterSource(adapter=early))
    assert config.n_snapshots == 2


def test_a_file_named_like_a_hub_id_is_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    config = load(tmp_path, PAIR)
    assert config.pair is not None
    assert config.pair.reference.model == "a"


def test_paths_on_the_command_line_are_relative_to_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "a.npy").touch()
    (tmp_path / "b.npy").touch()
    config = load(tmp_path, FILES, "activations.reference=a.npy")
    assert isinstance(config.activations, FileActivations)
    assert (config.activations.reference, config.activations.intervened) == (
        Path("a.npy"),
        tmp_path / "b.npy",
    )


# --- round trip -------------------------------------------------------------------------------------------------------

TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12
) | st.sampled_from(["1e-4", "no", "null", "0x1F", "1_0", "on", "~", "- a", "a: b"])
COUNT = st.integers(1, 10**12)
POSITIVE = st.floats(min_value=1e-300, max_value=1e30)
WEIGHT = st.floats(min_value=1e-300, max_value=1e6)
TARGET = st.floats(min_value=1e-300, max_value=64)
SHARE = st.floats(0, 1)
OPEN_SHARE = st.floats(0, 1, exclude_min=True, exclude_max=True)
PATH = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8).map(
    lambda name: Path("nowhere-at-all", name)
)

SPARSITY = st.one_of(
    st.builds(BatchTopK, k=st.integers(1, 64)),
    st.builds(TopK, k=st.integers(1, 64)),
    st.builds(ReLU, target_l0=TARGET, coefficient=WEIGHT),
    st.builds(JumpReLU, target_l0=TARGET, bandwidth=WEIGHT, dead_coefficient=SHARE),
)
MODEL = st.builds(
    ModelSource, model=TEXT, revision=st.none() | TEXT, dtype=st.sampled_from(["float32", "bfloat16"])
)
PAIRS = st.builds(
    PairConfig, reference=MODEL, intervened=MODEL | st.builds(AdapterSource, adapter=TEXT), hookpoint=TEXT
)
SOURCE = st.builds(TextSource, path=PATH, name=TEXT, limit=st.none() | COUNT)
TEXTS = st.builds(
    TextConfig, sources=st.lists(SOURCE, min_size=1, max_size=2).map(tuple), held_out=OPEN_SHARE
)
SHARED = {
    "output": PATH,
    "crosscoder": st.builds(
        DictionaryConfig, n_latents=st.integers(64, 10**6), sparsity=SPARSITY, decoder_norm=WEIGHT
    ),
    "training": st.builds(TrainingConfig, lr=POSITIVE, warmup=SHARE, n_tokens=COUNT),
    "wandb": st.builds(
        WandbConfig, project=TEXT, name=st.none() | TEXT, tags=st.lists(TEXT, max_size=2).map(tuple)
    ),
    "seed": st.integers(0, 2**32 - 1),
    "threads": st.none() | st.integers(1, 4096),
}
FROM_MODELS = st.builds(
    RunConfig,
    pair=PAIRS,
    text=TEXTS,
    activations=st.builds(CachedActivations, shard_tokens=COUNT)
    | st.builds(StreamedActivations, buffer_tokens=COUNT),
    **SHARED,
)
FROM_FILES = st.builds(
    RunConfig,
    activations=st.builds(
        FileActivations, reference=PATH, intervened=PATH, documents=st.none() | PATH, held_out=OPEN_SHARE
    ),
    **SHARED,
)


@given(FROM_MODELS | FROM_FILES)
def test_dumped_settings_load_back_equal(tmp_path_factory: pytest.TempPathFactory, config: RunConfig) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    path.write_text(dump_config(config), encoding="utf-8", newline="")
    assert load_config(path) == config


@given(st.builds(LabelRule, weak_norm=SHARE, min_documents=COUNT, confidence=OPEN_SHARE))
def test_any_settings_model_can_be_loaded(tmp_path_factory: pytest.TempPathFactory, rule: LabelRule) -> None:
    path = tmp_path_factory.getbasetemp() / "rule.yaml"
    path.write_text(dump_config(rule), encoding="utf-8")
    assert load_config(path, model=LabelRule) == rule
