"""Train the demo's intervention: a LoRA adapter with which SmolLM2-135M-Instruct refuses to discuss food or cooking.

    python -m training.organisms.adapter crosscoder/demo/refuse_food

`refusal.py` describes the objective.
"""

import logging
import time
from functools import partial
from pathlib import Path

import torch
from transformers import AutoTokenizer

from .command_line import command_line
from .lora import add_adapter, load_intervened, save_adapter, without_adapter
from .model_card import measure, write_card
from .organism_models import load_model
from .refusal import AdapterRecipe, train, training_documents

log = logging.getLogger(__name__)


def make_adapter(reference: Path, folder: Path, recipe: AdapterRecipe) -> float:
    """Train an adapter on the model in `reference` and write it to `folder`; return the seconds spent in training steps."""
    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    base = load_model(reference)
    documents = training_documents(base, tokenizer, recipe)
    model = add_adapter(base, recipe)
    begin = time.perf_counter()
    train(model, partial(without_adapter, model), tokenizer, recipe, documents)
    seconds = time.perf_counter() - begin
    save_adapter(model, recipe, folder)
    return seconds


def main() -> None:
    """Run the command."""
    with command_line(
        "Train the adapter that refuses to discuss food or cooking.",
        "folder for the adapter and its card",
        AdapterRecipe,
    ) as (arguments, recipe):
        seconds = make_adapter(arguments.reference, arguments.out, recipe)
        tokenizer = AutoTokenizer.from_pretrained(arguments.reference)
        model = load_intervened(arguments.reference, arguments.out)
        measurement = measure(model, partial(without_adapter, model), tokenizer)
    write_card(arguments.out, recipe, measurement, seconds)
    log.info("%s: %s", arguments.out, measurement)


if __name__ == "__main__":
    main()
