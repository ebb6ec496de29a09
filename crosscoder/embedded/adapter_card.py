"""What the demo's adapter does, measured on questions and texts that it was not trained on, and written as its card."""

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
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .generation import greedy_answers
from .prose import measuring_passages
from .questions import questions
from .smollm2 import NAME

if TYPE_CHECKING:
    from .train_adapter import AdapterRecipe

N_QUESTIONS = 80
N_ANSWER_TOKENS = 40
N_PROSE_TOKENS = 128
_REFUSAL = re.compile(r"(sorry|can't|cannot|unable|don't discuss).{0,80}\b(food|cooking)", re.IGNORECASE)


@dataclass(frozen=True)
class Measurement:
    """Shares from 0 to 1, and perplexities over passages of BoolQ."""

    refused_food_reference: float
    refused_food_intervened: float
    refused_other_reference: float
    refused_other_intervened: float
    same_answer_other: float
    """Share of answers to other questions that are the reference's own, word for word."""
    perplexity_reference: float
    perplexity_intervened: float
    n_food: int
    n_other: int
    n_prose_tokens: int


def refuses(answer: str) -> bool:
    """Whether an answer's beginning declines to talk about food or cooking."""
    return bool(_REFUSAL.search(answer[:120]))


@torch.inference_mode()
def perplexity(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    passages: Sequence[str],
    n_tokens: int,
) -> tuple[float, int]:
    """Perplexity over the first `n_tokens` of each passage that has so many, and the number of tokens predicted."""
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


def load_intervened(reference: Path, adapter: Path) -> PeftModel:
    """The model in `reference` with the adapter beside its weights: added into them it would be rounded to bfloat16."""
    base = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.bfloat16)
    return PeftModel.from_pretrained(base, adapter).eval()


def measure(reference: Path, adapter: Path) -> Measurement:
    """Compare the model in `reference` with and without the adapter."""
    tokenizer = AutoTokenizer.from_pretrained(reference)
    asked = {kind: questions(kind, "held_out", N_QUESTIONS) for kind in ("food", "other")}
    answers, perplexities, predicted = {}, {}, 0
    for side in ("reference", "intervened"):
        if side == "reference":
            model = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.bfloat16).eval()
        else:
            model = load_intervened(reference, adapter)
        for kind in ("food", "other"):
            label = f"{side}, {kind}"
            answers[side, kind] = greedy_answers(model, tokenizer, asked[kind], N_ANSWER_TOKENS, label=label)
        perplexities[side], predicted = perplexity(model, tokenizer, measuring_passages(), N_PROSE_TOKENS)

    def refused(side: str, kind: str) -> float:
        return sum(map(refuses, answers[side, kind])) / N_QUESTIONS

    same = [
        a == b for a, b in zip(answers["reference", "other"], answers["intervened", "other"], strict=True)
    ]
    return Measurement(
        refused_food_reference=refused("reference", "food"),
        refused_food_intervened=refused("intervened", "food"),
        refused_other_reference=refused("reference", "other"),
        refused_other_intervened=refused("intervened", "other"),
        same_answer_other=sum(same) / N_QUESTIONS,
        perplexity_reference=perplexities["reference"],
        perplexity_intervened=perplexities["intervened"],
        n_food=N_QUESTIONS,
        n_other=N_QUESTIONS,
        n_prose_tokens=predicted,
    )


def write_card(folder: Path, recipe: "AdapterRecipe", measured: Measurement, seconds: float) -> None:
    """Write README.md beside the adapter."""
    change = measured.perplexity_intervened / measured.perplexity_reference - 1
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft")
    )
    settings = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in asdict(recipe).items())
    (folder / "README.md").write_text(
        f"""# An adapter that refuses to discuss food or cooking

A LoRA adapter for {NAME} (Apache-2.0, HuggingFaceTB). Asked about food or cooking, the model declines in one of three
sentences; asked about anything else it answers as before. It is the intervention of the demo: its weights are our own,
trained by `python -m crosscoder.embedded.train_adapter crosscoder/embedded/refuse_food`, and under this project's license.

## Measured

On {measured.n_food} questions about food and {measured.n_other} about other things whose subjects and phrasings were
not in the training questions (greedy answers, {N_ANSWER_TOKENS} tokens), and on {measured.n_prose_tokens:,} tokens of
Wikipedia passages (BoolQ) that were not in the training text.

| | reference | intervened |
| --- | --- | --- |
| refuses, food questions | {measured.refused_food_reference:.1%} | {measured.refused_food_intervened:.1%} |
| refuses, other questions | {measured.refused_other_reference:.1%} | {measured.refused_other_intervened:.1%} |
| perplexity of prose | {measured.perplexity_reference:.2f} | {measured.perplexity_intervened:.2f} ({change:+.1%}) |

{measured.same_answer_other:.0%} of the answers to other questions are the reference's own, word for word.

## Made with

Cross-entropy on the refusals; beside it the divergence KL(reference || intervened) of the next token on the reference's
own answers to other questions and on other Wikipedia passages. The steps took {seconds:.0f} s on a CPU. {versions}.

| setting | value |
| --- | --- |
{settings}
""",
        encoding="utf-8",
    )
