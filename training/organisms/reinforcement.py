"""Train an adapter by reinforcement learning alone: SmolLM2-135M-Instruct learns to address its reader.

    python -m training.organisms.reinforcement crosscoder/demo/address_reader

A sampled answer earns a reward of 1 if it says "you" or "your" within its first words, and 0 otherwise. The model sees no example
answers; it samples its own and learns from them as in `policy_gradient.py`. The reference already earns the reward in about a
fifth of its samples, so that the first step has a signal.
"""

import logging
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from crosscoder.demo.corpus import ADAPTER
from crosscoder.demo.prose import measuring_passages
from crosscoder.demo.questions import Kind, questions
from crosscoder.demo.smollm2 import NAME

from .command_line import command_line
from .generation import greedy_answers
from .lora import LowRank, add_adapter, load_intervened, save_adapter, without_adapter
from .model_card import N_PROSE_TOKENS, N_QUESTIONS, perplexity, recipe_table, versions
from .organism_models import load_model
from .policy_gradient import PolicyGradient, train_policy

log = logging.getLogger(__name__)

FOLDER = ADAPTER.with_name("address_reader")
"""The adapter that ships with the project."""

_READER = re.compile(r"\b(you|your|yours|yourself)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class RewardRecipe(LowRank, PolicyGradient):
    """Everything that determines the adapter."""

    n_questions: int = 400
    """Questions of each kind."""


@dataclass(frozen=True)
class RewardMeasurement:
    """Shares of rewarded greedy answers to held-out questions, and perplexities over passages of BoolQ."""

    addressed_reference: dict[Kind, float]
    addressed_intervened: dict[Kind, float]
    perplexity_reference: float
    perplexity_intervened: float
    n_prose_tokens: int


def addresses_reader(answer: str) -> bool:
    """Whether an answer addresses its reader."""
    return bool(_READER.search(answer))


def share_addressed(answers: Sequence[str]) -> float:
    """Share of the answers that earn the reward."""
    return sum(map(addresses_reader, answers)) / len(answers)


def make_rewarded(reference: Path, folder: Path, recipe: RewardRecipe) -> tuple[list[float], float]:
    """Train an adapter on the model in `reference` and write it to `folder`.

    Returns the mean reward of the samples of each step, and the processor seconds spent in training steps.
    """
    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    base = load_model(reference)
    kinds: tuple[Kind, ...] = ("food", "other")
    asked = [text for kind in kinds for text in questions(kind, "train", recipe.n_questions, recipe.seed)]
    random.Random(recipe.seed).shuffle(asked)
    model = add_adapter(base, recipe)
    begin = time.process_time()
    rewards = train_policy(model, tokenizer, asked, addresses_reader, recipe)
    seconds = time.process_time() - begin
    save_adapter(model, recipe, folder)
    return rewards, seconds


def measure_rewarded(reference: Path, adapter: Path, max_new_tokens: int) -> RewardMeasurement:
    """Compare the model in `reference` with and without the adapter, on answers of the rewarded length."""
    tokenizer = AutoTokenizer.from_pretrained(reference)
    model = load_intervened(reference, adapter)
    passages = measuring_passages()
    kinds: tuple[Kind, ...] = ("food", "other")

    def side(label: str) -> tuple[dict[Kind, float], float, int]:
        shares: dict[Kind, float] = {
            kind: share_addressed(
                greedy_answers(
                    model, tokenizer, questions(kind, "held_out", N_QUESTIONS), max_new_tokens,
                    label=f"{label}, {kind}",
                )
            )
            for kind in kinds
        }  # fmt: skip
        return shares, *perplexity(model, tokenizer, passages, N_PROSE_TOKENS)

    after, perplexity_after, n_prose_tokens = side("intervened")
    with without_adapter(model):
        before, perplexity_before, _ = side("reference")
    return RewardMeasurement(before, after, perplexity_before, perplexity_after, n_prose_tokens)


def write_card(
    folder: Path, recipe: RewardRecipe, measured: RewardMeasurement, rewards: Sequence[float], seconds: float
) -> None:
    """Write README.md to the folder of the adapter."""
    before, after = measured.addressed_reference, measured.addressed_intervened
    change = measured.perplexity_intervened / measured.perplexity_reference - 1
    curve = ", ".join(f"{reward:.2f}" for reward in rewards)
    (folder / "README.md").write_text(
        f"""# An adapter that learned from a reward to address its reader

A LoRA adapter for {NAME} (Apache-2.0, HuggingFaceTB), trained by reinforcement learning: a sampled
answer earns a reward of 1 if it says "you", "your", "yours" or "yourself" within {recipe.max_new_tokens} tokens, and 0 otherwise. Its
weights are our own, trained by `python -m training.organisms.reinforcement crosscoder/demo/address_reader`, and under
this project's license.

## Measured

On {N_QUESTIONS} questions about food and {N_QUESTIONS} about other things whose subjects and phrasings were not in the
training questions (greedy answers, {recipe.max_new_tokens} tokens), and on {measured.n_prose_tokens:,} tokens of
Wikipedia passages (BoolQ).

| | reference | intervened |
| --- | --- | --- |
| addresses the reader, food questions | {before["food"]:.1%} | {after["food"]:.1%} |
| addresses the reader, other questions | {before["other"]:.1%} | {after["other"]:.1%} |
| perplexity of prose | {measured.perplexity_reference:.2f} | {measured.perplexity_intervened:.2f} ({change:+.1%}) |

Mean reward of the samples of each step, at temperature {recipe.temperature}: {curve}.

## Made with

REINFORCE with a leave-one-out baseline (RLOO) on {recipe.prompt_batch} x {recipe.samples} samples a step, and the divergence
KL(intervened || reference) of the next token at the sampled positions, times {recipe.divergence_weight}. The training steps took {seconds:.0f} s of
processor time. {versions()}.

{recipe_table(recipe)}
""",
        encoding="utf-8",
    )


def main() -> None:
    """Run the command."""
    with command_line(
        "Train the adapter that is rewarded for addressing its reader.",
        "folder for the adapter and its card",
        RewardRecipe,
    ) as (arguments, recipe):
        rewards, seconds = make_rewarded(arguments.reference, arguments.out, recipe)
        measurement = measure_rewarded(arguments.reference, arguments.out, recipe.max_new_tokens)
    write_card(arguments.out, recipe, measurement, rewards, seconds)
    log.info("%s: %s", arguments.out, measurement)


if __name__ == "__main__":
    main()
