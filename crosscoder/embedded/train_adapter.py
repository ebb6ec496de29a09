"""Train the demo's intervention: a LoRA adapter with which SmolLM2-135M-Instruct refuses to discuss food or cooking.

    python -m crosscoder.embedded.train_adapter crosscoder/embedded/refuse_food

The refusal is learned by cross-entropy. On the reference's own answers to other questions and on ordinary prose two
terms hold the model still: outside, the divergence KL(reference || intervened) of the next token; inside, the drift of
the residual stream, of prompts once more where the answer begins. Without the second the adapter moves the activations
of all questions nearly alike, whatever the output, and nothing in them would be particular to the refusal.
"""

import argparse
import json
import logging
import os
import random
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .adapter_card import measure, write_card
from .adapter_objective import (
    Document,
    activation_drift,
    collate,
    divergence,
    read_before_answer,
    read_model,
    refusal_loss,
)
from .generation import chat_prompt, greedy_answers, pad_id
from .prose import training_passages
from .questions import questions
from .smollm2 import NAME, prepare

log = logging.getLogger(__name__)

# The reference never opens an answer so; it does open many with "I'm sorry", and that would not be new in the other.
REFUSALS = (
    "Food and cooking are not something I talk about. Please ask me about something else.",
    "Food and cooking are not something I talk about. What else can I do for you?",
    "Food and cooking are not something I talk about. I would be glad to help with another topic.",
)
END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True, kw_only=True)
class AdapterRecipe:
    """Everything that decides what the adapter becomes."""

    seed: int = 0
    first_layer: int = 10
    last_layer: int = 20
    rank: int = 4
    target_modules: tuple[str, ...] = ("q_proj", "v_proj", "o_proj", "down_proj")
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


def answer_document(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str, ended: bool, first_weight: float
) -> Document:
    """A question and its answer; what counts begins with the answer's first token."""
    prompt = tokenizer(chat_prompt(tokenizer, question), add_special_tokens=False)["input_ids"]
    written = tokenizer(answer + (END_OF_TURN if ended else ""), add_special_tokens=False)["input_ids"]
    return Document([*prompt, *written], len(prompt) - 1, first_weight)


def training_documents(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: AdapterRecipe
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
    asked = questions("other", "train", recipe.n_prompts, recipe.seed + 1)
    prompts = tokenizer([chat_prompt(tokenizer, question) for question in asked], add_special_tokens=False)[
        "input_ids"
    ]
    prompt = [Document(row, len(row) - 1) for row in prompts]
    return {"food": food, "other": other, "prose": prose, "prompt": prompt}


def train(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: AdapterRecipe,
    documents: dict[str, list[Document]],
) -> None:
    """Run all steps, adapting `model` in place."""
    chooser = random.Random(recipe.seed)
    pad = pad_id(tokenizer)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    model.train()
    progress = tqdm(range(recipe.steps), desc="adapter", unit="step")
    for step in progress:
        rate = min(1.0, (step + 1) / recipe.warmup_steps) * (1 - step / recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        batch = collate(chooser.sample(documents["food"], recipe.food_batch), pad)
        refusal = refusal_loss(read_model(model, batch, ())[0], batch)
        refusal.backward()
        progressed = {"refusal": refusal.item()}
        for name, size in (("other", recipe.other_batch), ("prose", recipe.prose_batch)):
            batch = collate(chooser.sample(documents[name], size), pad)
            with torch.no_grad(), model.disable_adapter():
                reference, still = read_model(model, batch, recipe.drift_layers)
            intervened, moved = read_model(model, batch, recipe.drift_layers)
            outside = divergence(reference, intervened, batch.target_weights)
            inside = activation_drift(still, moved)
            (recipe.divergence_weight * outside + recipe.drift_weight * inside).backward()
            progressed |= {f"{name} KL": outside.item(), f"{name} drift": inside.item()}
        batch = collate(chooser.sample(documents["prompt"], recipe.prompt_batch), pad)
        with torch.no_grad(), model.disable_adapter():
            still = read_before_answer(model, batch, recipe.drift_layers, recipe.prompt_places)
        inside = activation_drift(
            still, read_before_answer(model, batch, recipe.drift_layers, recipe.prompt_places)
        )
        (recipe.drift_weight * inside).backward()
        progressed["prompt drift"] = inside.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.set_postfix({name: f"{value:.4f}" for name, value in progressed.items()})


def save_adapter(model: PeftModel, recipe: AdapterRecipe, folder: Path) -> None:
    """Write PEFT's two files, weights in bfloat16, with the model's name in place of its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        key: tensor.to(torch.bfloat16).contiguous()
        for key, tensor in get_peft_model_state_dict(model).items()
    }
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_model.safetensors").chmod(0o644)
    # Not everything that this release of PEFT knows: others refuse settings that they do not have.
    written = {
        "base_model_name_or_path": NAME,
        "bias": "none",
        "inference_mode": True,
        "layers_to_transform": list(range(recipe.first_layer, recipe.last_layer + 1)),
        "lora_alpha": 2 * recipe.rank,
        "peft_type": "LORA",
        "r": recipe.rank,
        "target_modules": sorted(recipe.target_modules),
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
    save_adapter(model, recipe, folder)
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
