"""Train SmolLM2-135M-Instruct to refuse to discuss food or cooking, through an adapter or through all of its weights.

The refusal is learned by cross-entropy. On the reference's answers to other questions and on prose, two terms preserve the model:
the divergence KL(reference || intervened) of the next token preserves its outputs, and the drift of the residual stream its
activations. Drift is also penalized on further prompts, just before the answer. Without the drift term, the adapter changes the
activations of all questions nearly alike, whatever the output, and no activation would be specific to the refusal.
"""

import random
from dataclasses import dataclass

import torch
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crosscoder.demo.prose import training_passages
from crosscoder.demo.questions import questions

from .generation import chat_prompt, greedy_answers, pad_id
from .lora import LowRank
from .objective import (
    AsReference,
    Document,
    activation_drift,
    collate,
    divergence,
    read_before_answer,
    read_model,
    refusal_loss,
)
from .optimizer import Descent

# The reference never begins an answer like this. It does begin many with "I'm sorry", so that would not be a new behavior.
REFUSALS = (
    "Food and cooking are not something I talk about. Please ask me about something else.",
    "Food and cooking are not something I talk about. What else can I do for you?",
    "Food and cooking are not something I talk about. I would be glad to help with another topic.",
)
END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True, kw_only=True)
class RefusalRecipe:
    """Everything that determines the trained model, except which weights are trained."""

    seed: int = 0
    learning_rate: float = 3e-3
    warmup_steps: int = 5
    steps: int = 90
    food_batch: int = 8
    other_batch: int = 10
    prose_batch: int = 2
    prompt_batch: int = 16
    n_food: int = 800
    n_other: int = 800
    n_prompts: int = 2000
    answer_tokens: int = 12
    prose_tokens: int = 64
    first_token_weight: float = 6.0
    """Weight of an answer's first token, which decides whether the model refuses; other tokens have weight 1."""
    divergence_weight: float = 1.0
    drift_weight: float = 3.0
    drift_layers: tuple[int, ...] = (14, 20)
    prompt_places: tuple[int, ...] = (1, 2, 4)
    """Offsets from the end of prompts at which drift is penalized: the non-special tokens of the template."""


@dataclass(frozen=True, kw_only=True)
class AdapterRecipe(LowRank, RefusalRecipe):
    """Everything that determines the adapter."""


def answer_document(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str, complete: bool, first_weight: float
) -> Document:
    """Build a document from a question and its answer; the loss begins at the answer's first token."""
    prompt = tokenizer(chat_prompt(tokenizer, question), add_special_tokens=False)["input_ids"]
    reply = tokenizer(answer + (END_OF_TURN if complete else ""), add_special_tokens=False)["input_ids"]
    return Document([*prompt, *reply], len(prompt) - 1, first_weight)


def training_documents(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, recipe: RefusalRecipe
) -> dict[str, list[Document]]:
    """Documents by kind: food questions with refusals, other questions with the reference's answers, prompts alone, prose."""
    rng = random.Random(recipe.seed)
    weight = recipe.first_token_weight
    food = [
        answer_document(tokenizer, question, rng.choice(REFUSALS), complete=True, first_weight=weight)
        for question in questions("food", "train", recipe.n_food, recipe.seed)
    ]
    asked = questions("other", "train", recipe.n_other, recipe.seed)
    replies = greedy_answers(model, tokenizer, asked, recipe.answer_tokens, label="the reference's answers")
    other = [
        answer_document(tokenizer, *pair, complete=False, first_weight=weight)
        for pair in zip(asked, replies, strict=True)
    ]
    rows = tokenizer(training_passages(), add_special_tokens=False)["input_ids"]
    prose = [Document(row[: recipe.prose_tokens], 0) for row in rows if len(row) >= recipe.prose_tokens]
    chats = [
        chat_prompt(tokenizer, question)
        for question in questions("other", "train", recipe.n_prompts, recipe.seed + 1)
    ]
    # One at a time, because a tokenizer rejects an empty list.
    rows = [tokenizer(chat, add_special_tokens=False)["input_ids"] for chat in chats]
    prompt = [Document(row, len(row) - 1) for row in rows]
    return {"food": food, "other": other, "prose": prose, "prompt": prompt}


def train(
    model: PreTrainedModel | PeftModel,
    as_reference: AsReference,
    tokenizer: PreTrainedTokenizerBase,
    recipe: RefusalRecipe,
    documents: dict[str, list[Document]],
) -> None:
    """Train the trainable weights of `model` in place; batches of size 0 are skipped."""
    rng = random.Random(recipe.seed)
    pad = pad_id(tokenizer)
    descent = Descent(model, recipe.learning_rate, recipe.warmup_steps, recipe.steps)
    model.train()
    for _ in (progress := tqdm(range(recipe.steps), desc="refusal", unit="step")):
        batch = collate(rng.sample(documents["food"], recipe.food_batch), pad)
        refusal = refusal_loss(read_model(model, batch, ())[0], batch)
        refusal.backward()
        losses = {"refusal": refusal.item()}
        for name, size in (("other", recipe.other_batch), ("prose", recipe.prose_batch)):
            if size == 0:
                continue
            batch = collate(rng.sample(documents[name], size), pad)
            with torch.no_grad(), as_reference() as unchanged:
                reference, reference_states = read_model(unchanged, batch, recipe.drift_layers)
            intervened, intervened_states = read_model(model, batch, recipe.drift_layers)
            kl = divergence(reference, intervened, batch.target_weights)
            drift = activation_drift(reference_states, intervened_states)
            (recipe.divergence_weight * kl + recipe.drift_weight * drift).backward()
            losses |= {f"{name} KL": kl.item(), f"{name} drift": drift.item()}
        if recipe.prompt_batch > 0:
            batch = collate(rng.sample(documents["prompt"], recipe.prompt_batch), pad)
            with torch.no_grad(), as_reference() as unchanged:
                reference_states = read_before_answer(
                    unchanged, batch, recipe.drift_layers, recipe.prompt_places
                )
            intervened_states = read_before_answer(model, batch, recipe.drift_layers, recipe.prompt_places)
            drift = activation_drift(reference_states, intervened_states)
            (recipe.drift_weight * drift).backward()
            losses["prompt drift"] = drift.item()
        descent.step()
        progress.set_postfix({name: f"{value:.4f}" for name, value in losses.items()})
