"""No settings give a traceback, hang or fill the memory: each case is a valid value, or one printable line that names a setting."""

import functools
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from crosscoder.config import RunConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.explanation import ExplanationSettings
from crosscoder.config.introspection import known_places
from crosscoder.config.load import dump_config, load_config, with_overrides
from crosscoder.config.requirements import Requirements
from crosscoder.errors import ConfigError, CrosscoderError

from .hostile_settings import Raw, as_file, as_yaml, bounded, hostile, overrides_of, settings_of

MODELS: tuple[type[BaseModel], ...] = (RunConfig, Behavior, ExplanationSettings, Requirements)
FILES = {"output": "runs/x", "activations": {"kind": "files", "reference": "a.npy", "intervened": "b.npy"}}
PAIR = {
    "output": "runs/x",
    "pair": {"reference": {"model": "a"}, "intervened": {"model": "b"}, "hookpoint": "model.layers.1"},
    "text": {"sources": [{"path": "a.jsonl", "name": "a"}]},
}
BEHAVIOR = {"name": "a", "prompts": ["a", "b", "c", "d"], "metric": {"kind": "pattern", "pattern": "x"}}
BASES: dict[type[BaseModel], tuple[dict[str, Any], ...]] = {
    RunConfig: (FILES, PAIR),
    Behavior: (BEHAVIOR,),
    ExplanationSettings: ({"limit": 1},),
    Requirements: ({"validity": {"robustness": {"at_least": 0.8}}},),
}
LONGEST_MESSAGE = 1100


@functools.cache
def places(model: type[BaseModel]) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(known_places(model)))


def load(model: type[BaseModel], content: str, words: list[str]) -> BaseModel | str:
    """Load a file, and return its settings, or the message of its refusal."""
    with tempfile.TemporaryDirectory() as folder, bounded():
        path = Path(folder) / "x.yaml"
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
        try:
            config = load_config(path, words, model)
        except ConfigError as error:
            return str(error)
        # What is accepted can be stored, and means the same when it is read again.
        stored = path.with_name("stored.yaml")
        stored.write_text(dump_config(config), encoding="utf-8")
        assert load_config(stored, (), model) == config
        return config


def check(model: type[BaseModel], content: str, words: list[str]) -> None:
    found = load(model, content, words)
    if isinstance(found, str):
        check_line(found, model, [content, *words])


def check_line(line: str, model: type[BaseModel], given: list[str]) -> None:
    assert line.isprintable() and 10 < len(line) <= LONGEST_MESSAGE
    named = {part for place in places(model) for part in place}
    assert (
        "x.yaml" in line
        or "on the command line" in line
        or any(name in line for name in named)
        or "KEY=VALUE" in line
    )


def whole_files(model: type[BaseModel]) -> Callable[..., None]:
    @given(drawn=settings_of(model))
    def run(drawn: dict[str, Any]) -> None:
        check(model, as_file(drawn), [])

    return run


def one_place(model: type[BaseModel]) -> Callable[..., None]:
    """One hostile value in valid settings: the refusal is about this value, and names its setting."""

    @given(base=st.sampled_from(BASES[model]), place=st.sampled_from(places(model)), value=hostile())
    def run(base: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
        content = as_file(base)
        found = load(model, content, [f"{'.'.join(place)}={as_yaml(value)}"])
        if isinstance(found, str):
            check_line(found, model, [])
            # Another setting may be named where two contradict each other.
            assert place[0] in found or "missing" in found or "pair" in found

    return run


def command_lines(model: type[BaseModel]) -> Callable[..., None]:
    @given(base=st.sampled_from(BASES[model]), words=st.lists(overrides_of(model, places(model)), max_size=4))
    def run(base: dict[str, Any], words: list[str]) -> None:
        check(model, as_file(base), words)
        with bounded():
            try:
                with_overrides(model.model_validate(base), words)
            except ConfigError as error:
                check_line(str(error), model, words)

    return run


def files_of_bytes(model: type[BaseModel]) -> Callable[..., None]:
    pieces = st.sampled_from(
        [
            "{",
            "}",
            "[",
            "]",
            ":",
            " ",
            "\n",
            "- ",
            "a",
            "&a ",
            "*a",
            "<<: ",
            "!!map ",
            "? ",
            "|",
            "'",
            '"',
            "\t",
            "\0",
            "#",
        ]
    )

    @given(content=st.lists(pieces, max_size=40).map("".join) | st.text(max_size=60))
    def run(content: str) -> None:
        check(model, content, [])

    return run


KINDS = (whole_files, one_place, command_lines, files_of_bytes)


def fuzz(kind: Callable[[type[BaseModel]], Callable[..., None]], model: type[BaseModel], cases: int) -> None:
    checks = [
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
        HealthCheck.filter_too_much,
    ]
    # Not shrunk: a case that hangs or fills the memory would do so again at every try.
    phases = [Phase.explicit, Phase.generate]
    settings(max_examples=cases, deadline=None, database=None, phases=phases, suppress_health_check=checks)(
        kind(model)
    )()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_settings_are_refused_in_one_line(kind: Any, model: type[BaseModel]) -> None:
    fuzz(kind, model, 40)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_hostile_settings(kind: Any) -> None:
    for model, cases in ((RunConfig, 450), (Behavior, 250), (ExplanationSettings, 80), (Requirements, 60)):
        fuzz(kind, model, cases)


# --- what the fuzz would find only by luck ----------------------------------------------------------------------------


def bomb(first: str, around: str, entry: str) -> str:
    """Nine levels of ten aliases each: a thousand million values."""
    lines = [f"a0: &a0 {first}"]
    for level in range(1, 10):
        inside = ", ".join(entry.format(n=n, alias=f"*a{level - 1}") for n in range(10))
        lines.append(f"a{level}: &a{level} {around.format(inside)}")
    return "\n".join(lines) + "\n"


def chain(levels: int) -> str:
    """Each level holds the one before: deep, but few values."""
    lines = ["a0: &a0 [x]", *(f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, levels))]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (bomb("[x, x]", "[{}]", "{alias}"), "more than 50,000 values"),
        (bomb("{a: x}", "{{{}}}", "k{n}: {alias}"), "more than 50,000 values"),
        (bomb("{a: x}", "{{<<: [{}]}}", "{alias}"), "more than 50,000 values"),
        ("output: &a [*a]\n", "'a' contains itself"),
        ("wandb: &a {<<: *a}\n", "'a' contains itself"),
        ("&r\noutput: x\npair: *r\n", "'r' contains itself"),
        ("? &a [*a]\n: 1\n", "'a' contains itself"),
        (chain(60), "nested too deeply, more than 50 levels"),
        ("output: " + "[" * 100_000, "nested too deeply, more than 50 levels"),
        ("output: [" + "1," * 100_000 + "1]", "more than 50,000 values"),
        ("# " + "x" * (5 << 20), "longer than 4,194,304 bytes"),
    ],
)
def test_a_small_file_never_becomes_a_large_value(content: str, problem: str) -> None:
    found = load(RunConfig, content, [])
    assert isinstance(found, str) and problem in found


def test_anchors_and_merges_of_ordinary_files_are_read() -> None:
    content = "output: &o runs/x\nactivations: {kind: files, reference: *o, intervened: b}\ncrosscoder: {sparsity: &s {kind: topk, k: 2}}\n"
    found = load(RunConfig, content + "wandb: {tags: [*o, *o]}\n", [])
    assert isinstance(found, RunConfig) and found.wandb.tags == ("runs/x", "runs/x")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (
            "crosscoder.n_latents=1e30",
            "crosscoder.n_latents: expected a whole number of at most 9,223,372,036,854,775,807, got 1e+30",
        ),
        (
            "controls.seeds=1000000000000000000",
            "controls.seeds: should be less than or equal to 100, got 1000000000000000000",
        ),
        (
            "crosscoder.sparsity={kind: relu, target_l0: 4, coefficient: 1e39}",
            "crosscoder.sparsity.coefficient: should be less than or equal to 1000000, got 1e+39",
        ),
        ("training.lr=1e39", "training.lr: expected a number from -1e+30 to 1e+30, got 1e+39"),
        (
            "output=" + "a" * 5000,
            "output: 'aaaaaaaaaaaa...aaaaaaaaaaaaa' is a path that no file system takes; give a shorter one",
        ),
        (
            "behaviors=[" + "a" * 5000 + "]",
            "behaviors.0: 'aaaaaaaaaaaa...aaaaaaaaaaaaa' is a path that no file system takes",
        ),
        (
            "crosscoder.load.source=" + "a/" * 1500,
            "crosscoder.load.source: 'a/a/a/a/a/a/.../a/a/a/a/a/a/' is a path that no file system takes",
        ),
        ("output=", "output: expected a path, got nothing"),
        ('output=""', "output: is empty; give a path"),
        ("behaviors." + "9" * 5000 + "=1", "behaviors: expected a list"),
        ("wandb.name=a\0b", "wandb.name: 'a\\x00b' contains a zero byte; remove it"),
        ("wandb.name=\udcff", "wandb.name: '\\udcff' is not valid Unicode; give text that UTF-8 can store"),
        ("crosscoder.sparsity={kind: jumprelu, target_l0: 9}", None),
        (
            "crosscoder={n_latents: 8, sparsity: {kind: jumprelu, target_l0: 9}}",
            "crosscoder: sparsity.target_l0 is 9.0, larger than n_latents 8",
        ),
    ],
)
def test_values_that_nothing_could_use_are_named(word: str, expected: str | None) -> None:
    found = load(RunConfig, as_file(FILES), [word])
    assert (
        isinstance(found, RunConfig)
        if expected is None
        else isinstance(found, str) and found.startswith(expected)
    )


@pytest.mark.parametrize("place", ["reference: {}", "reference: a, intervened: b, snapshots: [{}]"])
def test_a_path_in_a_file_that_cannot_be_looked_up_is_one_line(place: str) -> None:
    long = "/".join(["a" * 300] * 3)
    found = load(RunConfig, f"output: x\nactivations: {{kind: files, {place.format(long)}}}\n", [])
    assert isinstance(found, str) and "cannot be looked up (File name too long); name another path" in found


@pytest.mark.parametrize("pattern", ["(" * 5000 + ")" * 5000, "a{99999999999}", "(" + "a" * 5000])
def test_a_pattern_that_python_cannot_compile_is_one_line(pattern: str) -> None:
    found = load(Behavior, as_file({**BEHAVIOR, "metric": {"kind": "pattern", "pattern": pattern}}), [])
    assert (
        isinstance(found, str)
        and found.startswith("metric.pattern: ")
        and "is not a regular expression" in found
    )


def test_every_message_of_a_user_error_is_one_printable_line() -> None:
    line = str(CrosscoderError("a\nb\x1b[2J\u202e" + "c" * 5000))
    assert line.startswith("a b\\x1b[2J\\u202e") and line.isprintable() and len(line) < LONGEST_MESSAGE


def test_the_fuzz_sees_time_and_memory() -> None:
    """Positive control of `bounded`."""
    with pytest.raises(AssertionError, match="took more than"), bounded(0.2):
        for _ in itertools.count():  # in Python, where a signal is seen
            pass
    with pytest.raises(MemoryError), bounded():
        bytearray(2 << 30)
    assert as_yaml([Raw(".nan"), {"a": 1}]) == '[.nan, {"a": 1}]'
