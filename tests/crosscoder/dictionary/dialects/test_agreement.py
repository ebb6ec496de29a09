"""Files whose parts do not belong together, and numbers of other types, are read exactly or refused with the reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosscoder import Crosscoder, load_crosscoder
from crosscoder.config.dictionary_source import DictionarySource
from crosscoder.config.yaml_1_2 import read_yaml
from crosscoder.dictionary.dialects.import_dictionary import import_dictionary
from crosscoder.dictionary.dialects.saelens import export_saelens
from crosscoder.errors import CrosscoderError, FormatError
from tests.foreign_dictionaries import CASES, PAIR, POOLED, Expected

WEIGHTS = (".safetensors", ".pt", ".npz")
Change = Callable[[dict[str, Any]], dict[str, Any]]


def copied(name: str, folder: Path) -> tuple[Path, Expected]:
    """Write a foreign dictionary to a folder of its own, where it can be changed."""
    place, expected = CASES[name].write(folder / "source")
    if place != folder / "source":
        shutil.copytree(place, folder / "source", ignore=shutil.ignore_patterns("expected.st"))
    return folder / "source", expected


def changed(place: Path, change: Change) -> None:
    """Rewrite the tensors of the one file of weights."""
    (path,) = (path for path in place.iterdir() if path.suffix in WEIGHTS)
    match path.suffix:
        case ".safetensors":
            content = change(load_file(path))
            save_file({key: value.contiguous() for key, value in content.items()}, path)
        case ".npz":
            with np.load(path) as file:
                content = change({key: torch.from_numpy(file[key]) for key in file.files})
            arrays: dict[str, Any] = {key: value.numpy() for key, value in content.items()}
            np.savez(path, **arrays)
        case _:
            torch.save(change(torch.load(path, weights_only=True)), path)  # noqa: TID251


def read(place: Path, name: str) -> Crosscoder:
    answers = dict(CASES[name].answers)
    if str(answers.get("normalization", "")).startswith(".."):
        answers["normalization"] = str(place / answers["normalization"])
    return load_crosscoder(place, **answers)


def is_matrix(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


def to_type(dtype: torch.dtype) -> Change:
    return lambda tensors: {
        key: value.to(dtype) if is_matrix(value) else value for key, value in tensors.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_a_tensor_that_the_format_does_not_have_is_refused(name: str, tmp_path: Path) -> None:
    place, _ = copied(name, tmp_path)
    changed(place, lambda tensors: tensors | {"skip.weight": torch.ones(6, 6)})
    with pytest.raises(FormatError, match=r"no dialect recognizes|skip\.weight") as caught:
        read(place, name)
    assert "\n" not in str(caught.value)
    with pytest.raises(FormatError, match=r"skip\.weight") as caught:
        load_crosscoder(place, dialect=CASES[name].dialect, **CASES[name].answers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_weights_of_a_quantization_are_not_taken_for_weights(name: str, tmp_path: Path) -> None:
    place, _ = copied(name, tmp_path)
    # Equal decoder norms, which some formats need, are equal ones after rounding to zero, too.
    changed(
        place,
        lambda tensors: to_type(torch.int8)(
            {key: value * 0 if is_matrix(value) else value for key, value in tensors.items()}
        ),
    )
    with pytest.raises(FormatError, match="numbers of type int8, as after a quantization"):
        read(place, name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_weights_of_another_precision_are_those_numbers(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    if "_equal" in name and dtype != torch.float64:
        pytest.skip("rounding makes its decoder norms unequal, which is refused")
    if name == "Gemma Scope 1" and dtype == torch.bfloat16:
        pytest.skip("numpy has no bfloat16")
    place, expected = copied(name, tmp_path)
    changed(place, to_type(dtype))
    rounded, _ = copied(name, tmp_path / "rounded")
    changed(rounded, lambda tensors: to_type(torch.float32)(to_type(dtype)(tensors)))
    one, other = read(place, name), read(rounded, name)
    assert one.config == other.config
    for key, value in one.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, other.state_dict()[key], rtol=1e-6, atol=1e-6, equal_nan=True)
    assert expected.codes.shape[1] == one.config.n_latents


SIZES = {
    "crosscoder_learning, CrossCoder": ("activation_dim", "dict_size", "num_layers"),
    "crosscoder_learning, BatchTopKSAE": ("activation_dim", "dict_size"),
    "ckkissane": ("d_in", "dict_size"),
    "SAELens, jumprelu": ("d_in", "d_sae"),
    "sparsify, topk": ("d_in", "num_latents"),
    "Llamascopium, relu": ("d_model", "expansion_factor", "hook_points"),
    "dictionary_learning, topk": ("activation_dim", "dict_size"),
    "DFC, standardized": ("activation_dim", "dict_size"),
    "crosscode, relu": ("d_model", "n_latents", "n_models"),
    "Gemma Scope 2": ("architecture",),
}


@pytest.mark.parametrize(
    ("name", "setting"), [(name, each) for name, found in SIZES.items() for each in found]
)
def test_settings_of_another_dictionary_are_refused(name: str, setting: str, tmp_path: Path) -> None:
    place, _ = copied(name, tmp_path)
    (path,) = (path for path in place.iterdir() if path.suffix in (".json", ".yaml"))
    settings = json.loads(path.read_text()) if path.suffix == ".json" else read_yaml(path.read_text())
    values = {"hook_points": ["base.L1", "a", "b"], "architecture": "topk"}
    settings.get("trainer", settings)[setting] = values.get(setting, 77)
    path.write_text(json.dumps(settings))
    with pytest.raises(FormatError, match="take settings and weights of the same dictionary") as caught:
        read(place, name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(place))


def test_another_code_normalization_is_refused_and_another_k_is_told(tmp_path: Path) -> None:
    place, _ = copied("crosscoder_learning, BatchTopKCrossCoder MIXED", tmp_path)
    settings = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(settings | {"k": 7}))
    imported = import_dictionary(DictionarySource(source=str(place), **PAIR))
    assert "its settings say k 7, and its weights k 3, which is taken" in imported.notes
    (place / "config.json").write_text(json.dumps(settings | {"code_normalization": "SAE"}))
    with pytest.raises(FormatError, match="say code_normalization SAE, and its weights MIXED"):
        load_crosscoder(place, **PAIR)


def test_two_files_that_differ_are_not_chosen_between(tmp_path: Path) -> None:
    place, _ = copied("crosscoder_learning, CrossCoder", tmp_path)
    tensors = load_file(place / "model.safetensors")
    torch.save(tensors, place / "ae.pt")  # noqa: TID251
    whole = load_crosscoder(place, **PAIR)
    torch.save(tensors | {"encoder.bias": tensors["encoder.bias"] + 1}, place / "ae.pt")  # noqa: TID251
    with pytest.raises(
        FormatError, match=r"holds model\.safetensors and ae\.pt, which differ; name the file"
    ):
        load_crosscoder(place, **PAIR)
    assert torch.equal(load_crosscoder(place / "model.safetensors", **PAIR).b_enc, whole.b_enc)
    assert torch.equal(load_crosscoder(place / "ae.pt", **PAIR).b_enc, whole.b_enc + 1)


@pytest.mark.parametrize("name", ["SAELens, topk by decoder norms", "SAELens, centered topk"])
def test_a_latent_without_a_decoder_row_is_no_damage(name: str, tmp_path: Path) -> None:
    place, expected = copied(name, tmp_path)
    whole = read(place, name)

    def without(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors["W_dec"][often] = 0
        return tensors

    often = int(whole.encode(expected.activations[:, None]).sum(dim=0).argmax())
    changed(place, without)
    codes = read(place, name).encode(expected.activations[:, None])
    assert bool(codes.isfinite().all()) and bool((codes[:, often] == 0).all())
    assert bool((codes > 0).any())


def test_a_latent_of_zero_norm_stays_off_in_saelens_at_a_threshold_of_zero(tmp_path: Path) -> None:
    place, expected = copied("crosscoder_learning, BatchTopKCrossCoder CROSSCODER", tmp_path)

    def off(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors["decoder.weight"][:, 3] = 0
        return tensors | {"threshold": torch.tensor(0.0)}

    changed(place, off)
    crosscoder = load_crosscoder(place, **PAIR)
    export_saelens(crosscoder, tmp_path / "out")
    assert not bool(load_file(tmp_path / "out" / "sae_weights.safetensors")["threshold"].isnan().any())
    again = load_crosscoder(tmp_path / "out")
    torch.testing.assert_close(
        again.encode(expected.activations), crosscoder.encode(expected.activations), rtol=1e-4, atol=1e-4
    )


def test_a_k_that_is_too_large_is_told_without_a_stray_sign(tmp_path: Path) -> None:
    place, _ = copied("sparsify, topk", tmp_path)
    settings = json.loads((place / "cfg.json").read_text())
    (place / "cfg.json").write_text(json.dumps(settings | {"k": 4000}))
    with pytest.raises(
        CrosscoderError, match=r"fit sparsify \(sparsity\.k is 4000, larger than n_latents 14"
    ):
        load_crosscoder(place, **POOLED)
