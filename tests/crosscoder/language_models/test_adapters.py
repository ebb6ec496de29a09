"""An adapter pair holds the two models that were named, or is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, XLoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from crosscoder.config import PairConfig
from crosscoder.errors import FormatError, PairError
from crosscoder.language_models.pair import ModelPair, load_pair

from . import zoo_adapters, zoo_architectures

# peft warns of what is meant here: random weights, and embeddings that are saved with an adapter.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo_architectures.save("llama", tmp_path_factory.mktemp("base") / "llama")


def settings(base: Path, *adapters: Path, dtype: str = "float32") -> PairConfig:
    intervened, *snapshots = ({"adapter": str(adapter)} for adapter in adapters)
    return PairConfig.model_validate(
        {
            "reference": {"model": str(base), "dtype": dtype},
            "intervened": intervened,
            "snapshots": snapshots,
            "hookpoint": "model.layers.1",
            "device": "cpu",
        }
    )


def some_tokens() -> tuple[Tensor, Tensor]:
    """Return right-padded documents with a common prefix, which hold the token ids that adapters of the zoo name."""
    mask = torch.arange(12) < torch.tensor([6, 12, 9])[:, None]
    ids = torch.randint(9, 60, (3, 12), generator=torch.Generator().manual_seed(0))
    ids[:, :4] = torch.tensor([3, 5, 7, 8])
    return ids, mask


@torch.no_grad()
def plain(base: Path, adapter: Path | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return logits of a model, or of peft's own model with an adapter, loaded without any code of this project."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    ids, mask = some_tokens()
    return model.eval()(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[mask]


def read(pair: ModelPair, model: int) -> Tensor:
    ids, mask = some_tokens()
    return pair.logits(ids, mask, None, model)[mask]


def refusal(config: PairConfig) -> str:
    with pytest.raises(PairError) as caught:
        load_pair(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "own_copies"), [("lora", False), ("dora", False), ("pissa", True), ("olora", True)]
)
def test_adapter_off_is_the_base_and_on_is_peft_s_model(
    base: Path, tmp_path: Path, name: str, own_copies: bool, dtype: str
) -> None:
    """PiSSA and OLoRA subtract from the base weights what their adapters start from."""
    adapter = zoo_adapters.save(name, base, tmp_path / "adapter")
    pair = load_pair(settings(base, adapter, dtype=dtype))
    expected = [plain(base, path, getattr(torch, dtype)) for path in (None, adapter)]
    for model in (1, 0, 1):
        assert torch.equal(read(pair, model), expected[model])
    assert pair.networks.own_copies == own_copies
    assert (pair.models[0] is not pair.models[1]) == own_copies
    identity = pair.identity()
    assert ("base_weights" in identity["intervened"]) == own_copies
    assert identity["reference"]["weights"] == identity["intervened"]["weights"]
    alone = PairConfig.model_validate(
        settings(base, adapter, dtype=dtype).model_dump()
        | {"intervened": {"model": str(base), "dtype": dtype}}
    )
    assert identity["reference"]["weights"] == load_pair(alone).identity()["reference"]["weights"]


def test_an_adapter_that_cannot_be_switched_off_gets_a_copy_of_the_base(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("peft.tuners.lora.LoraModel.disable_adapter_layers", lambda _: None)
    adapter = zoo_adapters.save("lora", base, tmp_path / "adapter")
    pair = load_pair(settings(base, adapter))
    assert pair.networks.own_copies
    assert "changes the reference itself" in caplog.text
    assert torch.equal(read(pair, 0), plain(base))
    assert torch.equal(read(pair, 1), plain(base, adapter))


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_an_adapter_with_biases_gets_a_copy_of_the_base(tmp_path: Path, bias: str) -> None:
    base = zoo_architectures.save("qwen2", tmp_path / "base")
    adapter = zoo_adapters.save("lora", base, tmp_path / "adapter", bias=bias)
    pair = load_pair(settings(base, adapter))
    assert pair.networks.own_copies
    assert torch.equal(read(pair, 0), plain(base))
    assert torch.equal(read(pair, 1), plain(base, adapter))


@pytest.mark.parametrize(
    "order", [("lora", "pissa"), ("pissa", "lora"), ("olora", "pissa"), ("lora", "dora")]
)
def test_snapshots_that_are_adapters_do_not_change_each_other(
    base: Path, tmp_path: Path, order: tuple[str, ...]
) -> None:
    paths = [zoo_adapters.save(name, base, tmp_path / name) for name in order]
    pair = load_pair(settings(base, *paths))
    ids, mask = some_tokens()
    assert torch.equal(read(pair, 0), plain(base))
    for index, path in enumerate(paths, 1):
        alone = load_pair(settings(base, path))
        for model, expected in ((0, 0), (index, 1)):
            assert torch.equal(
                pair.activations(ids, mask)[model][mask], alone.activations(ids, mask)[expected][mask]
            )
        with pair.switched(index) as network, torch.no_grad():
            found = network(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[mask]
        assert torch.equal(found, plain(base, path))
    assert pair.networks.own_copies == (order != ("lora", "dora"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("activated", "acts only through the forward of PeftModel (alora_invocation_tokens=[7, 8])"),
        ("poly", "does not run on token ids alone: task_ids should not be None"),
        ("lily", "later tokens or other documents change predictions"),
        ("pissa_niter", "is attached with random numbers (init_lora_weights='pissa_niter_4')"),
        ("prompt_tuning", "is of type PROMPT_TUNING, which adds virtual tokens"),
    ],
)
def test_an_adapter_whose_effect_cannot_be_read_is_refused(
    base: Path, tmp_path: Path, name: str, message: str
) -> None:
    adapter = zoo_adapters.save(name, base, tmp_path / "adapter")
    found = refusal(settings(base, adapter))
    assert found.startswith(f"pair.intervened.adapter: {str(adapter)!r}")
    assert message in found


@pytest.mark.parametrize("n_adapters", [1, 2])
def test_an_adapter_that_mixes_others_by_what_it_reads_is_refused(tmp_path: Path, n_adapters: int) -> None:
    """X-LoRA weighs its adapters with what it computed in a pass of its own; a single one always has weight 1.

    peft switches it off for good when it is set active a second time.
    """
    base = zoo_architectures.make("llama")
    base.config.use_cache = False
    folder = zoo_architectures.save_model(base, tmp_path / "base")
    parts = {
        str(seed): str(zoo_adapters.save("lora", folder, tmp_path / f"part_{seed}", seed=seed))
        for seed in range(n_adapters)
    }
    config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=32, adapters=parts, xlora_depth=1, xlora_size=8)
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(str(tmp_path / "mixture"))
    chosen = settings(folder, tmp_path / "mixture")
    if n_adapters == 2:
        assert "(XLORA) acts only through the forward of PeftModel" in refusal(chosen)
        return
    pair = load_pair(chosen)
    for model, expected in ((1, tmp_path / "mixture"), (0, None), (1, tmp_path / "mixture")):
        assert torch.equal(read(pair, model), plain(folder, expected))


@pytest.mark.parametrize("name", ["embedding", "head", "trainable_tokens", "trainable_tokens_lora"])
def test_adapters_on_the_embeddings_run_to_the_end(base: Path, tmp_path: Path, name: str) -> None:
    """peft stores the base weights with them, and wraps the embedding in a module that hides its size."""
    adapter = zoo_adapters.save(name, base, tmp_path / "adapter")
    pair = load_pair(settings(base, adapter))
    assert not pair.networks.own_copies
    assert torch.equal(read(pair, 0), plain(base))
    assert torch.equal(read(pair, 1), plain(base, adapter))
    ids, mask = some_tokens()
    for whole, shared in zip(pair.activations(ids, mask), pair.activations(ids, mask, 4), strict=True):
        torch.testing.assert_close(whole[mask], shared[mask], rtol=1e-4, atol=1e-4)
    directions = torch.randn(3, 32)
    for model in range(2):
        logits = pair.direction_logits(directions, model)
        assert logits.shape == (3, zoo_architectures.VOCABULARY)
        assert pair.token_cosines(directions, logits, logits.topk(2).indices, model).shape == (3, 2)


def trained(base: Path, folder: Path, change: Callable[[Any], None], **more: Any) -> tuple[Path, Tensor]:
    """Save an adapter trained on a base that `change` altered; return it, and the logits of the trained model."""
    torch.manual_seed(0)
    network: Any = AutoModelForCausalLM.from_pretrained(base)
    change(network)
    model: Any = get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, **more)).eval()
    ids, mask = some_tokens()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
        logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[mask]
    model.save_pretrained(str(folder))
    return folder, logits


def resize(size: int) -> Callable[[Any], None]:
    return lambda network: network.resize_token_embeddings(size, mean_resizing=False)


@pytest.mark.parametrize("size", [60, 70])
@pytest.mark.parametrize(
    "more",
    [
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 59]},
    ],
)
def test_a_resized_vocabulary_is_resized_again(
    base: Path, tmp_path: Path, size: int, more: dict[str, Any]
) -> None:
    adapter, expected = trained(base, tmp_path / "adapter", resize(size), **more)
    pair = load_pair(settings(base, adapter))
    assert torch.equal(read(pair, 0), plain(base))
    torch.testing.assert_close(read(pair, 1), expected)
    assert expected.shape[1] == size


def test_rows_of_a_resized_vocabulary_that_are_not_stored_are_missed(base: Path, tmp_path: Path) -> None:
    adapter, _ = trained(base, tmp_path / "adapter", resize(70), target_modules=["q_proj", "embed_tokens"])
    assert "does not store all rows of its 70 tokens" in refusal(settings(base, adapter))


def test_other_base_weights_that_are_stored_are_the_intervened_model_s(base: Path, tmp_path: Path) -> None:
    def change(network: Any) -> None:
        with torch.no_grad():
            network.model.embed_tokens.weight.add_(0.1)

    adapter, expected = trained(base, tmp_path / "adapter", change, target_modules=["q_proj", "embed_tokens"])
    pair = load_pair(settings(base, adapter))
    assert pair.networks.own_copies
    assert torch.equal(read(pair, 0), plain(base))
    torch.testing.assert_close(read(pair, 1), expected)


def test_a_token_outside_the_vocabulary_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = zoo_adapters.save("activated", base, tmp_path / "adapter", alora_invocation_tokens=[7, 900])
    assert "name the token 900, but the vocabulary has 64 tokens" in refusal(settings(base, adapter))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "NONSENSE"}, "peft_type in adapter_config.json is 'NONSENSE', which peft "),
        ({"peft_type": None}, "peft_type in adapter_config.json is None, which peft "),
        ({"r": -1}, "does not fit the reference: `r` should be a positive integer"),
        ({"r": 4}, "size mismatch for base_model.model.model.layers.0"),
        ({"lora_alpha": float("nan")}, "predicts NaN"),
        ({"target_modules": ["nothing"]}, "Target modules {'nothing'} not found"),
        ({"layer_replication": [[0, 2], [5, 9]]}, "does not fit the reference: IndexError"),
        ({"trainable_token_indices": ["a"]}, "does not fit the reference: TypeError"),
    ],
)
def test_settings_of_an_adapter_that_cannot_be_used(
    base: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    adapter = zoo_adapters.save("lora", base, tmp_path / "adapter")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    found = refusal(settings(base, adapter))
    assert str(adapter) in found and message in found


def test_an_adapter_without_weights_or_with_an_object_as_weights(base: Path, tmp_path: Path) -> None:
    class Foreign:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("raise SystemExit('code of the file was run')",)

    adapter = zoo_adapters.save("lora", base, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    assert "has no weights; give a folder with adapter_model.safetensors" in refusal(settings(base, adapter))
    torch.save({"weight": Foreign()}, adapter / "adapter_model.bin")  # noqa: TID251 (a hostile file)
    with pytest.raises(FormatError, match="holds something else than tensors"):
        load_pair(settings(base, adapter))


def test_loading_takes_no_random_numbers(base: Path, tmp_path: Path) -> None:
    adapter = zoo_adapters.save("pissa", base, tmp_path / "adapter")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_pair(settings(base, adapter))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("named", "warned"),
    [
        ("org/other-8b", True),
        ("org/llama-instruct", True),
        ("/elsewhere/llama/", False),
        ("org/Llama", False),
        (None, False),
    ],
)
def test_an_adapter_of_another_model_is_warned_of(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, named: str | None, warned: bool
) -> None:
    """Its weights fit every model of these shapes, so nothing else can tell."""
    adapter = zoo_adapters.save("lora", base, tmp_path / "adapter")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": named}))
    load_pair(settings(base, adapter))
    assert (f"was trained on {named!r}" in caplog.text) is warned
