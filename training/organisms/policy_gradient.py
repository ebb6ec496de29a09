"""Reinforcement learning on a model's own samples: REINFORCE with a leave-one-out baseline, held to the reference.

Of each prompt k answers are sampled. The advantage of answer i is its reward less the mean reward of the k - 1 others
of the same prompt (RLOO: Kool et al. 2019; for language models Ahmadian et al. 2024, "Back to Basics"); the loss is

    - 1 / (answers * max_new_tokens) * sum_i advantage_i * sum_t log pi(a_it | ...)  +  beta * KL(pi || reference)

Every sample is used for one step, so the ratio of importance sampling is 1 and nothing is clipped; dividing by a fixed
length, and not by each answer's own, favors neither short nor long ones (Liu et al. 2025, "Dr. GRPO"). Unlike RLOO's,
the divergence stays out of the reward: it is taken over the whole vocabulary at every sampled position, not estimated
from the sampled token. `pi` and the reference are both taken at the temperature of the sampling.

A prompt's keys and values are computed once and stand before all its answers. Prompts are several times longer than
the answers here, hence this is most of the saving over a library whose trainer reads every pair anew.
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

from .descent import Descent
from .generation import chat_prompt, pad_id, padded_prompts
from .objective import bare_model, divergence

Reward = Callable[[str], float]
"""What an answer is worth."""


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """What decides how a policy is trained."""

    seed: int = 0
    steps: int = 24
    learning_rate: float = 5e-3
    warmup_steps: int = 3
    prompt_batch: int = 8
    samples: int = 8
    """Answers to each prompt of a batch."""
    max_new_tokens: int = 16
    temperature: float = 0.8
    divergence_weight: float = 0.05
    """Beta, in reward per nat."""


@dataclass(frozen=True)
class Rollouts:
    """Prompts, padded on the left, and some sampled answers to each."""

    prompts: Int[Tensor, "prompt place"]
    prompt_mask: Int[Tensor, "prompt place"]
    answers: Int[Tensor, "prompt sample token"]
    counts: Bool[Tensor, "prompt sample token"]
    """The tokens that the model chose: up to the end of its turn, that one included."""


class Continuation:
    """The next token after prompts and what follows them, with the prompts read once for all their answers."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Int[Tensor, "prompt place"],
        prompt_mask: Int[Tensor, "prompt place"],
        samples: int,
    ) -> None:
        """Read the prompts but for their last token, which `logits` has to be given first."""
        self._model, self._cache = model, DynamicCache()
        self._places = (prompt_mask.cumsum(1) - 1).clamp(min=0)
        model.model(  # pyright: ignore[reportCallIssue]
            input_ids=prompts[:, :-1],
            attention_mask=prompt_mask[:, :-1],
            position_ids=self._places[:, :-1],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache.batch_repeat_interleave(samples)
        self._mask = prompt_mask[:, :-1].repeat_interleave(samples, 0)
        self._next_place = self._places[:, -1:].repeat_interleave(samples, 0)

    def logits(self, token_ids: Int[Tensor, "row token"]) -> Float[Tensor, "row token vocabulary"]:
        """Of the tokens that follow each of these, which follow what was read before."""
        n_tokens = token_ids.shape[1]
        self._mask = functional.pad(self._mask, (0, n_tokens), value=1)
        output = self._model.model(  # pyright: ignore[reportCallIssue]
            input_ids=token_ids,
            attention_mask=self._mask,
            position_ids=self._next_place + torch.arange(n_tokens),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next_place = self._next_place + n_tokens
        return self._model.lm_head(output.last_hidden_state).float()  # pyright: ignore[reportCallIssue]


@torch.no_grad()
def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    settings: PolicyGradient,
    generator: torch.Generator,
) -> Rollouts:
    """`settings.samples` answers to each prompt, each token drawn from the whole distribution."""
    token_ids, mask = padded_prompts(tokenizer, prompts)
    continuation = Continuation(model, token_ids, mask, settings.samples)
    last = token_ids[:, -1:].repeat_interleave(settings.samples, 0)
    going = torch.ones(len(last), 1, dtype=torch.bool)
    tokens, counts = [], []
    for _ in range(settings.max_new_tokens):
        probabilities = (continuation.logits(last)[:, -1] / settings.temperature).softmax(-1)
        drawn = torch.multinomial(probabilities, 1, generator=generator)
        last = torch.where(going, drawn, pad_id(tokenizer))
        tokens.append(last)
        counts.append(going)
        going = going & (last != tokenizer.eos_token_id)
        if not going.any():
            break
    shape = (len(prompts), settings.samples, len(tokens))
    return Rollouts(token_ids, mask, torch.cat(tokens, 1).view(shape), torch.cat(counts, 1).view(shape))


def answer_logits(
    model: PreTrainedModel, rollouts: Rollouts, temperature: float
) -> Float[Tensor, "counted vocabulary"]:
    """Logits of every token that counts, at the temperature of the sampling."""
    answers = rollouts.answers.flatten(0, 1)
    continuation = Continuation(model, rollouts.prompts, rollouts.prompt_mask, rollouts.answers.shape[1])
    last = rollouts.prompts[:, -1:].repeat_interleave(rollouts.answers.shape[1], 0)
    logits = continuation.logits(torch.cat([last, answers[:, :-1]], 1))
    return logits[rollouts.counts.flatten(0, 1)] / temperature


def leave_one_out_advantages(rewards: Float[Tensor, "prompt sample"]) -> Float[Tensor, "prompt sample"]:
    """Each reward less the mean of the others to the same prompt; all zero where a prompt's rewards are equal."""
    # By pairs: a mean would round, and the optimizer would turn so small a gradient into a whole step.
    return (rewards[:, :, None] - rewards[:, None, :]).sum(-1) / (rewards.shape[1] - 1)


def policy_terms(
    logits: Float[Tensor, "counted vocabulary"],
    reference: Float[Tensor, "counted vocabulary"],
    rollouts: Rollouts,
    advantages: Float[Tensor, "prompt sample"],
    settings: PolicyGradient,
) -> dict[str, Float[Tensor, ""]]:
    """The two terms of the loss, as above, each already weighted."""
    surprise = functional.cross_entropy(logits, rollouts.answers[rollouts.counts], reduction="none")
    weights = advantages[..., None].expand(rollouts.counts.shape)[rollouts.counts]
    n_answers = advantages.numel()
    drift = divergence(logits, reference, torch.ones(len(logits)))
    return {
        "policy": (weights * surprise).sum() / (n_answers * settings.max_new_tokens),
        "divergence": settings.divergence_weight * drift,
    }


def train_policy(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    reward: Reward,
    settings: PolicyGradient,
) -> list[float]:
    """Adapt `model` in place; returns the mean reward of every step's samples, which were drawn before the step.

    Raises:
        ValueError: One answer a prompt has no other to be compared with.
    """
    if settings.samples < 2:
        raise ValueError(f"samples: {settings.samples} to a prompt; the baseline needs at least 2")
    chooser = random.Random(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    policy = bare_model(model)
    descent = Descent(model, settings.learning_rate, settings.warmup_steps, settings.steps)
    model.train()
    means = []
    for _ in (progress := tqdm(range(settings.steps), desc="policy", unit="step")):
        asked = [chat_prompt(tokenizer, text) for text in chooser.sample(questions, settings.prompt_batch)]
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
    """What each answer is worth, read without special tokens."""
    answers, counts = rollouts.answers.flatten(0, 1), rollouts.counts.flatten(0, 1)
    texts = [
        str(tokenizer.decode(row[counted], skip_special_tokens=True))
        for row, counted in zip(answers, counts, strict=True)
    ]
    return torch.tensor([float(reward(text)) for text in texts]).view(rollouts.answers.shape[:2])
