"""Our dictionaries in other tools' formats: read back, they are equal to the bit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crosscoder.config import BatchTopK, CrosscoderConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.dialects import crosscoder_learning
from crosscoder.dictionary.dialects.import_dictionary import load_crosscoder
from crosscoder.dictionary.dialects.saelens import export_saelens
from crosscoder.errors import FormatError
from tests.dictionaries import KINDS, SHAPES, raw_activations, small_crosscoder
from tests.foreign_dictionaries import CASES, DIFFERENCE, PAIR, POOLED

Write = Callable[[Crosscoder, Path], object]


def assert_equal(one: Crosscoder, other: Crosscoder) -> None:
    assert one.config == other.config
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def assert_same_function(one: Crosscoder, other: Crosscoder, scaled: bool = False) -> None:
    values = raw_activations(one.config.d_models)
    with torch.no_grad():
        codes, again = one.encode(values), other.encode(values)
        assert torch.equal(codes > 0, again > 0)
        assert (codes > 0).any()
        if not scaled:
            torch.testing.assert_close(again, codes, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            other.denormalize(other.rebuild(again)), one.denormalize(one.rebuild(codes)), rtol=1e-4, atol=1e-3
        )


@pytest.mark.parametrize("shape", ["two", "three"])
@pytest.mark.parametrize("kind", ["relu", "batch_topk"])
def test_a_crosscoder_comes_back_from_crosscoder_learning_to_the_bit(
    kind: str, shape: str, tmp_path: Path
) -> None:
    crosscoder = small_crosscoder(kind, shape)
    crosscoder_learning.write(crosscoder, tmp_path)
    back = load_crosscoder(tmp_path, models=crosscoder.config.model_names)
    if kind == "relu":  # the target of the training is not in the peer's files
        back.config = crosscoder.config
    assert_equal(crosscoder, back)


@pytest.mark.parametrize("kind", ["relu", "batch_topk"])
def test_a_folded_crosscoder_comes_back_with_the_same_codes(kind: str, tmp_path: Path) -> None:
    folded = small_crosscoder(kind, "two").fold()
    assert not torch.equal(folded.score_scale, torch.ones(2))
    crosscoder_learning.write(folded, tmp_path)
    assert_same_function(folded, load_crosscoder(tmp_path, **PAIR))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_stacked_view_of_saelens_is_read_back_exactly(kind: str, shape: str, tmp_path: Path) -> None:
    crosscoder = small_crosscoder(kind, shape)
    export_saelens(crosscoder, tmp_path / "one")
    back = load_crosscoder(tmp_path / "one")
    assert back.config.model_names == crosscoder.config.model_names
    if kind == "topk":  # latents are multiplied by their norms in the files
        assert_same_function(crosscoder, back, scaled=True)
    elif kind == "jumprelu":
        assert_same_function(crosscoder.fold(), back)
        values = raw_activations(crosscoder.config.d_models)
        assert torch.equal(back.encode(values), crosscoder.fold().encode(values))
    else:
        assert_equal(crosscoder.fold(), back)
    export_saelens(back, tmp_path / "two")
    assert_equal(back, load_crosscoder(tmp_path / "two"))


def test_a_stacked_view_whose_weights_were_changed_is_read_as_it_is(tmp_path: Path) -> None:
    """SAELens can fold the decoder norms into the encoder and save: the record of our export no longer holds."""
    from safetensors.torch import save_file

    crosscoder = small_crosscoder("batch_topk", "two")
    export_saelens(crosscoder, tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    norms = weights["W_dec"].norm(dim=1)
    weights |= {"W_enc": weights["W_enc"] * norms, "b_enc": weights["b_enc"] * norms}
    weights |= {"W_dec": weights["W_dec"] / norms[:, None], "threshold": weights["threshold"] * norms}
    save_file(weights, tmp_path / "sae_weights.safetensors")
    back = load_crosscoder(tmp_path)
    assert back.config.sparsity.kind == "jumprelu"
    assert_same_function(crosscoder, back, scaled=True)


def _export_again(name: str, place: Path, write: Write, tmp_path: Path) -> tuple[Crosscoder, Crosscoder]:
    """Import a foreign dictionary, export it and import that."""
    answers = dict(CASES[name].answers)
    if "normalization" in answers and str(answers["normalization"]).startswith("../"):
        answers["normalization"] = str(place / str(answers["normalization"]))
    first = load_crosscoder(place, **answers)
    write(first, tmp_path / "again")
    view = DIFFERENCE if first.config.model_names == ("difference",) else POOLED
    own = dict(PAIR) if len(first.config.d_models) == 2 else dict(view)
    if write is export_saelens:
        own = {}
    return first, load_crosscoder(tmp_path / "again", **own)


EXACT = [
    name
    for name in CASES
    if name.startswith("crosscoder_learning")
    or name in ("ckkissane", "DFC, dfc_learning", "dictionary_learning, matryoshka")
]


@pytest.mark.parametrize("name", EXACT)
def test_what_was_imported_goes_out_and_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    place, _ = CASES[name].write(tmp_path / "source")
    first, back = _export_again(name, place, crosscoder_learning.write, tmp_path)
    if (
        "one scale per dimension" in name
    ):  # its score weights fit no code normalization, so latents are rescaled once
        crosscoder_learning.write(back, tmp_path / "third")
        first, back = back, load_crosscoder(tmp_path / "third", **PAIR)
    assert_equal(first, back)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.calibrate])
def test_what_was_imported_goes_to_saelens_and_back(name: str, tmp_path: Path) -> None:
    place, expected = CASES[name].write(tmp_path / "source")
    first, back = _export_again(name, place, export_saelens, tmp_path)
    codes, again = first.encode(expected.activations), back.encode(expected.activations)
    assert torch.equal(codes > 0, again > 0)
    export_saelens(back, tmp_path / "third")
    assert_equal(back, load_crosscoder(tmp_path / "third"))


def test_stored_weights_that_no_code_normalization_gives_rescale_the_latents(tmp_path: Path) -> None:
    crosscoder = small_crosscoder("batch_topk", "two")
    config = crosscoder.config.model_copy(update={"scores": "stored"})
    weighted = Crosscoder(CrosscoderConfig.model_validate(config.model_dump()))
    weights = torch.linspace(0.5, 2, config.n_latents)
    weighted.load_state_dict(crosscoder.state_dict() | {"score_weight": weights})
    crosscoder_learning.write(weighted, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["code_normalization"] == "NONE"
    assert_same_function(weighted, load_crosscoder(tmp_path, **PAIR), scaled=True)


@pytest.mark.parametrize(
    ("kind", "shape", "reason"),
    [
        ("topk", "two", "has no topk crosscoder; export it --to saelens"),
        ("jumprelu", "two", "has no jumprelu crosscoder"),
        ("relu", "one", "has no relu SAE"),
        ("batch_topk", "two_unequal", r"needs models of equal width, found widths \[5, 8\]"),
    ],
)
def test_what_crosscoder_learning_cannot_hold_is_refused(
    kind: str, shape: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=reason):
        crosscoder_learning.write(small_crosscoder(kind, shape), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_uncalibrated_dictionary_is_not_written(tmp_path: Path) -> None:
    crosscoder = small_crosscoder("batch_topk", "two")
    assert isinstance(crosscoder.config.sparsity, BatchTopK)
    crosscoder.sparsity.get_buffer("threshold").fill_(torch.nan)
    with pytest.raises(FormatError, match="never calibrated"):
        crosscoder_learning.write(crosscoder, tmp_path)
