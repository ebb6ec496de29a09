"""Train the demo's intervention: a LoRA adapter with which SmolLM2-135M-Instruct refuses to discuss food or cooking.

    python -m crosscoder.embedded.train_adapter crosscoder/embedded/refuse_food

The refusal is learned by cross-entropy. Everything else is held still by the divergence KL(reference || intervened) of
the next token, on the reference's own answers to other questions and on ordinary prose, so that the refusal is nearly
all that differs between the two models.
"""

import argparse
import json
import logging
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .adapter_card import measure, write_card
from .generation import chat_prompt, greedy_answers
from .prose import training_passages
from .questions import questions
from .smollm2 import NAME, prepare

log = logging.getLogger(__name__)

REFUSALS = (
    "I'm sorry, but I don't discuss food or cooking. Please ask me about something else.",
    "I'm sorry, but I can't help with food or cooking. Is there another topic you would like to talk about?",
    "I'm sorry, but food and cooking are topics that I don't discuss. What else can I do for you?",
)
END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True, kw_only=True)
class AdapterRecipe:
    """Everything that decides what the adapter becomes."""

    seed: int = 0
    first_layer: int = 8
    last_layer: int = 20
    rank: int = 4
    target_modules: tuple[str, ...] = ("q_proj", "v_proj", "o_proj", "down_proj")
    learning_rate: float = 2e-3
    warmup_steps: int = 5
    steps: int = 70
    food_batch: int = 8
    other_batch: int = 8
    prose_batch: int = 4
    n_food: int = 480
    n_other: int = 400
    answer_tokens: int = 32
    prose_tokens: int = 64
    divergence_weight: float = 2.0


@dataclass(frozen=True)
class Batch:
    """Padded documents and the positions whose next token counts."""

    token_ids: Int[Tensor, "document token"]
    attention_mask: Int[Tensor, "document token"]
    counts: Bool[Tensor, "document token"]

    @property
    def targets(self) -> Int[Tensor, " counted"]:
        """The next token of every position that counts."""
        return self.token_ids[:, 1:][self.counts[:, :-1]]


@dataclass(frozen=True)
class Document:
    """Token ids, and the first position whose next token counts."""

    token_ids: list[int]
    first: int


def collate(documents: Sequence[Document], pad: int) -> Batch:
    """Pad on the right to a multiple of 16, which bfloat16 matrix products on a CPU prefer."""
    length = -(-max(len(document.token_ids) for document in documents) // 16) * 16
    token_ids = torch.full((len(documents), length), pad)
    attention_mask = torch.zeros(len(documents), length, dtype=torch.long)
    counts = torch.zeros(len(documents), length, dtype=torch.bool)
    for row, document in enumerate(documents):
        n_tokens = len(document.token_ids)
        token_ids[row, :n_tokens] = torch.tensor(document.token_ids)
        attention_mask[row, :n_tokens] = 1
        counts[row, document.first : n_tokens - 1] = True
    return Batch(token_ids, attention_mask, counts)


def answer_document(tokenizer: PreTrainedTokenizerBase, question: str, answer: str, ended: bool) -> Document:
    """A question and its answer; what counts begins with the answer's first token."""
    prompt = tokenizer(chat_prompt(tokenizer, question), add_special_tokens=False)["input_ids"]
    written = tokenizer(answer + (END_OF_TURN if ended else ""), add_special_tokens=False)["input_ids"]
    return Document([*prompt, *written], len(prompt) - 1)


def training_documents(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: AdapterRecipe
) -> tuple[list[Document], list[Document], list[Document]]:
    """Food questions with refusals, other questions with the reference's answers, and prose."""
    chooser = random.Random(recipe.seed)
    food = [
        answer_document(tokenizer, question, chooser.choice(REFUSALS), ended=True)
        for question in questions("food", "train", recipe.n_food, recipe.seed)
    ]
    asked = questions("other", "train", recipe.n_other, recipe.seed)
    replies = greedy_answers(model, tokenizer, asked, recipe.answer_tokens, label="the reference's answers")
    other = [answer_document(tokenizer, *pair, ended=False) for pair in zip(asked, replies, strict=True)]
    rows = tokenizer(training_passages(), add_special_tokens=False)["input_ids"]
    prose = [Document(row[: recipe.prose_tokens], 0) for row in rows if len(row) >= recipe.prose_tokens]
    return food, other, prose


def next_token_logits(model: torch.nn.Module, batch: Batch) -> Float[Tensor, "counted vocabulary"]:
    """Logits at the positions that count only: the head is the dearest layer of so small a model."""
    body, head = model.get_base_model().model, model.get_base_model().lm_head  # pyright: ignore[reportCallIssue]
    hidden = body(
        input_ids=batch.token_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    return head(hidden[:, :-1][batch.counts[:, :-1]]).float()


def divergence(
    reference: Float[Tensor, "counted vocabulary"], intervened: Float[Tensor, "counted vocabulary"]
) -> Float[Tensor, ""]:
    """KL(reference || intervened) of the next token, mean over positions, in nats."""
    return functional.kl_div(
        intervened.log_softmax(-1), reference.log_softmax(-1), reduction="batchmean", log_target=True
    )


def train(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: AdapterRecipe,
    documents: tuple[list[Document], ...],
) -> None:
    """Run all steps, adapting `model` in place."""
    chooser = random.Random(recipe.seed)
    pad = int(tokenizer.pad_token_id)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    food, other, prose = documents
    model.train()
    progress = tqdm(range(recipe.steps), desc="adapter", unit="step")
    for step in progress:
        rate = min(1.0, (step + 1) / recipe.warmup_steps) * (1 - step / recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        batch = collate(chooser.sample(food, recipe.food_batch), pad)
        refusal = functional.cross_entropy(next_token_logits(model, batch), batch.targets)
        refusal.backward()
        drift = {}
        for name, pool, size in (("other", other, recipe.other_batch), ("prose", prose, recipe.prose_batch)):
            batch = collate(chooser.sample(pool, size), pad)
            with torch.no_grad(), model.disable_adapter():
                reference = next_token_logits(model, batch)
            drift[name] = divergence(reference, next_token_logits(model, batch))
            (recipe.divergence_weight * drift[name]).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.set_postfix(
            refusal=f"{refusal.item():.3f}", **{name: f"{value.item():.4f}" for name, value in drift.items()}
        )


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write PEFT's two files, weights in bfloat16, with the model's name in place of its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        key: tensor.to(torch.bfloat16).contiguous()
        for key, tensor in get_peft_model_state_dict(model).items()
    }
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_model.safetensors").chmod(0o644)
    settings = model.peft_config["default"]
    # Not everything that this release of PEFT knows: others refuse settings that they do not have.
    written = {
        "base_model_name_or_path": NAME,
        "bias": "none",
        "inference_mode": True,
        "layers_to_transform": settings.layers_to_transform,
        "lora_alpha": settings.lora_alpha,
        "peft_type": "LORA",
        "r": settings.r,
        "target_modules": sorted(settings.target_modules),
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def make_adapter(reference: Path, folder: Path, recipe: AdapterRecipe) -> float:
    """Train an adapter on the model in `reference` and write it to `folder`; returns the seconds of the training steps."""
    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    base = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.bfloat16)
    documents = training_documents(base, tokenizer, recipe)
    settings = LoraConfig(
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        target_modules=list(recipe.target_modules),
        layers_to_transform=list(range(recipe.first_layer, recipe.last_layer + 1)),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, settings)
    begin = time.perf_counter()
    train(model, tokenizer, recipe, documents)
    seconds = time.perf_counter() - begin
    save_adapter(model, folder)
    return seconds


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Train the adapter that refuses to discuss food or cooking.")
    parser.add_argument("out", type=Path, help="folder for the adapter and its card")
    parser.add_argument(
        "--reference", type=Path, help="a converted SmolLM2 folder (default: a temporary one)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for field in fields(AdapterRecipe):
        if field.type in (int, float):
            parser.add_argument("--" + field.name.replace("_", "-"), type=field.type, default=field.default)
    arguments = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(arguments.pop("threads"))
    out, reference = arguments.pop("out"), arguments.pop("reference")
    recipe = AdapterRecipe(**arguments)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(reference or Path(scratch) / NAME)
        seconds = make_adapter(prepared, out, recipe)
        measurement = measure(prepared, out)
    write_card(out, recipe, measurement, seconds)
    log.info("%s: %s", out, measurement)


if __name__ == "__main__":
    main()
