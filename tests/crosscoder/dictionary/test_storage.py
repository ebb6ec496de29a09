import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from crosscoder.config import CrosscoderConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import load_crosscoder, read_record, save_crosscoder
from crosscoder.errors import FormatError
from crosscoder.runtime.digests import file_digest
from tests.dictionaries import KINDS, SHAPES, raw_activations, small_crosscoder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_crosscoder(small_crosscoder("batch_topk", "two"), tmp_path / "crosscoder", {"pair": "a and b"})
    return tmp_path / "crosscoder"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_saving_and_loading_is_identity(kind: str, shape: str, tmp_path: Path) -> None:
    crosscoder = small_crosscoder(kind, shape)
    save_crosscoder(crosscoder, tmp_path)
    loaded = load_crosscoder(str(tmp_path))
    assert loaded.config == crosscoder.config
    state, loaded_state = crosscoder.state_dict(), loaded.state_dict()
    assert state.keys() == loaded_state.keys()
    for name, value in state.items():
        assert torch.equal(value, loaded_state[name]), name
    assert {"batch_topk": "sparsity.threshold", "jumprelu": "sparsity.log_threshold"}.get(
        kind, "W_enc"
    ) in state
    values = raw_activations(SHAPES[shape])
    assert torch.equal(loaded.encode(values), crosscoder.encode(values))
    assert not loaded.training


def test_an_uncalibrated_dictionary_stays_uncalibrated(tmp_path: Path) -> None:
    crosscoder = small_crosscoder("batch_topk", "two")
    crosscoder.sparsity.get_buffer("threshold").fill_(float("nan"))
    save_crosscoder(crosscoder, tmp_path)
    with pytest.raises(FormatError, match="never calibrated"):
        load_crosscoder(tmp_path).encode(raw_activations((6, 6)))


def test_a_file_of_version_1_is_read_as_before(saved: Path) -> None:
    """Version 1 knew no stored score weights."""
    before = load_crosscoder(saved)
    record = json.loads((saved / "config.json").read_text())
    assert record.pop("version") == 2
    assert record["crosscoder"].pop("scores") == "decoder_norms"
    (saved / "config.json").write_text(json.dumps(record | {"version": 1}))
    again = load_crosscoder(saved)
    assert again.config == before.config
    assert again.state_dict().keys() == before.state_dict().keys()


@pytest.mark.parametrize("kind", ["batch_topk", "topk"])
def test_stored_score_weights_decide_which_latents_fire(kind: str, tmp_path: Path) -> None:
    plain = small_crosscoder(kind, "two")
    config = plain.config.model_copy(update={"scores": "stored"})
    weights = plain.score_norms().detach().clone()
    stored = Crosscoder(config)
    stored.load_state_dict(plain.state_dict() | {"score_weight": weights})
    save_crosscoder(stored, tmp_path)
    loaded = load_crosscoder(tmp_path)
    values = raw_activations((6, 6))
    assert torch.equal(loaded.encode(values), plain.encode(values))
    assert torch.equal(loaded.fold().score_norms(), weights)
    loaded.score_weight.copy_(weights.flip(0))
    assert not torch.equal(loaded.encode(values) > 0, plain.encode(values) > 0)
    assert torch.equal(loaded.encode(values), loaded.encode_sparse(values).dense())


@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_latents_that_do_not_compete_have_no_score_weights(kind: str) -> None:
    config = small_crosscoder(kind, "two").config.model_dump()
    with pytest.raises(ValidationError, match=f"scores are stored, but latents of {kind} do not compete"):
        CrosscoderConfig.model_validate(config | {"scores": "stored"})


def test_provenance_is_stored(saved: Path) -> None:
    assert read_record(saved)["provenance"] == {"pair": "a and b"}
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_saving_over_an_older_dictionary_replaces_it(saved: Path) -> None:
    other = small_crosscoder("relu", "one")
    save_crosscoder(other, saved)
    assert load_crosscoder(saved).config == other.config


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.999])
def test_one_altered_byte_of_the_weights_is_refused(saved: Path, place: float) -> None:
    weights = saved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[int(place * len(content))] ^= 1
    weights.write_bytes(content)
    with pytest.raises(FormatError, match=r"model\.safetensors: does not match the digest") as caught:
        load_crosscoder(saved)
    assert str(weights) in str(caught.value)
    content[int(place * len(content))] ^= 1
    weights.write_bytes(content)
    load_crosscoder(saved)


@pytest.mark.parametrize("length", [0, 7, 1000, -1])
def test_truncated_weights_are_refused(saved: Path, length: int) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(FormatError, match=r"model\.safetensors: does not match the digest"):
        load_crosscoder(saved)


def test_weights_with_an_older_config_are_refused(saved: Path) -> None:
    """The state after a crash between writing the two files over an older dictionary."""
    config = (saved / "config.json").read_bytes()
    save_crosscoder(small_crosscoder("batch_topk", "two", seed=5), saved)
    (saved / "config.json").write_bytes(config)
    with pytest.raises(FormatError, match=r"model\.safetensors: does not match the digest"):
        load_crosscoder(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"architectures": ["LlamaForCausalLM"]}', r"config\.json: not the config of a crosscoder"),
        ("[]", r"config\.json: not the config of a crosscoder"),
        ('{"format": "sae", "version": 1}', r"config\.json: not the config of a crosscoder"),
        (
            '{"format": "crosscoder", "version": 3}',
            r"config\.json: version 3; this release reads versions 1 and 2",
        ),
        ('{"format": "crosscoder"}', r"config\.json: version None; this release reads versions 1 and 2"),
        ('{"format": "crosscoder", "version": 1}', r"config\.json: has no 'crosscoder'"),
        ('{"format": "crosscoder", "version": 1, "crosscoder": {}}', r"config\.json: has no 'digest'"),
        ('{"format": "crossc', r"config\.json: not JSON"),
        ("", r"config\.json: not JSON"),
    ],
)
def test_a_foreign_or_damaged_config_is_refused_by_name(saved: Path, content: str, message: str) -> None:
    (saved / "config.json").write_text(content)
    with pytest.raises(FormatError, match=message) as caught:
        load_crosscoder(saved)
    assert str(saved / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(FormatError, match=f"{name}: not found"):
        load_crosscoder(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"n_latents": 25},
        {"d_models": [6, 7]},
        {"sparsity": {"kind": "topk", "k": 4}},
        {"sparsity": {"kind": "gated"}},
        {"n_latents": "many"},
        {"unknown": 1},
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(saved: Path, change: dict[str, object]) -> None:
    record = json.loads((saved / "config.json").read_text())
    record["crosscoder"] |= change
    (saved / "config.json").write_text(json.dumps(record))
    with pytest.raises(FormatError, match=r"weights and config\.json do not fit") as caught:
        load_crosscoder(saved)
    assert "\n" not in str(caught.value)


def test_digest_is_blake2b_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"abd")
    assert file_digest(tmp_path / "a") == "cf4ab791c62b8d2b2109c90275287816"
    assert file_digest(tmp_path / "b") != file_digest(tmp_path / "a")
