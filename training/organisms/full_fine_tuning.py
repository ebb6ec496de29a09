"""Fine-tune all weights of SmolLM2-135M-Instruct except the embedding to refuse to discuss food or cooking.

    python -m training.organisms.full_fine_tuning OUT

The objective is that of the adapter (`refusal.py`) without the terms that penalize drift of the activations, so every layer may
change. OUT becomes a checkpoint of 270 MB. With seed 0 it refuses 100 % of 80 held-out questions about food (8.8 % before) and
also 12.5 % of 80 about other things (0 % before); perplexity of prose goes from 22.2 to 22.0.
"""

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from crosscoder.demo.model_folder import write_variant

from .command_line import command_line
from .model_card import Measurement, measure
from .objective import AsReference, Document
from .organism_models import forward_dtype, load_model
from .refusal import RefusalRecipe, train, training_documents

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FullRecipe(RefusalRecipe):
    """Everything that determines the fine-tuned model."""

    learning_rate: float = 1e-4
    steps: int = 40
    other_batch: int = 8
    prompt_batch: int = 0
    n_food: int = 400
    n_other: int = 400
    n_prompts: int = 0
    drift_weight: float = 0.0


def make_full(reference: Path, folder: Path, recipe: FullRecipe) -> None:
    """Fine-tune the model in `reference` and write it to `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(reference)
    as_reference = frozen(reference)
    with as_reference() as unchanged:
        documents = training_documents(unchanged, tokenizer, recipe)
    write_variant(folder, reference, fine_tuned(reference, as_reference, tokenizer, recipe, documents))


def fine_tuned(
    reference: Path,
    as_reference: AsReference,
    tokenizer: PreTrainedTokenizerBase,
    recipe: FullRecipe,
    documents: dict[str, list[Document]],
) -> dict[str, Tensor]:
    """Fine-tune the model in `reference`; return its weights under the names of its file.

    Weights are float32, so that small steps are not lost to rounding; matrix products run in bfloat16 where the CPU has units for it.
    """
    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32)
    model.get_input_embeddings().requires_grad_(False)
    # The cache would reuse the rounded weights of the first step in all others.
    with torch.autocast(
        "cpu", torch.bfloat16, enabled=forward_dtype() == torch.bfloat16, cache_enabled=False
    ):
        train(model, as_reference, tokenizer, recipe, documents)
    tied = model.config.tie_word_embeddings
    return {
        name: tensor for name, tensor in model.state_dict().items() if not (tied and name == "lm_head.weight")
    }


def measure_full(reference: Path, folder: Path) -> Measurement:
    """Compare both checkpoints on held-out questions and prose."""
    tokenizer = AutoTokenizer.from_pretrained(reference)
    model = load_model(folder)
    return measure(model, frozen(reference), tokenizer)


def frozen(reference: Path) -> AsReference:
    """The model in `reference`, loaded separately so that training does not change it."""
    model = load_model(reference)
    return lambda: nullcontext(model)


def main() -> None:
    """Run the command."""
    with command_line(
        "Fine-tune all weights to refuse to discuss food or cooking.", "folder for the checkpoint", FullRecipe
    ) as (arguments, recipe):
        make_full(arguments.reference, arguments.out, recipe)
        log.info("%s: %s", arguments.out, measure_full(arguments.reference, arguments.out))


if __name__ == "__main__":
    main()
