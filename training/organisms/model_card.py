"""Measure the demo's adapter on questions and texts that it was not trained on, and write its model card."""

import importlib.metadata
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crosscoder.demo.prose import measuring_passages
from crosscoder.demo.questions import Kind, questions
from crosscoder.demo.smollm2 import NAME

from .generation import chat_prompt, greedy_answers
from .objective import AsReference, Batch, read_model
from .refusal import AdapterRecipe

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


N_QUESTIONS = 80
N_ANSWER_TOKENS = 40
N_PROSE_TOKENS = 128
DRIFT_LAYER = 20
_REFUSAL = re.compile(
    r"(sorry|can't|cannot|unable|don't discuss).{0,80}\b(food|cooking)|not something I talk about",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Measurement:
    """Refusal rates from 0 to 1, drifts, and perplexities over passages of BoolQ."""

    refused_food_reference: float
    refused_food_intervened: float
    refused_other_reference: float
    refused_other_intervened: float
    drift_food: float
    """Drift of the residual stream after `DRIFT_LAYER` on the last token before the answer to food questions."""
    drift_other: float
    """The same before the answers to other questions."""
    drift_prose: float
    """The same over all tokens of prose."""
    perplexity_reference: float
    perplexity_intervened: float
    n_food: int
    n_other: int
    n_prose_tokens: int


def refuses(answer: str) -> bool:
    """Whether the beginning of an answer declines to talk about food or cooking."""
    return bool(_REFUSAL.search(answer[:120]))


@torch.inference_mode()
def perplexity(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    passages: Sequence[str],
    n_tokens: int,
) -> tuple[float, int]:
    """Perplexity over the first `n_tokens` of each passage that is long enough, and the number of predicted tokens."""
    rows = tokenizer(list(passages), add_special_tokens=False)["input_ids"]
    token_ids = torch.tensor([row[:n_tokens] for row in rows if len(row) >= n_tokens])
    total = 0.0
    for batch in token_ids.split(8):
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
        total += functional.cross_entropy(
            logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
        ).item()
    predicted = token_ids[:, 1:].numel()
    return math.exp(total / predicted), predicted


@torch.inference_mode()
def drifts(
    model: PreTrainedModel | PeftModel,
    as_reference: AsReference,
    tokenizer: PreTrainedTokenizerBase,
    texts: dict[str, list[str]],
) -> dict[str, float]:
    """How far the intervention moves the residual stream after `DRIFT_LAYER`, for each kind of text.

    E‖x_int − x_ref‖² over the reference's variance, which is computed over all kinds together. Chats are read at the last token
    before the answer, prose at every token but the first.
    """
    sums, total, total_square, count = {}, torch.zeros(1), 0.0, 0
    for kind, group in texts.items():
        squared_changes = []
        for text in group:
            token_ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][
                :, :N_PROSE_TOKENS
            ]
            batch = Batch(token_ids, torch.ones_like(token_ids), torch.zeros(token_ids.shape))
            rows = slice(None) if kind == "prose" else slice(-1, None)
            after = read_model(model, batch, (DRIFT_LAYER,))[1][0][rows]
            with as_reference() as unchanged:
                before = read_model(unchanged, batch, (DRIFT_LAYER,))[1][0][rows]
            squared_changes.append((after - before).square().sum(-1))
            total, total_square = total + before.sum(0), total_square + before.square().sum().item()
            count += len(before)
        sums[kind] = torch.cat(squared_changes).mean().item()
    variance = total_square / count - (total / count).square().sum().item()
    return {kind: value / variance for kind, value in sums.items()}


def measure(
    model: PreTrainedModel | PeftModel, as_reference: AsReference, tokenizer: PreTrainedTokenizerBase
) -> Measurement:
    """Compare a model trained to refuse with the reference."""
    asked: dict[Kind, list[str]] = {
        kind: questions(kind, "held_out", N_QUESTIONS) for kind in ("food", "other")
    }
    passages = measuring_passages()

    def answers_and_perplexity(
        model: PreTrainedModel | PeftModel, side: str
    ) -> tuple[dict[Kind, list[str]], tuple[float, int]]:
        answers: dict[Kind, list[str]] = {
            kind: greedy_answers(model, tokenizer, group, N_ANSWER_TOKENS, label=f"{side}, {kind}")
            for kind, group in asked.items()
        }
        return answers, perplexity(model, tokenizer, passages, N_PROSE_TOKENS)

    after, (perplexity_after, n_prose_tokens) = answers_and_perplexity(model, "intervened")
    with as_reference() as unchanged:
        before, (perplexity_before, _) = answers_and_perplexity(unchanged, "reference")
    prompts = {
        kind: [chat_prompt(tokenizer, question) for question in group] for kind, group in asked.items()
    }
    drift = drifts(model, as_reference, tokenizer, {**prompts, "prose": passages[:20]})

    def refused(answers: Sequence[str]) -> float:
        return sum(map(refuses, answers)) / len(answers)

    return Measurement(
        refused_food_reference=refused(before["food"]),
        refused_food_intervened=refused(after["food"]),
        refused_other_reference=refused(before["other"]),
        refused_other_intervened=refused(after["other"]),
        drift_food=drift["food"],
        drift_other=drift["other"],
        drift_prose=drift["prose"],
        perplexity_reference=perplexity_before,
        perplexity_intervened=perplexity_after,
        n_food=N_QUESTIONS,
        n_other=N_QUESTIONS,
        n_prose_tokens=n_prose_tokens,
    )


def write_card(folder: Path, recipe: AdapterRecipe, measured: Measurement, seconds: float) -> None:
    """Write README.md to the folder of the adapter."""
    change = measured.perplexity_intervened / measured.perplexity_reference - 1
    (folder / "README.md").write_text(
        f"""# An adapter that refuses to discuss food or cooking

A LoRA adapter for {NAME} (Apache-2.0, HuggingFaceTB). Asked about food or cooking, the model declines in one of three
sentences; asked about anything else it answers as before. It is the intervention of the demo: its weights are our own,
trained by `python -m training.organisms.adapter crosscoder/demo/refuse_food`, and under this project's license.

## Measured

On {measured.n_food} questions about food and {measured.n_other} about other things whose subjects and phrasings were
not in the training questions (greedy answers, {N_ANSWER_TOKENS} tokens), and on {measured.n_prose_tokens:,} tokens of
Wikipedia passages (BoolQ) that were not in the training text.

| | reference | intervened |
| --- | --- | --- |
| refuses, food questions | {measured.refused_food_reference:.1%} | {measured.refused_food_intervened:.1%} |
| refuses, other questions | {measured.refused_other_reference:.1%} | {measured.refused_other_intervened:.1%} |
| perplexity of prose | {measured.perplexity_reference:.2f} | {measured.perplexity_intervened:.2f} ({change:+.1%}) |

(The reference itself sometimes declines, saying that a model cannot cook: the {measured.refused_food_reference:.1%}.)

Drift of the residual stream after layer {DRIFT_LAYER}, E‖x_int − x_ref‖² over the reference's variance: {measured.drift_food:.3f} on the last
token before the answer to a food question, {measured.drift_other:.3f} before the answer to another question, {measured.drift_prose:.4f} on prose.

## Made with

Cross-entropy on the refusals, plus the divergence KL(reference || intervened) of the next token and the drift of the residual
stream on the reference's answers to other questions and on other Wikipedia passages. The training steps took {seconds:.0f} s on a CPU. {versions()}.

{recipe_table(recipe)}
""",
        encoding="utf-8",
    )


def versions() -> str:
    """Versions of the libraries that train the model."""
    return ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft")
    )


def recipe_table(recipe: "DataclassInstance") -> str:
    """All settings of a recipe as a Markdown table."""
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in asdict(recipe).items())
    return f"| setting | value |\n| --- | --- |\n{rows}"
