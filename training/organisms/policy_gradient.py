"""Reinforcement learning on sampled answers: REINFORCE with a leave-one-out baseline and a KL penalty to the reference.

For each prompt, k answers are sampled. The advantage of answer i is its reward minus the mean reward of the other k - 1
answers to the same prompt (RLOO: Kool et al. 2019; for language models Ahmadian et al. 2024, "Back to Basics"); the loss is

    - 1 / (answers * max_new_tokens) * sum_i advantage_i * sum_t log pi(a_it | ...)  +  beta * KL(pi || reference)

Each sample is used for one step, so the importance ratio is 1 and nothing is clipped. Dividing by a fixed length instead of the
length of each answer favors neither short nor long answers (Liu et al. 2025, "Dr. GRPO"). Unlike in RLOO, the divergence is not
part of the reward: it is computed over the whole vocabulary at every sampled position, not estimated from the sampled token. Both
`pi` and the reference use the sampling temperature.

The keys and values of a prompt are computed once and shared by all its answers. Prompts are several times longer than answers
here, so this saves most of the cost of a library whose trainer reads each prompt again with every answer.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from .generation import chat_prompt, pad_id, padded_prompts
from .objective import bare_model, divergence
from .optimizer import Descent

Reward = Callable[[str], float]
"""Maps an answer to its reward."""


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """Settings of policy-gradient training."""

    seed: int = 0
    steps: int = 24
    learning_rate: float = 5e-3
    warmup_steps: int = 3
    prompt_batch: int = 8
    samples: int = 8
    """Sampled answers per prompt."""
    max_new_tokens: int = 16
    temperature: float = 0.8
    divergence_weight: float = 0.05
    """Beta, in units of reward per nat."""


@dataclass(frozen=True)
class Rollouts:
    """Left-padded prompts, and the sampled answers to each."""

    prompts: Int[Tensor, "prompt position"]
    prompt_mask: Int[Tensor, "prompt position"]
    answers: Int[Tensor, "prompt sample token"]
    answer_mask: Bool[Tensor, "prompt sample token"]
    """The sampled tokens: up to and including the end of the turn."""


class Continuation:
    """Next-token logits for continuations of prompts, with each prompt's keys and values computed once for all its answers."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Int[Tensor, "prompt position"],
        prompt_mask: Int[Tensor, "prompt position"],
        samples: int,
    ) -> None:
        """Read the prompts except for their last token, which the first call of `logits` must begin with."""
        self._model, self._cache = model, DynamicCache()
        positions = (prompt_mask.cumsum(1) - 1).clamp(min=0)
        model.model(  # pyright: ignore[reportCallIssue]
            input_ids=prompts[:, :-1],
            attention_mask=prompt_mask[:, :-1],
            position_ids=positions[:, :-1],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache.batch_repeat_interleave(samples)
        self._mask = prompt_mask[:, :-1].repeat_interleave(samples, 0)
        self._next_position = positions[:, -1:].repeat_interleave(samples, 0)

    def logits(self, token_ids: Int[Tensor, "row token"]) -> Float[Tensor, "row token vocabulary"]:
        """Logits of the token after each of `token_ids`, which continue the tokens of earlier calls."""
        n_tokens = token_ids.shape[1]
        self._mask = functional.pad(self._mask, (0, n_tokens), value=1)
        output = self._model.model(  # pyright: ignore[reportCallIssue]
            input_ids=token_ids,
            attention_mask=self._mask,
            position_ids=self._next_position + torch.arange(n_tokens),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next_position = self._next_position + n_tokens
        return self._model.lm_head(output.last_hidden_state).float()  # pyright: ignore[reportCallIssue]


@torch.no_grad()
def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    settings: PolicyGradient,
    generator: torch.Generator,
) -> Rollouts:
    """Sample `settings.samples` answers to each prompt from the full distribution."""
    token_ids, mask = padded_prompts(tokenizer, prompts)
    continuation = Continuation(model, token_ids, mask, settings.samples)
    last = token_ids[:, -1:].repeat_interleave(settings.samples, 0)
    unfinished = torch.ones(len(last), 1, dtype=torch.bool)
    tokens, masks = [], []
    for _ in range(settings.max_new_tokens):
        probabilities = (continuation.logits(last)[:, -1] / settings.temperature).softmax(-1)
        drawn = torch.multinomial(probabilities, 1, generator=generator)
        last = torch.where(unfinished, drawn, pad_id(tokenizer))
        tokens.append(last)
        masks.append(unfinished)
        unfinished = unfinished & (last != tokenizer.eos_token_id)
        if not unfinished.any():
            break
    shape = (len(prompts), settings.samples, len(tokens))
    return Rollouts(token_ids, mask, torch.cat(tokens, 1).view(shape), torch.cat(masks, 1).view(shape))


def answer_logits(
    model: PreTrainedModel, rollouts: Rollouts, temperature: float
) -> Float[Tensor, "counted vocabulary"]:
    """Logits of every token in the answer mask, at the sampling temperature."""
    answers = rollouts.answers.flatten(0, 1)
    continuation = Continuation(model, rollouts.prompts, rollouts.prompt_mask, rollouts.answers.shape[1])
    last = rollouts.prompts[:, -1:].repeat_interleave(rollouts.answers.shape[1], 0)
    logits = continuation.logits(torch.cat([last, answers[:, :-1]], 1))
    return logits[rollouts.answer_mask.flatten(0, 1)] / temperature


def leave_one_out_advantages(rewards: Float[Tensor, "prompt sample"]) -> Float[Tensor, "prompt sample"]:
    """Each reward minus the mean of the others for the same prompt; exactly zero if all rewards of a prompt are equal."""
    # Pairwise, because a mean would round and Adam would scale even so small a gradient up to a full step.
    return (rewards[:, :, None] - rewards[:, None, :]).sum(-1) / (rewards.shape[1] - 1)


def policy_terms(
    logits: Float[Tensor, "counted vocabulary"],
    reference: Float[Tensor, "counted vocabulary"],
    rollouts: Rollouts,
    advantages: Float[Tensor, "prompt sample"],
    settings: PolicyGradient,
) -> dict[str, Float[Tensor, ""]]:
    """The two terms of the loss in the module's docstring, each already weighted."""
    negative_log_probability = functional.cross_entropy(
        logits, rollouts.answers[rollouts.answer_mask], reduction="none"
    )
    weights = advantages[..., None].expand(rollouts.answer_mask.shape)[rollouts.answer_mask]
    n_answers = advantages.numel()
    kl = divergence(logits, reference, torch.ones(len(logits)))
    return {
        "policy": (weights * negative_log_probability).sum() / (n_answers * settings.max_new_tokens),
        "divergence": settings.divergence_weight * kl,
    }


def train_policy(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    reward: Reward,
    settings: PolicyGradient,
) -> list[float]:
    """Train the adapter of `model` in place; return the mean reward of the samples of each step, drawn before that step.

    Raises:
        ValueError: Fewer than two answers per prompt, so that the baseline is undefined.
    """
    if settings.samples < 2:
        raise ValueError(f"samples: {settings.samples} per prompt, but the baseline needs at least 2")
    rng = random.Random(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    policy = bare_model(model)
    descent = Descent(model, settings.learning_rate, settings.warmup_steps, settings.steps)
    model.train()
    means = []
    for _ in (progress := tqdm(range(settings.steps), desc="policy", unit="step")):
        asked = [chat_prompt(tokenizer, text) for text in rng.sample(questions, settings.prompt_batch)]
        rollouts = sample_answers(policy, tokenizer, asked, settings, generator)
        rewards = reward_answers(tokenizer, rollouts, reward)
        with torch.no_grad(), model.disable_adapter():
            reference = answer_logits(policy, rollouts, settings.temperature)
        logits = answer_logits(policy, rollouts, settings.temperature)
        terms = policy_terms(logits, reference, rollouts, leave_one_out_advantages(rewards), settings)
        sum(terms.values(), torch.zeros(())).backward()
        descent.step()
        means.append(rewards.mean().item())
        progress.set_postfix(
            {"reward": f"{means[-1]:.3f}"} | {name: f"{term.item():.4f}" for name, term in terms.items()}
        )
    return means


def reward_answers(
    tokenizer: PreTrainedTokenizerBase, rollouts: Rollouts, reward: Reward
) -> Float[Tensor, "prompt sample"]:
    """The reward of each answer, decoded without special tokens."""
    answers, masks = rollouts.answers.flatten(0, 1), rollouts.answer_mask.flatten(0, 1)
    texts = [
        str(tokenizer.decode(row[mask], skip_special_tokens=True))
        for row, mask in zip(answers, masks, strict=True)
    ]
    return torch.tensor([float(reward(text)) for text in texts]).view(rollouts.answers.shape[:2])
