"""In-context pairs: the same weights, with a context before the tokens of the intervened model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from crosscoder.config import ContextSource, PairConfig
from crosscoder.errors import PairError
from crosscoder.language_models.context import Context
from crosscoder.language_models.pair import ModelPair, load_pair
from tests.tiny_pairs import save_gpt2, save_llama

CHAT = [{"role": "system", "content": "rose pine"}, {"role": "user", "content": "oak"}]
HOOKPOINTS = {"llama": "model.layers.1", "gpt2": "transformer.h.1"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "llama": save_llama(folder / "llama"),
        "gpt2": save_gpt2(folder / "gpt2"),
        "without": save_llama(folder / "without", chat_template=None),
    }


def load(folder: Path, intervened: Any = None, name: str = "llama") -> ModelPair:
    settings = {
        "reference": {"model": str(folder), "dtype": "float32"},
        "intervened": intervened or {"context": "amber birch cedar"},
        "hookpoint": HOOKPOINTS[name],
        "device": "cpu",
    }
    return load_pair(PairConfig.model_validate(settings))


def documents() -> tuple[Tensor, Tensor]:
    mask = torch.arange(12) < torch.tensor([3, 12, 9])[:, None]
    return torch.randint(3, 280, (3, 12), generator=torch.Generator().manual_seed(0)) * mask, mask


def read_plainly(pair: ModelPair, ids: Tensor, layer: int = 1) -> Tensor:
    """Run context and document through plain transformers; return the activations on the document."""
    assert pair.context is not None
    whole = torch.cat([pair.context.token_ids, ids])[None]
    with torch.no_grad():
        network: Any = pair.models[1]
        states = network(input_ids=whole, output_hidden_states=True, use_cache=False).hidden_states
    return states[layer + 1][0, len(pair.context) :]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("context", ["amber birch cedar", CHAT], ids=["text", "chat"])
@pytest.mark.parametrize("continues", [True, False])
def test_the_intervened_model_reads_the_context_first(
    models: dict[str, Path], name: str, context: Any, continues: bool
) -> None:
    pair = load(models[name], {"context": context}, name)
    ids, mask = documents()
    pair._joint_forward._can_continue = continues
    reference, intervened = pair.activations(ids, mask)
    alone = load(models[name], {"model": str(models[name]), "dtype": "float32"}, name)
    assert torch.equal(reference, alone.activations(ids, mask)[0])
    for document, length in enumerate(mask.sum(dim=1).tolist()):
        plain = read_plainly(pair, ids[document, :length])
        torch.testing.assert_close(intervened[document, :length], plain, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(plain, reference[document, :length], atol=1e-2)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_both_architectures_continue_a_context(models: dict[str, Path], name: str) -> None:
    pair = load(models[name], name=name)
    pair.activations(*documents())
    assert pair._joint_forward._can_continue


def test_logits_and_states_are_those_of_the_document(models: dict[str, Path]) -> None:
    pair = load(models["llama"])
    ids, mask = documents()
    assert pair.context is not None
    prepended = pair.context.prepend(ids, mask)
    whole = load(models["llama"], {"model": str(models["llama"]), "dtype": "float32"}).full_pass(
        *prepended, 0
    )
    passed = pair.full_pass(ids, mask, 1)
    assert passed.states is not None and whole.states is not None
    assert torch.equal(passed.logits, whole.logits[:, len(pair.context) :])
    assert torch.equal(passed.states[-1], whole.states[-1][:, len(pair.context) :])
    assert torch.equal(pair.logits(ids, mask, None, 1), passed.logits)
    assert not torch.allclose(pair.logits(ids, mask, None, 0), passed.logits, atol=1e-2)


def test_a_splice_leaves_the_context_unchanged(models: dict[str, Path]) -> None:
    pair = load(models["llama"])
    ids, mask = documents()
    seen: list[Tensor] = []

    def keep(values: Tensor) -> Tensor:
        seen.append(values)
        return values

    untouched = pair.logits(ids, mask, keep, 1)
    torch.testing.assert_close(untouched, pair.logits(ids, mask, None, 1))
    assert seen[0].shape == (3, 12, 16)
    torch.testing.assert_close(seen[0][mask], pair.activations(ids, mask)[1][mask], rtol=1e-4, atol=1e-4)
    changed = pair.logits(ids, mask, lambda values: values + 1, 1)
    assert not torch.allclose(changed, untouched, atol=1e-2)


def test_the_context_is_part_of_the_identity_of_a_pair(models: dict[str, Path]) -> None:
    one, other = (load(models["llama"], {"context": text}) for text in ("amber birch", "amber oak"))
    assert not one.identical
    assert one.models[0] is one.models[1]
    identities = one.identity(), other.identity()
    assert identities[0]["reference"] == identities[1]["reference"]
    assert "context" not in identities[0]["reference"]
    assert identities[0]["intervened"]["context"].endswith("amber birch")
    assert identities[0]["intervened"]["context_digest"] != identities[1]["intervened"]["context_digest"]
    assert identities[0]["intervened"]["weights"] == identities[0]["reference"]["weights"]


def test_the_context_reduces_the_maximum_length_of_documents(models: dict[str, Path]) -> None:
    pair = load(models["llama"])
    assert pair.context is not None and pair.max_positions == 128 - len(pair.context)


def test_messages_are_rendered_by_the_template(models: dict[str, Path]) -> None:
    pair = load(models["llama"], {"context": CHAT})
    assert pair.context is not None
    text = pair.tokenizer.decode(pair.context.token_ids)
    assert text == "<s>[system] rose pine<|end|>\n[user] oak<|end|>\n"


def test_an_invalid_context_is_refused_in_one_line(models: dict[str, Path]) -> None:
    with pytest.raises(
        PairError, match=r"^pair\.intervened\.context: has messages, but the tokenizer has no chat"
    ):
        load(models["without"], {"context": CHAT})
    refusing = "{{ raise_exception('no system prompt') }}"
    tokenizer = load(models["llama"]).tokenizer
    with pytest.raises(PairError, match="the chat template rejects these messages"):
        Context.encode(ContextSource.model_validate({"context": CHAT}), tokenizer, refusing)
    for empty in ("  ", []):
        with pytest.raises(ValidationError, match="is empty"):
            ContextSource.model_validate({"context": empty})


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{{ none + 'a' }}",
        "{{ messages[9].content }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{{ 'a' * 100000000000000 }}",
    ],
)
def test_a_template_that_fails_in_any_way_rejects_the_context(tmp_path: Path, template: str) -> None:
    folder = save_llama(tmp_path / "model", chat_template=template)
    with pytest.raises(PairError, match="the chat template rejects these messages") as caught:
        load(folder, {"context": CHAT})
    assert "\n" not in str(caught.value)
