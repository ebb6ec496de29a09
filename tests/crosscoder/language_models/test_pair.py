import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosscoder.config import PairConfig
from crosscoder.errors import FormatError, PairError
from crosscoder.language_models.pair import ModelPair, load_pair
from tests.tiny_pairs import CHAT_TEMPLATE, save_adapter, save_gpt2, save_llama


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    llama = save_llama(folder / "llama", seed=0)
    return {
        "llama": llama,
        "tuned": save_llama(folder / "tuned", seed=1),
        "wide": save_llama(folder / "wide", seed=2, width=24),
        "gpt2": save_gpt2(folder / "gpt2"),
        "other_words": save_llama(folder / "other_words", extra=("<extra>",)),
        "adapter": save_adapter(llama, folder / "adapter"),
    }


def pair_config(
    reference: Path,
    intervened: Path | dict[str, str] | None = None,
    hookpoint: str = "model.layers.1",
    **more: Any,
) -> PairConfig:
    if not isinstance(intervened, dict):
        intervened = {"model": str(intervened or reference), "dtype": "float32"}
    settings: dict[str, Any] = {
        "reference": {"model": str(reference), "dtype": "float32"},
        "intervened": intervened,
        "hookpoint": hookpoint,
        "device": "cpu",
    }
    return PairConfig.model_validate(settings | more)


def adapter_config(models: dict[str, Path], adapter: str = "adapter") -> PairConfig:
    return pair_config(models["llama"], intervened={"adapter": str(models[adapter])})


def some_tokens() -> tuple[Tensor, Tensor]:
    """Return four right-padded documents of different lengths."""
    lengths = torch.tensor([3, 16, 9, 12])
    mask = torch.arange(16) < lengths[:, None]
    return torch.randint(3, 280, (4, 16)) * mask, mask


def hidden_states(pair: ModelPair, model: int, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
    with pair.switched(model) as network, torch.no_grad():
        output = network(
            input_ids=ids, attention_mask=mask.long(), output_hidden_states=True, use_cache=False
        )
    return output.hidden_states[layer + 1]


@pytest.mark.parametrize(("name", "hookpoint"), [("llama", "model.layers.1"), ("gpt2", "transformer.h.1")])
def test_a_padded_batch_equals_one_document_at_a_time(
    models: dict[str, Path], name: str, hookpoint: str
) -> None:
    pair = load_pair(pair_config(models[name], hookpoint=hookpoint))
    ids, mask = some_tokens()
    together = pair.activations(ids, mask)[0]
    for document, length in enumerate(mask.sum(dim=1).tolist()):
        alone = pair.activations(
            ids[document : document + 1, :length], mask[document : document + 1, :length]
        )[0]
        torch.testing.assert_close(together[document, :length], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "hookpoint"),
    [
        ("llama", "model.layers.0"),
        ("llama", "model.layers.1"),
        ("gpt2", "transformer.h.0"),
        ("gpt2", "transformer.h.1"),
    ],
)
def test_the_hook_reads_the_models_own_hidden_states(
    models: dict[str, Path], name: str, hookpoint: str
) -> None:
    pair = load_pair(pair_config(models[name], hookpoint=hookpoint))
    ids, mask = some_tokens()
    layer = int(hookpoint.rpartition(".")[2])
    for model, read in enumerate(pair.activations(ids, mask)):
        own = hidden_states(pair, model, ids, mask, layer)
        torch.testing.assert_close(read[mask], own[mask], rtol=0, atol=0)
        assert not torch.equal(read[mask], hidden_states(pair, model, ids, mask, layer - 1)[mask])


def test_tuples_are_read_and_replaced_by_their_first_entry(models: dict[str, Path]) -> None:
    """A layer returns a tensor or a tuple, depending on the version and the module."""
    pair = load_pair(pair_config(models["llama"], hookpoint="model.layers.1.self_attn"))
    ids, mask = some_tokens()
    read = pair.activations(ids, mask)[0]
    assert read.shape == (4, 16, 16)
    torch.testing.assert_close(pair.logits(ids, mask, lambda own: own, 0), pair.logits(ids, mask, None, 0))
    assert not torch.allclose(pair.logits(ids, mask, torch.zeros_like, 0), pair.logits(ids, mask, None, 0))


def test_nothing_runs_after_the_hookpoint(models: dict[str, Path]) -> None:
    pair = load_pair(pair_config(models["llama"]))
    network: Any = pair.models[0]
    runs: list[str] = []
    for name in ("model.layers.0", "model.layers.1", "model.layers.2", "model.norm", "lm_head"):
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: runs.append(name))
    ids, mask = some_tokens()
    pair.activations(ids, mask)
    assert runs == ["model.layers.0", "model.layers.1"]
    pair.logits(ids, mask, None, 0)
    assert "lm_head" in runs


def test_no_hook_is_left_behind(models: dict[str, Path]) -> None:
    pair = load_pair(pair_config(models["llama"]))
    ids, mask = some_tokens()
    before = pair.logits(ids, mask, None, 0)
    pair.activations(ids, mask)

    def fail(_: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pair.logits(ids, mask, fail, 0)
    assert torch.equal(pair.logits(ids, mask, None, 0), before)
    assert not any(module._forward_hooks for module in pair.models[0].modules())


def test_nested_adapter_switches_are_restored(models: dict[str, Path]) -> None:
    pair = load_pair(adapter_config(models))
    ids, mask = some_tokens()
    reference, intervened = (pair.logits(ids, mask, None, model) for model in range(2))
    assert not torch.equal(reference, intervened)

    def run() -> Tensor:
        with torch.no_grad():
            return pair.models[0](input_ids=ids, attention_mask=mask.long()).logits

    def switch() -> None:
        with pair.switched(0):
            for model, expected in ((0, reference), (1, intervened)):
                with pair.switched(model):
                    assert torch.equal(run(), expected)
                assert torch.equal(run(), reference)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        switch()
    assert torch.equal(run(), intervened)
    assert not any(weight.requires_grad for weight in pair.models[0].parameters())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapter_off_is_the_base_and_on_is_the_merged_model(models: dict[str, Path], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    pair = load_pair(adapter_config(models))
    ids, mask = some_tokens()
    reference, intervened = pair.activations(ids, mask)
    assert torch.equal(reference, load_pair(pair_config(models["llama"])).activations(ids, mask)[0])
    base = AutoModelForCausalLM.from_pretrained(models["llama"], dtype=torch.float32)
    merged: Any = PeftModel.from_pretrained(base, str(models["adapter"])).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models["llama"] / name, tmp_path / "merged" / name)
    expected = load_pair(pair_config(tmp_path / "merged")).activations(ids, mask)[0]
    torch.testing.assert_close(intervened[mask], expected[mask], rtol=1e-4, atol=1e-4)
    assert (intervened - reference)[mask].abs().max() > 0.01
    # Switched off again: reading the intervened model does not affect the reference.
    assert torch.equal(pair.activations(ids, mask)[0], reference)
    assert pair.models[0] is pair.models[1]


def test_a_model_compared_with_itself_is_loaded_and_read_once(models: dict[str, Path]) -> None:
    pair = load_pair(pair_config(models["llama"]))
    assert pair.models[0] is pair.models[1]
    reads = []
    pair.models[0].get_submodule("model.layers.0").register_forward_hook(lambda *_: reads.append(1))
    ids, mask = some_tokens()
    reference, intervened = pair.activations(ids, mask)
    assert torch.equal(reference, intervened)
    assert len(reads) == 1


def test_models_may_differ_in_width_and_hookpoint(models: dict[str, Path]) -> None:
    pair = load_pair(pair_config(models["llama"], models["wide"], intervened_hookpoint="model.layers.2.mlp"))
    assert pair.d_models == (16, 24)
    ids, mask = some_tokens()
    assert [output.shape[-1] for output in pair.activations(ids, mask)] == [16, 24]


def test_activations_can_be_trained_on(models: dict[str, Path]) -> None:
    pair = load_pair(pair_config(models["llama"]))
    weight = torch.ones(16, requires_grad=True)
    (pair.activations(*some_tokens())[0] * weight).sum().backward()
    assert weight.grad is not None
    assert not any(parameter.requires_grad for parameter in pair.models[0].parameters())


def test_splicing_in_the_activations_changes_nothing(models: dict[str, Path]) -> None:
    ids, mask = some_tokens()
    for config in (pair_config(models["llama"], models["tuned"]), adapter_config(models)):
        pair = load_pair(config)
        activations = pair.activations(ids, mask)
        clean = [pair.logits(ids, mask, None, model) for model in range(2)]
        assert not torch.allclose(clean[0], clean[1])
        for model in range(2):
            spliced = pair.logits(ids, mask, lambda _, own=activations[model]: own, model)
            torch.testing.assert_close(spliced[mask], clean[model][mask])
            swapped = pair.logits(ids, mask, lambda _, other=activations[1 - model]: other, model)
            assert not torch.allclose(swapped[mask], clean[model][mask], atol=1e-2)


@pytest.mark.parametrize(
    ("name", "hookpoint", "norm"),
    [("llama", "model.layers.1", "model.norm"), ("gpt2", "transformer.h.1", "transformer.ln_f")],
)
def test_direction_logits_are_final_norm_then_unembedding(
    models: dict[str, Path], name: str, hookpoint: str, norm: str
) -> None:
    pair = load_pair(pair_config(models[name], hookpoint=hookpoint))
    network: Any = pair.models[1]
    directions = torch.randn(5, 16)
    with torch.no_grad():
        expected = network.lm_head(network.get_submodule(norm)(directions))
    torch.testing.assert_close(pair.direction_logits(directions, 1), expected)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("name", "hookpoint", "norm"),
    [("llama", "model.layers.1", "model.norm"), ("gpt2", "transformer.h.1", "transformer.ln_f")],
)
def test_token_cosines_are_those_with_the_centered_rows(
    models: dict[str, Path], name: str, hookpoint: str, norm: str, wrapped: bool
) -> None:
    """Also for an unembedding that is no plain linear layer, and with a bias; the length of a direction plays no part."""
    pair = load_pair(pair_config(models[name], hookpoint=hookpoint))
    network: Any = pair.models[1]
    network.lm_head.bias = torch.nn.Parameter(torch.randn(network.lm_head.out_features))
    rows = network.lm_head.weight.detach()
    if wrapped:
        network.lm_head = torch.nn.Sequential(network.lm_head)
    directions = 3 * torch.randn(5, 16)
    with torch.no_grad():
        read = network.get_submodule(norm)(directions)
    expected = torch.nn.functional.cosine_similarity(read[:, None], (rows - rows.mean(dim=0))[None], dim=2)
    ids = torch.randint(len(rows), (5, 7))
    found = pair.token_cosines(directions, pair.direction_logits(directions, 1), ids, 1)
    torch.testing.assert_close(found, expected.gather(1, ids), atol=1e-4, rtol=1e-3)
    longer = 50 * directions
    same = pair.token_cosines(longer, pair.direction_logits(longer, 1), ids, 1)
    torch.testing.assert_close(found, same, atol=1e-4, rtol=1e-3)


def test_the_logit_lens_at_the_last_layer_gives_the_models_logits(models: dict[str, Path]) -> None:
    pair = load_pair(pair_config(models["llama"], models["tuned"], hookpoint="model.layers.2"))
    ids, mask = some_tokens()
    for model, read in enumerate(pair.activations(ids, mask)):
        torch.testing.assert_close(
            pair.direction_logits(read[1], model), pair.logits(ids, mask, None, model)[1]
        )


def test_identity_is_json_and_follows_the_weights(models: dict[str, Path], tmp_path: Path) -> None:
    identity = load_pair(adapter_config(models)).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["reference"]["weights"] == identity["intervened"]["weights"]
    assert identity["intervened"]["adapter_weights"]
    plain = load_pair(pair_config(models["llama"], models["tuned"])).identity()
    assert plain["reference"]["weights"] == identity["reference"]["weights"]
    assert plain["intervened"]["weights"] != identity["reference"]["weights"]
    moved = shutil.copytree(models["llama"], tmp_path / "moved")
    assert load_pair(pair_config(moved)).identity()["reference"]["weights"] == plain["reference"]["weights"]
    weights = load_file(moved / "model.safetensors")
    weights["model.norm.weight"][3] += 0.25
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    assert load_pair(pair_config(moved)).identity()["reference"]["weights"] != plain["reference"]["weights"]
    other = save_adapter(models["llama"], tmp_path / "adapter", seed=5)
    changed = load_pair(pair_config(models["llama"], intervened={"adapter": str(other)})).identity()
    assert changed["intervened"]["adapter_weights"] != identity["intervened"]["adapter_weights"]


def test_the_intervened_models_chat_template_serves_both(models: dict[str, Path], tmp_path: Path) -> None:
    bare = save_llama(tmp_path / "bare", chat_template=None)
    assert load_pair(pair_config(bare, models["llama"])).chat_template == CHAT_TEMPLATE
    assert load_pair(pair_config(models["llama"], bare)).chat_template == CHAT_TEMPLATE
    assert load_pair(pair_config(bare)).chat_template is None
    other = save_llama(tmp_path / "other", chat_template="{{ messages }}")
    assert load_pair(pair_config(models["llama"], other)).chat_template == "{{ messages }}"


def refusal(config: PairConfig) -> str:
    with pytest.raises(PairError) as caught:
        load_pair(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_different_tokenizers_are_refused_by_name(models: dict[str, Path]) -> None:
    message = refusal(pair_config(models["llama"], models["other_words"]))
    assert str(models["llama"]) in message
    assert str(models["other_words"]) in message
    assert "<extra>" in message


def test_a_wrong_hookpoint_is_refused_with_near_matches(models: dict[str, Path]) -> None:
    assert "did you mean 'model.layers.1'" in refusal(pair_config(models["llama"], hookpoint="model.layer.1"))
    assert "model.layers goes from 0 to 2" in refusal(
        pair_config(models["llama"], hookpoint="model.layers.3")
    )
    message = refusal(pair_config(models["llama"], intervened_hookpoint="model.layers.7"))
    assert message.startswith("pair.intervened_hookpoint")
    assert "it is never run" in refusal(pair_config(models["llama"], hookpoint="model.layers"))


def test_missing_and_incomplete_models_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    assert "pair.intervened.model: folder" in refusal(pair_config(models["llama"], tmp_path / "gone"))
    # A relative path of several parts is not a Hub id.
    assert "pair.intervened.model: folder" in refusal(pair_config(models["llama"], Path("runs/not/made")))
    (tmp_path / "empty").mkdir()
    assert "cannot be loaded" in refusal(pair_config(tmp_path / "empty"))
    partial = shutil.copytree(models["llama"], tmp_path / "partial")
    weights = load_file(partial / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    assert "no weights for model.layers.1.mlp.up_proj.weight" in refusal(pair_config(partial))
    content = (partial / "model.safetensors").read_bytes()
    (partial / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match="damaged"):
        load_pair(pair_config(partial))


def test_adapters_that_do_not_fit_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    def with_adapter(path: Path) -> PairConfig:
        return pair_config(models["llama"], intervened={"adapter": str(path)})

    assert "pair.intervened.adapter: folder" in refusal(with_adapter(tmp_path / "gone"))
    assert "is not a PEFT adapter" in refusal(with_adapter(models["llama"]))
    wide = save_adapter(models["wide"], tmp_path / "wide")
    message = refusal(with_adapter(wide))
    assert "does not fit the reference" in message
    assert "[2, 24]" in message and "[2, 16]" in message
    partial = shutil.copytree(models["adapter"], tmp_path / "partial")
    weights = load_file(partial / "adapter_model.safetensors")
    weights.pop(min(weights))
    save_file(weights, partial / "adapter_model.safetensors")
    assert "do not match" in refusal(with_adapter(partial))
