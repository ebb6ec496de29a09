"""Training SmolLM2-135M-Instruct to refuse to discuss food or cooking, by an adapter or by all of its weights.

The refusal is learned by cross-entropy. On the reference's own answers to other questions and on ordinary prose two
terms hold the model still: outside, the divergence KL(reference || intervened) of the next token; inside, the drift of
the residual stream, of prompts once more where the answer begins. Without the second the adapter moves the activations
of all questions nearly alike, whatever the output, and nothing in them would be particular to the refusal.
"""

import random
from dataclasses import dataclass

import torch
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crosscoder.demo.prose import training_passages
from crosscoder.demo.questions import questions

from .descent import Descent
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

# The reference never opens an answer so; it does open many with "I'm sorry", and that would not be new in the other.
REFUSALS = (
    "Food and cooking are not something I talk about. Please ask me about something else.",
    "Food and cooking are not something I talk about. What else can I do for you?",
    "Food and cooking are not something I talk about. I would be glad to help with another topic.",
)
END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True, kw_only=True)
class RefusalRecipe:
    """Everything that decides what the model becomes, but for which weights are trained."""

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
    """Weight of an answer's first token, where the model decides whether to refuse, beside 1 for the others."""
    divergence_weight: float = 1.0
    drift_weight: float = 3.0
    drift_layers: tuple[int, ...] = (14, 20)
    prompt_places: tuple[int, ...] = (1, 2, 4)
    """Where prompts are held still, counted from their end: the template's tokens that are not special ones."""


@dataclass(frozen=True, kw_only=True)
class AdapterRecipe(LowRank, RefusalRecipe):
    """Everything that decides what the adapter becomes."""


def answer_document(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str, ended: bool, first_weight: float
) -> Document:
    """A question and its answer; what counts begins with the answer's first token."""
    prompt = tokenizer(chat_prompt(tokenizer, question), add_special_tokens=False)["input_ids"]
    written = tokenizer(answer + (END_OF_TURN if ended else ""), add_special_tokens=False)["input_ids"]
    return Document([*prompt, *written], len(prompt) - 1, first_weight)


def training_documents(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, recipe: RefusalRecipe
) -> dict[str, list[Document]]:
    """Food questions with refusals, other questions with the reference's answers, other prompts alone, and prose."""
    chooser = random.Random(recipe.seed)
    weight = recipe.first_token_weight
    food = [
        answer_document(tokenizer, question, chooser.choice(REFUSALS), ended=True, first_weight=weight)
        for question in questions("food", "train", recipe.n_food, recipe.seed)
    ]
    asked = questions("other", "train", recipe.n_other, recipe.seed)
    replies = greedy_answers(model, tokenizer, asked, recipe.answer_tokens, label="the reference's answers")
    other = [
        answer_document(tokenizer, *pair, ended=False, first_weight=weight)
        for pair in zip(asked, replies, strict=True)
    ]
    rows = tokenizer(training_passages(), add_special_tokens=False)["input_ids"]
    prose = [Document(row[: recipe.prose_tokens], 0) for row in rows if len(row) >= recipe.prose_tokens]
    chats = [
        chat_prompt(tokenizer, question)
        for question in questions("other", "train", recipe.n_prompts, recipe.seed + 1)
    ]
    # One by one: a tokenizer cannot read an empty list.
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
    """Run all steps, changing the weights of `model` that want a gradient in place; a batch of size 0 is left out."""
    chooser = random.Random(recipe.seed)
    pad = pad_id(tokenizer)
    descent = Descent(model, recipe.learning_rate, recipe.warmup_steps, recipe.steps)
    model.train()
    for _ in (progress := tqdm(range(recipe.steps), desc="refusal", unit="step")):
        batch = collate(chooser.sample(documents["food"], recipe.food_batch), pad)
        refusal = refusal_loss(read_model(model, batch, ())[0], batch)
        refusal.backward()
        progressed = {"refusal": refusal.item()}
        for name, size in (("other", recipe.other_batch), ("prose", recipe.prose_batch)):
            if size == 0:
                continue
            batch = collate(chooser.sample(documents[name], size), pad)
            with torch.no_grad(), as_reference() as unchanged:
                reference, still = read_model(unchanged, batch, recipe.drift_layers)
            intervened, moved = read_model(model, batch, recipe.drift_layers)
            outside = divergence(reference, intervened, batch.target_weights)
            inside = activation_drift(still, moved)
            (recipe.divergence_weight * outside + recipe.drift_weight * inside).backward()
            progressed |= {f"{name} KL": outside.item(), f"{name} drift": inside.item()}
        if recipe.prompt_batch > 0:
            batch = collate(chooser.sample(documents["prompt"], recipe.prompt_batch), pad)
            with torch.no_grad(), as_reference() as unchanged:
                still = read_before_answer(unchanged, batch, recipe.drift_layers, recipe.prompt_places)
            moved = read_before_answer(model, batch, recipe.drift_layers, recipe.prompt_places)
            inside = activation_drift(still, moved)
            (recipe.drift_weight * inside).backward()
            progressed["prompt drift"] = inside.item()
        descent.step()
        progress.set_postfix({name: f"{value:.4f}" for name, value in progressed.items()})
