"""A checkpoint that cannot be used is refused in one line that says why, before memory is reserved for it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForSequenceClassification,
    ViTConfig,
    ViTModel,
)

from crosscoder.config import PairConfig
from crosscoder.errors import CrosscoderError, FormatError, PairError, ResourceError
from crosscoder.language_models.model_checks import check_causal
from crosscoder.language_models.pair import ModelPair, load_pair
from tests.planted_network import Network
from tests.tiny_pairs import save_adapter, save_llama, save_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns of what is wrong before it raises

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("models") / "llama")


def refusal(folder: Path) -> CrosscoderError:
    side = {"model": str(folder), "dtype": "float32"}
    settings = {"reference": side, "intervened": side, "hookpoint": "model.layers.1", "device": "cpu"}
    with pytest.raises(CrosscoderError) as caught:
        load_pair(PairConfig.model_validate(settings))
    message = str(caught.value)
    assert message.startswith(f"pair.reference.model: {str(folder)!r}")
    assert "\n" not in message and "\x1b" not in message
    return caught.value


def configured(**settings: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


def written(name: str, content: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def pickled(value: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(value, folder / "pytorch_model.bin")  # noqa: TID251 (a hostile file)

    return change


class Foreign:
    """An object that runs code if it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code of the file was run')",)


def quantized(method: str, **more: Any) -> Change:
    return configured(quantization_config={"quant_method": method, "bits": 4, "group_size": 16, **more})


CASES: dict[str, tuple[Change, type[CrosscoderError], str]] = {
    "gptq": (quantized("gptq"), ResourceError, "needs what this machine does not have"),
    "awq": (quantized("awq"), ResourceError, "needs what this machine does not have"),
    "bitsandbytes": (quantized("bitsandbytes", load_in_4bit=True), ResourceError, "bitsandbytes"),
    "unknown_quantization": (quantized("nonsense"), PairError, "quant_method in config.json is 'nonsense'"),
    "larger_vocabulary": (configured(vocab_size=640), PairError, "(320, 16) in the file, but (640, 16) by config.json"),
    "smaller_vocabulary": (configured(vocab_size=32), PairError, "(320, 16) in the file, but (32, 16)"),
    "no_vocabulary": (configured(vocab_size=0), PairError, "vocab_size in config.json is 0"),
    "text_as_size": (configured(vocab_size="many"), PairError, "'vocab_size' expected int, got str"),
    "wider": (configured(hidden_size=32), PairError, "(and 29 other weights)"),
    "uneven_heads": (configured(num_attention_heads=3), PairError, "is not a multiple of the number of attention heads"),
    "no_heads": (configured(num_attention_heads=0), PairError, "integer modulo by zero"),
    "too_wide": (configured(hidden_size=10**12), PairError, "hidden_size in config.json is 1e+12"),
    "more_weights_than_bytes": (configured(vocab_size=10**8), PairError, "has 3,200,007,024 weights, but the weight files have"),
    "endless_layers": (configured(num_hidden_layers=10**9), PairError, "num_hidden_layers in config.json is 1e+09"),
    "layers_without_weights": (configured(num_hidden_layers=5), PairError, "has no weights for model.layers.3"),
    "unknown_activation": (configured(hidden_act="nonsense"), PairError, "hidden_act in config.json is 'nonsense'"),
    "unknown_rope": (
        configured(rope_parameters={"rope_type": "nonsense", "rope_theta": 1e4}),
        PairError,
        "rope_parameters.rope_type in config.json is 'nonsense'",
    ),
    "unknown_type": (configured(model_type="nonsense"), PairError, "model type `nonsense`"),
    "unknown_dtype": (configured(dtype="float99"), PairError, "float99"),
    "nan_in_settings": (configured(rms_norm_eps=float("nan")), PairError, "predicts NaN"),
    "code_of_its_own": (
        configured(model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}),
        PairError,
        "brings Python code of its own, which is not run",
    ),
    "empty_config": (written("config.json", ""), PairError, "not a valid JSON file"),
    "deep_config": (written("config.json", "[" * 100_000), PairError, "cannot be loaded"),
    "list_as_config": (written("config.json", "[1]"), PairError, "model_type"),
    "empty_tokenizer": (written("tokenizer.json", "{}"), PairError, "has no tokenizer that can be loaded"),
    "list_as_tokenizer": (written("tokenizer.json", "[]"), PairError, "has no tokenizer that can be loaded"),
    "garbage_as_tokenizer": (written("tokenizer.json", b"\x00\xff"), PairError, "has no tokenizer that can be loaded"),
    "garbage_as_weights": (written("model.safetensors", b"\xff" * 40_000), FormatError, "a weight file is damaged"),
    "empty_weights": (written("model.safetensors", b""), PairError, "the weight files have 0 bytes"),
    "foreign_pickle": (
        pickled({"weight": Foreign(), "padding": torch.zeros(9000)}),
        FormatError,
        "holds something else than tensors (UnpicklingError)",
    ),
    "list_in_pickle": (pickled([torch.zeros(9000), 2]), PairError, "cannot be loaded"),
    "adapter_in_the_folder": (lambda folder: save_adapter(folder, folder), PairError, "is a PEFT adapter, or a folder that holds one"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_broken_checkpoint(good: Path, tmp_path: Path, name: str) -> None:
    change, kind, message = CASES[name]
    folder = shutil.copytree(good, tmp_path / "broken")
    change(folder)
    found = refusal(folder)
    assert type(found) is kind
    assert message in str(found)


def test_garbage_as_a_pickle_is_refused(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good, tmp_path / "broken")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"garbage" * 9000)
    assert isinstance(refusal(folder), FormatError)


def test_a_weight_of_another_shape_is_named(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = str(refusal(folder))
    assert (
        "model.layers.1.mlp.up_proj.weight has shape (3, 3) in the file, but (32, 16) by config.json;"
        in message
    )


_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
OTHER_KINDS: dict[str, tuple[Any, str]] = {
    "encoder_decoder": (
        lambda: BartForConditionalGeneration(
            BartConfig(
                vocab_size=64, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
                encoder_ffn_dim=16, decoder_ffn_dim=16,
            )
        ),
        "is an encoder-decoder model (bart)",
    ),
    "masked": (lambda: BertForMaskedLM(BertConfig(vocab_size=64, initializer_range=0.2, **_SIZES)), "is no causal language model"),
    "images": (lambda: ViTModel(ViTConfig(image_size=8, patch_size=4, **_SIZES)), "no causal language model of type 'vit'"),
    "classifier": (
        lambda: LlamaForSequenceClassification(LlamaConfig(vocab_size=64, **_SIZES)),
        "has no weights for lm_head.weight; they would be",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_a_model_of_another_kind(tmp_path: Path, name: str) -> None:
    make, message = OTHER_KINDS[name]
    torch.manual_seed(0)
    make().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    assert message in str(refusal(tmp_path))


def test_a_model_that_looks_at_other_documents_is_no_causal_language_model() -> None:
    class Averaging(nn.Module):
        """Adds the mean over the batch, as a router over all tokens does."""

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden + hidden.mean(dim=(0, 1), keepdim=True)

    model = Network(torch.randn(320, 12), 0.0, 0.0)
    model.layers[1] = nn.Identity()
    with torch.no_grad():
        model.head.weight.normal_()
    check_causal("model", model, torch.device("cpu"))
    model.layers[0] = Averaging()
    with pytest.raises(PairError, match="later tokens or other documents change predictions"):
        check_causal("model", model, torch.device("cpu"))


# --- settings of a model ------------------------------------------------------------------------------------------------

OWN_CODE = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM
pathlib.Path({mark!r}).touch()
class MineConfig(LlamaConfig):
    model_type = "mine"
class Mine(LlamaForCausalLM):
    config_class = MineConfig
"""


def opened(folder: Path, **settings: Any) -> ModelPair:
    side = {"model": str(folder), "dtype": "float32", **settings}
    return load_pair(
        PairConfig.model_validate(
            {"reference": side, "intervened": side, "hookpoint": "model.layers.1", "device": "cpu"}
        )
    )


def test_code_of_a_checkpoint_is_run_only_when_it_is_asked_for(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("transformers.dynamic_module_utils", "transformers.utils.hub", "transformers.utils"):
        monkeypatch.setattr(f"{module}.HF_MODULES_CACHE", str(tmp_path / "modules"), raising=False)
    folder, mark = shutil.copytree(good, tmp_path / "mine"), tmp_path / "was_run"
    (folder / "mine.py").write_text(OWN_CODE.format(mark=str(mark)))
    configured(
        model_type="mine", auto_map={"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.Mine"}
    )(folder)
    refusal(folder)
    assert not mark.exists()
    pair = opened(folder, trust_remote_code=True)
    assert mark.exists()
    assert pair.identity()["reference"]["trust_remote_code"] is True
    ids, mask = torch.arange(5, 17)[None], torch.ones(1, 12, dtype=torch.bool)
    plain = opened(good)
    assert torch.equal(pair.activations(ids, mask)[0], plain.activations(ids, mask)[0])
    assert "trust_remote_code" not in plain.identity()["reference"]


def test_attention_is_the_implementation_that_is_named(good: Path) -> None:
    for name in ("eager", "sdpa"):
        pair = opened(good, attn_implementation=name)
        settings: Any = pair.models[0].config
        assert settings._attn_implementation == name
        assert pair.identity()["reference"]["attn_implementation"] == name
    with pytest.raises(CrosscoderError, match=r"pair\.reference\.model: .*nonsense"):
        opened(good, attn_implementation="nonsense")


def test_a_checkpoint_may_lie_in_a_subfolder(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "outer" / "inner")
    pair = opened(tmp_path / "outer", subfolder="inner")
    assert pair.identity()["reference"]["subfolder"] == "inner"
    assert pair.identity()["reference"]["weights"] == opened(good).identity()["reference"]["weights"]
    with pytest.raises(CrosscoderError, match=r"pair\.reference\.model: "):
        opened(tmp_path / "outer")


@pytest.mark.parametrize("local", [False, True])
def test_local_files_only_reaches_every_file_that_is_read(
    good: Path, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    seen: list[bool] = []
    for kind in (AutoConfig, AutoModelForCausalLM, AutoTokenizer):
        read = kind.from_pretrained

        def watched(*arguments: Any, read: Any = read, **options: Any) -> Any:
            seen.append(options["local_files_only"])
            return read(*arguments, **options)

        monkeypatch.setattr(kind, "from_pretrained", watched)
    opened(good, local_files_only=local)
    assert len(seen) >= 3 and set(seen) == {local}
