"""The GGUF reader on files written by the test, for single blocks and whole models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from crosscoder.demo.gguf import read_gguf
from crosscoder.demo.gguf_llama import convert, unpermute
from crosscoder.demo.model_folder import is_complete
from crosscoder.errors import FormatError
from tests.crosscoder.demo.gguf_writer import as_f32, llama_cpp_order, write_gguf

N_HEADS, N_KV_HEADS, D_MODEL = 4, 2, 32


def by_hand(kind: str, block: bytes) -> list[float]:
    """Dequantize one block by the format's definition, one weight at a time."""
    if kind in ("F32", "F16"):
        return [float(np.frombuffer(block, "<f4" if kind == "F32" else "<f2")[0])]
    if kind == "BF16":
        return [float(np.frombuffer(b"\0\0" + block, "<f4")[0])]
    scale = float(np.frombuffer(block[:2], "<f2")[0])
    if kind == "Q8_0":
        return [scale * (byte - 256 if byte > 127 else byte) for byte in block[2:]]
    low = float(np.frombuffer(block[2:4], "<f2")[0]) if kind == "Q4_1" else -8 * scale
    packed = block[4:] if kind == "Q4_1" else block[2:]
    return [scale * (byte & 15) + low for byte in packed] + [scale * (byte >> 4) + low for byte in packed]


def random_blocks(n_bytes: int, count: int) -> bytes:
    """Return blocks of random integers whose leading float16 and float32 values are finite."""
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (count, n_bytes), dtype=np.uint8)
    blocks[:, 1 : min(n_bytes, 4) : 2] = random.integers(0x30, 0x3C, blocks[:, 1 : min(n_bytes, 4) : 2].shape)
    return blocks.tobytes()


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q4_1", "Q8_0", "BF16"])
def test_a_block_is_dequantized_by_the_formats_definition(kind: str, tmp_path: Path):
    number, count = GGMLQuantizationType[kind], 6
    n_weights, size = GGML_QUANT_SIZES[number]
    content = random_blocks(size, count)
    shape = (2, count // 2 * n_weights)
    write_gguf(tmp_path / "m.gguf", {"general.architecture": "llama"}, {"t": (int(number), shape, content)})
    read = read_gguf(tmp_path / "m.gguf").tensors["t"]
    expected = [
        weight
        for start in range(0, len(content), size)
        for weight in by_hand(kind, content[start : start + size])
    ]
    assert read.shape == shape
    np.testing.assert_allclose(read.flatten().numpy(), np.array(expected, np.float32), rtol=1e-5, atol=1e-6)


def test_unpermute_undoes_the_order_of_llama_cpp():
    weight = torch.randn(48, 5)
    assert not torch.equal(llama_cpp_order(weight, 4), weight)
    assert torch.equal(unpermute(llama_cpp_order(weight, 4), 4), weight)


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=268, hidden_size=D_MODEL, intermediate_size=48, num_hidden_layers=2, num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV_HEADS, max_position_embeddings=64, rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=False, rms_norm_eps=1e-5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def tokenizer_metadata() -> dict[str, object]:
    """Return a vocabulary of GPT-2's 256 byte tokens, merges, and control tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    characters = [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
    special = ["<|end|>", "<|start|>"]
    words = ["Ġa", "12", "aa", *(f"<unused{index}>" for index in range(7))]
    tokens = [*special, *characters, *words]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(special) + [1] * (len(tokens) - len(special)),
        "tokenizer.ggml.merges": ["Ġ a", "1 2", "a a"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.chat_template": "{% for message in messages %}<|start|>{{ message['content'] }}<|end|>{% endfor %}",
    }


def llama_metadata() -> dict[str, object]:
    return {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 64,
        "llama.embedding_length": D_MODEL,
        "llama.feed_forward_length": 48,
        "llama.attention.head_count": N_HEADS,
        "llama.attention.head_count_kv": N_KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 500.0,
        **tokenizer_metadata(),
    }


def llama_tensors(model: LlamaForCausalLM) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    tensors = {}
    for key, weight in model.state_dict().items():
        stem = key.removesuffix(".weight")
        if stem in top:
            tensors[f"{top[stem]}.weight"] = as_f32(weight)
            continue
        _, _, layer, part = stem.split(".", 3)
        heads = {"attn_q": N_HEADS, "attn_k": N_KV_HEADS}.get(parts[part])
        tensors[f"blk.{layer}.{parts[part]}.weight"] = as_f32(
            weight if heads is None else llama_cpp_order(weight, heads)
        )
    return tensors


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, llama_metadata(), llama_tensors(tiny_llama()))
    return path


def test_the_converted_model_computes_what_the_original_does(gguf: Path, tmp_path: Path):
    convert(gguf, tmp_path / "out", torch.float32)
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    token_ids = torch.arange(2, 26)[None]
    with torch.no_grad():
        expected, found = tiny_llama()(token_ids).logits, converted(token_ids).logits
    assert torch.allclose(expected, found, atol=1e-5)
    assert expected.std() > 0.01


def test_the_config_holds_the_forms_of_both_releases(gguf: Path, tmp_path: Path):
    convert(gguf, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500.0
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    tokenizer = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_every_digit_is_a_token_of_its_own(gguf: Path, tmp_path: Path):
    convert(gguf, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("aa a\n\n12") == ["aa", "Ġa", "Ċ", "Ċ", "1", "2"]
    assert tokenizer.decode(tokenizer("aa a 12")["input_ids"]) == "aa a 12"
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
        == "<|start|>a<|end|>"
    )
    assert tokenizer("<|start|>a")["input_ids"][0] == tokenizer.bos_token_id == 1


def test_without_digit_splitting_digits_may_merge(tmp_path: Path):
    path = tmp_path / "plain.gguf"
    write_gguf(path, llama_metadata() | {"tokenizer.ggml.pre": "gpt-2"}, llama_tensors(tiny_llama()))
    convert(path, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("12") == ["12"]


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.05, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused_and_leaves_nothing(gguf: Path, tmp_path: Path, share: float):
    content = gguf.read_bytes()
    gguf.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FormatError, match=r"tiny\.gguf"):
        convert(gguf, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_another_kind_of_file_is_refused(tmp_path: Path):
    path = tmp_path / "page.gguf"
    path.write_text("<html>not found</html>")
    with pytest.raises(FormatError, match="does not start with 'GGUF'"):
        read_gguf(path)
    with pytest.raises(FormatError, match=r"absent\.gguf: not a file"):
        read_gguf(tmp_path / "absent.gguf")


def test_an_unsupported_type_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "f64.gguf"
    write_gguf(path, {"general.architecture": "llama"}, {"token_embd.weight": (28, (1, 256), bytes(2048))})
    with pytest.raises(
        FormatError, match=r"'token_embd\.weight' is of type F64, which cannot be dequantized"
    ):
        read_gguf(path)


def test_another_architecture_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "gemma.gguf"
    write_gguf(path, llama_metadata() | {"general.architecture": "gemma3"}, llama_tensors(tiny_llama()))
    with pytest.raises(FormatError, match="architecture 'gemma3'; only 'llama'"):
        convert(path, tmp_path / "out")


def test_a_missing_tensor_is_named(tmp_path: Path):
    path = tmp_path / "holed.gguf"
    tensors = llama_tensors(tiny_llama())
    del tensors["blk.1.ffn_up.weight"]
    write_gguf(path, llama_metadata(), tensors)
    with pytest.raises(
        FormatError,
        match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing, but the metadata require \(48, 32\)",
    ):
        convert(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"llama.attention.head_count_kv": 4},
            r"k_proj\.weight has shape \(16, 32\), but the metadata require \(32, 32\)",
        ),
        ({"llama.block_count": 3}, r"model\.layers\.2\..* is missing"),
        ({"tokenizer.ggml.eos_token_id": 900}, "eos token 900 is outside the vocabulary of 268"),
        ({"tokenizer.ggml.merges": ["12 Ġa"]}, "merges do not fit its tokens"),
    ],
)
def test_metadata_that_contradict_the_tensors_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
):
    path = tmp_path / "odd.gguf"
    write_gguf(path, llama_metadata() | change, llama_tensors(tiny_llama()))
    with pytest.raises(FormatError, match=message):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_touched(gguf: Path, tmp_path: Path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(FormatError, match="not a complete model folder"):
        convert(gguf, folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_folder_with_cut_weights_is_not_complete(gguf: Path, tmp_path: Path):
    folder = tmp_path / "out"
    convert(gguf, folder)
    assert is_complete(folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert not is_complete(folder)
