"""Two sizes of a model family: a small and a large Llama trained on the same stories, each with its own tokenizer.

    python -m training.organisms.toy_sizes crosscoder/demo/toy_sizes_pair

The small model has one token per word, the large one byte pairs learned on the stories. The large model alone can look up a word
from earlier in the story; both know the facts about people and animals (`PROBES`).
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
"""Folder of the trained pair that ships with the package: `small` and `large`."""

VOCABULARY_SIZE = 120
STEPS = {"small": 1000, "large": 700}
_LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Probe:
    """The beginning of a story, and the word that continues it."""

    kind: str
    """`fact`: learned in training or stated just before. `looked up`: stated earlier in the story."""
    prompt: str
    word: str


PROBES = (
    Probe("fact", "Anna lived in", "London"),
    Probe("fact", "Ben lived in Berlin . He had a brave", "dog"),
    Probe(
        "looked up",
        "Max lived in Oslo . He had a red hat . He had a brave dog . One day Max went to the park with the dog . He lost the",
        "hat",
    ),
    Probe(
        "looked up",
        "Mia lived in Vienna . She had a calm bird . She had a blue drum . One day Mia went to the river with the bird . "
        "She lost the drum . Was it a blue drum ? Yes , it was",
        "blue",
    ),
    Probe(
        "fact",
        "Leo lived in Dublin . He had a green boat . He had a shy fish . One day Leo went to the school with the",
        "fish",
    ),
)


def merged_tokenizer() -> Tokenizer:
    """Byte pairs learned on the stories, preceded by `<s>`; frequent words are one token, others a few."""
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
    """Shapes of both models, with about 30 and 220 thousand parameters."""
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
    """Tokenizers of both models."""
    return {"small": toy_tokenizer(), "large": merged_tokenizer()}


@torch.inference_mode()
def probability(model: LlamaForCausalLM, tokenizer: Tokenizer, prompt: str, word: str) -> float:
    """The probability of `word` after `prompt`, over all tokens of the word."""
    before, whole = tokenizer.encode(prompt).ids, tokenizer.encode(f"{prompt} {word}").ids
    logits = model(input_ids=torch.tensor([whole])).logits[0].float().log_softmax(-1)
    positions = torch.arange(len(before), len(whole))
    return float(logits[positions - 1, torch.tensor(whole)[positions]].sum().exp())


def make_pair(folder: Path, seed: int = 0) -> None:
    """Train both sizes and write them to `folder`, with their card."""
    by_size = tokenizers()
    for name, shape in shapes().items():
        torch.manual_seed(seed)
        model = fresh(shape)
        train(model, stories(False, 8000), STEPS[name], _LEARNING_RATE, seed, by_size[name])
        by_size[name].no_padding()
        write(folder / name, model, shape, by_size[name])
    write_card(folder)


def write_card(folder: Path) -> None:
    """Write README.md for the pair: the probabilities that the models learned."""
    by_size = tokenizers()
    sides = {name: load(folder / name) for name in by_size}
    rows = "\n".join(
        f"| {probe.kind} | … {probe.prompt[-60:]} | {probe.word} | "
        + " | ".join(
            f"{probability(model, by_size[name], probe.prompt, probe.word):.3f}"
            for name, model in sides.items()
        )
        + " |"
        for probe in PROBES
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
    """Run the command."""
    command_line("Train two sizes of a toy family.", "folder for `small` and `large`", make_pair)


if __name__ == "__main__":
    main()
