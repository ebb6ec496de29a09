"""Two sizes of a family: a small and a larger Llama trained on the same stories, each with a tokenizer of its own.

    python -m training.organisms.toy_sizes crosscoder/demo/toy_sizes_pair

The small one reads one token a word, the larger one byte pairs that were merged on the stories. What the larger one can do and the
small one cannot is looked up in the story itself, further back than the words next to it (`ASKED`); facts about people and animals
both know.
"""

import importlib.metadata
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaForCausalLM

from crosscoder.demo.model_folder import LlamaShape
from crosscoder.demo.toy import FOLDER as TOY_PAIR
from crosscoder.demo.toy import stories

from .toy import command_line, fresh, load, toy_shape, toy_tokenizer, train, write

FOLDER = TOY_PAIR.with_name("toy_sizes_pair")
"""Where the trained pair is shipped: `small` and `large`."""

VOCABULARY_SIZE = 120
STEPS = {"small": 1000, "large": 700}
_LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Asked:
    """A story's beginning and the word that goes on."""

    kind: str
    """`fact`, known from the training or told just before, or `looked up`, told earlier in the story."""
    prompt: str
    word: str


ASKED = (
    Asked("fact", "Anna lived in", "London"),
    Asked("fact", "Ben lived in Berlin . He had a brave", "dog"),
    Asked(
        "looked up",
        "Max lived in Oslo . He had a red hat . He had a brave dog . One day Max went to the park with the dog . He lost the",
        "hat",
    ),
    Asked(
        "looked up",
        "Mia lived in Vienna . She had a calm bird . She had a blue drum . One day Mia went to the river with the bird . "
        "She lost the drum . Was it a blue drum ? Yes , it was",
        "blue",
    ),
    Asked(
        "fact",
        "Leo lived in Dublin . He had a green boat . He had a shy fish . One day Leo went to the school with the",
        "fish",
    ),
)


def merged_tokenizer() -> Tokenizer:
    """Byte pairs merged on the stories, with `<s>` in front; frequent words are one token, others a few."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=["<s>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(stories(False, 2000), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def shapes() -> dict[str, LlamaShape]:
    """About 30 and 220 thousand parameters."""
    shape = toy_shape()
    return {
        "small": replace(
            shape,
            hidden_size=32,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        ),
        "large": replace(shape, vocab_size=VOCABULARY_SIZE, num_hidden_layers=4),
    }


def tokenizers() -> dict[str, Tokenizer]:
    """Of both."""
    return {"small": toy_tokenizer(), "large": merged_tokenizer()}


@torch.inference_mode()
def probability(model: LlamaForCausalLM, tokenizer: Tokenizer, prompt: str, word: str) -> float:
    """The probability that `word` goes on after `prompt`, whatever tokens it is made of."""
    before, whole = tokenizer.encode(prompt).ids, tokenizer.encode(f"{prompt} {word}").ids
    logits = model(input_ids=torch.tensor([whole])).logits[0].float().log_softmax(-1)
    places = torch.arange(len(before), len(whole))
    return float(logits[places - 1, torch.tensor(whole)[places]].sum().exp())


def make_pair(folder: Path, seed: int = 0) -> None:
    """Train both sizes and write them, with the card, into `folder`."""
    own = tokenizers()
    for name, shape in shapes().items():
        torch.manual_seed(seed)
        model = fresh(shape)
        train(model, stories(False, 8000), STEPS[name], _LEARNING_RATE, seed, own[name])
        own[name].no_padding()
        write(folder / name, model, shape, own[name])
    write_card(folder)


def write_card(folder: Path) -> None:
    """Write README.md beside the two models: what they know."""
    own = tokenizers()
    sides = {name: load(folder / name) for name in own}
    rows = "\n".join(
        f"| {asked.kind} | … {asked.prompt[-60:]} | {asked.word} | "
        + " | ".join(
            f"{probability(model, own[name], asked.prompt, asked.word):.3f}" for name, model in sides.items()
        )
        + " |"
        for asked in ASKED
    )
    sizes = {name: sum(weight.numel() for weight in model.parameters()) for name, model in sides.items()}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    (folder / "README.md").write_text(
        f"""# Two sizes of a toy family

Two Llamas trained on the same template stories by `python -m training.organisms.toy_sizes crosscoder/demo/toy_sizes_pair`:
`small` ({sizes["small"]:,} parameters, 2 layers of width 32, {toy_tokenizer().get_vocab_size()} words) and `large` ({sizes["large"]:,}
parameters, 4 layers of width 64, {VOCABULARY_SIZE} byte pairs). Weights and stories are our own, under this project's license.

| kind | after | word | small | large |
| --- | --- | --- | --- | --- |
{rows}

Probabilities, measured on these files. Seed 0; {STEPS["small"]} and {STEPS["large"]} steps of 48 stories. {versions}.
""",
        encoding="utf-8",
    )


def main() -> None:
    """The command."""
    command_line("Train two sizes of a toy family.", "folder for `small` and `large`", make_pair)


if __name__ == "__main__":
    main()
