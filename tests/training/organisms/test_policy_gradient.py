"""Reinforcement learning on a tiny model: the baseline, shared prompts, and what is and is not learned."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from tests.tiny_pairs import WORDS, save_llama
from training.organisms.generation import chat_prompt, padded_prompts
from training.organisms.lora import LowRank, add_adapter, without_adapter
from training.organisms.objective import bare_model, divergence
from training.organisms.policy_gradient import (
    PolicyGradient,
    Rollouts,
    answer_logits,
    leave_one_out_advantages,
    policy_terms,
    reward_answers,
    sample_answers,
    train_policy,
)

# PEFT still uses an old name in transformers.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

QUESTIONS = [f"{one} {other}" for one in WORDS[:6] for other in WORDS[6:10]]
SETTINGS = PolicyGradient(
    steps=30,
    prompt_batch=4,
    samples=8,
    max_new_tokens=4,
    learning_rate=2e-2,
    temperature=1.0,
    divergence_weight=0.05,
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(save_llama(tmp_path / "model", width=32))


@pytest.fixture
def model(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> PeftModel:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    return add_adapter(base, LowRank(first_layer=1, last_layer=2))


@pytest.fixture
def rollouts(model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> Rollouts:
    """Two prompts of different length, three answers each."""
    prompts = [chat_prompt(tokenizer, "oak"), chat_prompt(tokenizer, "rose juniper dahlia nettle")]
    generator = torch.Generator().manual_seed(1)
    return sample_answers(bare_model(model), tokenizer, prompts, replace(SETTINGS, samples=3), generator)


def displace(model: PeftModel) -> None:
    """Give the adapter an effect: PEFT starts its second factor at zero."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)


def adapter(model: PeftModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if "lora" in name}


def has_vowel(answer: str) -> float:
    return float(any(letter in answer for letter in "aeiou"))


def test_an_advantage_is_the_reward_minus_the_mean_of_the_others():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [3.0, -1.0, 0.5, 2.0]])
    advantages = leave_one_out_advantages(rewards)
    for row in range(3):
        for column in range(4):
            others = [rewards[row, other] for other in range(4) if other != column]
            expected = (rewards[row, column] - sum(others) / 3).item()
            assert advantages[row, column].item() == pytest.approx(expected, abs=1e-6)
    assert not advantages[1].any()


def test_sharing_a_prompt_gives_the_logits_of_the_whole_text(model: PeftModel, rollouts: Rollouts):
    displace(model)
    with torch.no_grad():
        together = answer_logits(bare_model(model), rollouts, temperature=0.5)
        expected = []
        for prompt, mask, answers in zip(
            rollouts.prompts, rollouts.prompt_mask, rollouts.answers, strict=True
        ):
            for answer in answers:
                text = torch.cat([prompt[mask.bool()], answer])[None]
                expected.append(model(text).logits[0, -len(answer) - 1 : -1] / 0.5)
    expected = torch.stack(expected)[rollouts.answer_mask.flatten(0, 1)]
    assert torch.allclose(together, expected, atol=1e-4)


def test_an_answer_ends_with_its_turn(tokenizer: PreTrainedTokenizerBase, model: PeftModel):
    """A model with a nearly uniform distribution ends some answers early."""
    with torch.no_grad():
        bare_model(model).lm_head.weight.mul_(0.05)  # pyright: ignore[reportCallIssue, reportArgumentType, reportAttributeAccessIssue]
    generator = torch.Generator().manual_seed(0)
    settings = replace(SETTINGS, samples=200, max_new_tokens=12)
    sampled = sample_answers(
        bare_model(model), tokenizer, [chat_prompt(tokenizer, "oak")], settings, generator
    )
    lengths = sampled.answer_mask.sum(-1).flatten()
    assert 1 <= lengths.min() < 12 == lengths.max()
    for answer, mask, length in zip(
        sampled.answers.flatten(0, 1), sampled.answer_mask.flatten(0, 1), lengths.tolist(), strict=True
    ):
        assert mask[:length].all() and not mask[length:].any()
        assert tokenizer.eos_token_id not in answer[: length - 1].tolist()
        assert length == 12 or answer[length - 1] == tokenizer.eos_token_id


def test_rewards_are_computed_without_special_tokens(tokenizer: PreTrainedTokenizerBase, rollouts: Rollouts):
    seen: list[str] = []
    rewards = reward_answers(tokenizer, rollouts, lambda text: seen.append(text) or len(seen))
    assert rewards.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert "</s>" not in "".join(seen)


def test_the_policy_term_raises_answers_with_positive_advantage_and_lowers_the_others(
    model: PeftModel, rollouts: Rollouts
):
    """One step along the gradient of the logits changes the log-probability of an answer in the direction of its advantage."""
    logits = answer_logits(bare_model(model), rollouts, 1.0).detach().requires_grad_()
    advantages = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.0, -0.5]])
    policy_terms(logits, logits.detach(), rollouts, advantages, SETTINGS)["policy"].backward()
    assert logits.grad is not None
    chosen = rollouts.answers[rollouts.answer_mask][:, None]
    moved = -logits.grad.gather(1, chosen).squeeze(1)
    weights = advantages[..., None].expand(rollouts.answer_mask.shape)[rollouts.answer_mask]
    assert torch.equal(moved.sign(), weights.sign())


def test_a_simple_reward_is_learned(model: PeftModel, tokenizer: PreTrainedTokenizerBase):
    rewards = train_policy(model, tokenizer, QUESTIONS, has_vowel, SETTINGS)
    first, last = sum(rewards[:4]) / 4, sum(rewards[-4:]) / 4
    assert 0.1 < first < 0.6
    assert last > first + 0.35


def test_the_divergence_restrains_the_policy(tmp_path: Path, tokenizer: PreTrainedTokenizerBase):
    drifts = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
        model = add_adapter(base, LowRank(first_layer=1, last_layer=2))
        train_policy(model, tokenizer, QUESTIONS, has_vowel, replace(SETTINGS, divergence_weight=weight))
        drifts.append(divergence_from_reference(model, tokenizer))
    assert drifts[1] < drifts[0] / 3


def divergence_from_reference(model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> float:
    token_ids, mask = padded_prompts(tokenizer, [chat_prompt(tokenizer, text) for text in QUESTIONS])
    with torch.no_grad():
        after = model(input_ids=token_ids, attention_mask=mask).logits[:, -1]
        with without_adapter(model):
            before = model(input_ids=token_ids, attention_mask=mask).logits[:, -1]
    return divergence(after, before, torch.ones(len(after))).item()


def test_a_constant_reward_teaches_nothing(model: PeftModel, tokenizer: PreTrainedTokenizerBase):
    """Without the divergence, not one bit of the adapter changes."""
    displace(model)
    before = adapter(model)
    train_policy(
        model, tokenizer, QUESTIONS, lambda _: 0.7, replace(SETTINGS, steps=3, divergence_weight=0.0)
    )
    after = adapter(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_with_a_constant_reward_only_the_divergence_acts(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase
):
    displace(model)
    before = divergence_from_reference(model, tokenizer)
    train_policy(model, tokenizer, QUESTIONS, lambda _: 0.7, replace(SETTINGS, divergence_weight=1.0))
    assert divergence_from_reference(model, tokenizer) < before / 4


def test_one_sample_has_no_baseline(model: PeftModel, tokenizer: PreTrainedTokenizerBase):
    with pytest.raises(ValueError, match="samples: 1 per prompt"):
        train_policy(model, tokenizer, QUESTIONS, has_vowel, replace(SETTINGS, samples=1))
