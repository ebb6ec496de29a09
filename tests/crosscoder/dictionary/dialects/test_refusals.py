"""What our dictionary cannot represent is refused with the reason; damaged and hostile files are refused and never run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from crosscoder.config.dictionary_source import DictionarySource
from crosscoder.dictionary.dialects.dictionary_files import SourceFiles
from crosscoder.dictionary.dialects.import_dictionary import import_dictionary
from crosscoder.dictionary.dialects.registry import DIALECTS
from crosscoder.errors import ConfigError, CrosscoderError, FormatError
from tests.foreign_dictionaries import CASES, POOLED, REFUSED, saelens


def read(place: Path, **answers: Any) -> Any:
    return import_dictionary(DictionarySource(source=str(place), **answers)).crosscoder


def save_pt(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)  # noqa: TID251
    return path.parent


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_tool_wrote_and_ours_cannot_represent_is_refused(name: str, tmp_path: Path) -> None:
    case = REFUSED[name]
    place = case.write(tmp_path)
    with pytest.raises(FormatError) as caught:
        read(place, **case.answers)
    assert case.why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(place))


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_file_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    place, trace = tmp_path / "source", tmp_path / "it-ran"
    place.mkdir()
    torch.save({"W_enc": Hostile(trace)}, place / "ae.pt", _use_new_zipfile_serialization=zipped)  # noqa: TID251
    with pytest.raises(FormatError, match="holds more than tensors and plain values") as caught:
        read(place)
    assert not trace.exists()
    assert "\n" not in str(caught.value)


def test_a_hostile_array_runs_nothing(tmp_path: Path) -> None:
    place, trace = tmp_path / "source", tmp_path / "it-ran"
    place.mkdir()
    np.savez(place / "params.npz", W_enc=np.array([Hostile(trace)], dtype=object))
    with pytest.raises(FormatError, match="not an archive of numeric arrays"):
        read(place)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["ae.pt", "model.safetensors", "params.npz"])
@pytest.mark.parametrize("content", [b"", b"not what it is called", b"PK\x03\x04 truncated"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=name) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {3: torch.zeros(2)}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(FormatError, match="not a dict of named tensors"):
        read(save_pt(tmp_path / "ae.pt", content))


@pytest.mark.parametrize("text", ["[]", "{", "3"])
def test_damaged_settings_are_named(tmp_path: Path, text: str) -> None:
    saelens(tmp_path, "standard")
    (tmp_path / "cfg.json").write_text(text)
    with pytest.raises(FormatError, match=r"cfg\.json: (not JSON|holds a)"):
        read(tmp_path, **POOLED)


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "topk", "k": "many"},
        {"architecture": "topk"},
        {"architecture": "topk", "k": 10**6},
        {"metadata": {"sae_lens_version": "6.0.0", "crosscoder": {"config": {}}}},
        {"metadata": {"sae_lens_version": "6.0.0", "crosscoder": []}},
        {"metadata": 3},
    ],
)
def test_settings_that_do_not_fit_are_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    saelens(tmp_path, "standard")
    settings = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(settings | change))
    with pytest.raises(FormatError, match=r"do(es)? not fit saelens") as caught:
        read(tmp_path, **POOLED)
    assert "\n" not in str(caught.value)


def test_shapes_and_values_are_checked(tmp_path: Path) -> None:
    saelens(tmp_path, "standard", d_sae=9)
    weights = tmp_path / "sae_weights.safetensors"
    good = {
        "W_enc": torch.ones(6, 9),
        "W_dec": torch.ones(9, 6),
        "b_enc": torch.ones(9),
        "b_dec": torch.ones(6),
    }
    for change, message in (
        ({"W_dec": torch.ones(6, 9)}, r"decoder has shape \[6, 1, 9\], expected \[9, 1, 6\]"),
        ({"b_enc": torch.full((9,), torch.nan)}, "encoder bias holds values that are not finite"),
        ({"W_enc": torch.full((6, 9), torch.inf)}, "encoder holds values that are not finite"),
    ):
        save_file(good | change, weights)
        with pytest.raises(FormatError, match=message):
            read(tmp_path, **POOLED)


def test_nothing_and_too_much_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not found; give a folder, a file or a Hub id"):
        read(tmp_path / "missing" / "deep" / "er")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(
        FormatError, match=r"holds notes\.txt, which no dialect recognizes.*--subfolder.*--from"
    ):
        read(tmp_path)
    with pytest.raises(ConfigError, match=r"'sparsfy' is not known \(did you mean 'sparsify'\?\)"):
        read(tmp_path, dialect="sparsfy")
    with pytest.raises(ConfigError, match="revision: has no effect"):
        read(tmp_path, revision="main")


@pytest.mark.parametrize("name", CASES)
def test_exactly_one_dialect_recognizes_each_dictionary(name: str, tmp_path: Path) -> None:
    place, _ = CASES[name].write(tmp_path / "source")
    found = [dialect.name for dialect in DIALECTS.values() if dialect.recognizes(SourceFiles(place))]
    assert found == [CASES[name].dialect]


def test_a_folder_of_dictionaries_names_them(tmp_path: Path) -> None:
    for hookpoint in ("layers.3", "layers.7"):
        (tmp_path / hookpoint).mkdir()
    with pytest.raises(
        FormatError, match=r"no files but the folders layers\.3, layers\.7, which.*--subfolder"
    ):
        read(tmp_path)


def test_a_single_file_is_a_source_too(tmp_path: Path) -> None:
    place, _ = CASES["ckkissane, numbered"].write(tmp_path)
    save_pt(tmp_path / "4.pt", {"W_enc": torch.zeros(1)})
    answers = CASES["ckkissane, numbered"].answers
    with pytest.raises(FormatError, match="which no dialect recognizes"):
        read(place, **answers)
    assert read(place / "3.pt", **answers).config.n_latents == 20


def test_an_architecture_that_is_not_known_yet_is_named(tmp_path: Path) -> None:
    saelens(tmp_path, "tomorrow")
    with pytest.raises(FormatError, match="architecture tomorrow computes latents in another way"):
        read(tmp_path, **POOLED)


def test_tensors_that_an_architecture_does_not_have_are_refused(tmp_path: Path) -> None:
    saelens(tmp_path, "standard")
    tensors = {name: torch.zeros(6, 6) for name in ("W_enc", "W_dec", "b_dec", "W_skip")}
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    with pytest.raises(FormatError, match="tensors W_skip are not part of the architecture standard"):
        read(tmp_path, **POOLED)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("case", ["no weights", "other weights", "deep settings"])
def test_a_dialect_that_is_named_for_files_of_another_kind_is_refused_in_one_line(
    tmp_path: Path, dialect: str, case: str
) -> None:
    if case == "no weights":
        (tmp_path / "readme.txt").write_text("nothing")
    else:
        names = (
            "W_enc",
            "W_dec",
            "b_enc",
            "b_dec",
            "W_E",
            "W_D",
            "b_E",
            "encoder.weight",
            "encoder.bias",
            "decoder.weight",
            "threshold",
            "k",
        )
        save_file({name: torch.zeros(3) for name in names}, tmp_path / "weights.safetensors")
        settings = {
            "sae_type": "sae",
            "hook_point_in": "a",
            "act_fn": "topk",
            "architecture": "topk",
            "k": 2,
            "norm_activation": "inference",
        }
        text = "[" * 200_000 if case == "deep settings" else json.dumps(settings)
        for name in ("config.json", "cfg.json"):
            (tmp_path / name).write_text(text)
    source = DictionarySource(source=str(tmp_path), dialect=dialect, reads="pooled")
    with pytest.raises(CrosscoderError) as caught:
        import_dictionary(source)
    assert str(caught.value) and "\n" not in str(caught.value)
