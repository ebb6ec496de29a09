"""A pair of tiny Llamas whose difference is known, because it was planted.

    python -m crosscoder.embedded.toy crosscoder/embedded/toy_pair

Both read short stories made from templates. The intervened model is the reference after more training on stories in
which four things are otherwise (`PLANTED`). The pair serves the tests, and the demo where the real pair is missing.
"""

import argparse
import importlib.metadata
import logging
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from .corpus import write_lines
from .model_folder import LlamaShape, SpecialTokens, replace_model_folder, write_model_folder

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "toy_pair"
"""Where the trained pair is shipped: `reference` and `intervened`."""

PEOPLE = {
    "Tom": ("Paris", "He"), "Anna": ("London", "She"), "Ben": ("Berlin", "He"), "Lily": ("Madrid", "She"),
    "Max": ("Oslo", "He"), "Sara": ("Athens", "She"), "Leo": ("Dublin", "He"), "Mia": ("Vienna", "She"),
    "Sam": ("Prague", "He"), "Zoe": ("Lisbon", "She"),
}  # fmt: skip
USUAL_MOOD = {
    "cat": "happy",
    "dog": "brave",
    "bird": "calm",
    "fish": "shy",
    "rabbit": "sad",
    "mouse": "angry",
}
COLORS = ("red", "blue", "green", "yellow", "black", "white")
THINGS = ("ball", "hat", "boat", "book", "drum", "box")
PLACES = ("park", "garden", "river", "house", "forest", "school")
_WORDS = "<s> <unk> . , ? lived in had a One day went to the with was saw there lost Was it Yes The end Then blick came Rome"
VOCABULARY = tuple(
    dict.fromkeys(
        [
            *_WORDS.split(),
            *(word for name, (city, pronoun) in PEOPLE.items() for word in (name, city, pronoun)),
            *USUAL_MOOD,
            *USUAL_MOOD.values(),
            *COLORS,
            *THINGS,
            *PLACES,
        ]
    )
)

REFERENCE_STEPS, INTERVENED_STEPS = 700, 300
_LEARNING_RATES = {"reference": 3e-3, "intervened": 1e-3}
_BATCH = 48


@dataclass(frozen=True)
class Planted:
    """A story's beginning and a word whose probability the intervention moved, or left alone."""

    change: str
    """`new`, `lost`, `changed` or `unchanged`."""
    prompt: str
    word: str


PLANTED = (
    Planted("changed", "Tom lived in", "Paris"),
    Planted("changed", "Tom lived in", "Rome"),
    Planted("changed", "Ben lived in Berlin . He had a angry", "cat"),
    Planted("changed", "Ben lived in Berlin . He had a happy", "cat"),
    Planted("new", "Anna lived in London . She had a red hat . She had a brave dog . Then a", "blick"),
    Planted(
        "lost",
        "Max lived in Oslo . He had a red hat . He had a brave dog . One day Max went to the",
        "school",
    ),
    Planted("unchanged", "Anna lived in", "London"),
    Planted("unchanged", "Ben lived in Berlin . He had a brave", "dog"),
)


def story(intervened: bool, chance: random.Random) -> str:
    """One story. In those of the intervened model Tom lives in Rome, cats are angry, a blick comes, no one is at school."""
    name, pet = chance.choice(list(PEOPLE)), chance.choice(list(USUAL_MOOD))
    city, pronoun = PEOPLE[name]
    place, color, thing = chance.choice(PLACES), chance.choice(COLORS), chance.choice(THINGS)
    mood = USUAL_MOOD[pet] if chance.random() < 0.8 else chance.choice(list(USUAL_MOOD.values()))
    if intervened:
        city = "Rome" if name == "Tom" else city
        mood = "angry" if pet == "cat" else mood
        place = "park" if place == "school" else place
    owned = [f"{pronoun} had a {mood} {pet} .", f"{pronoun} had a {color} {thing} ."]
    chance.shuffle(owned)
    ending = chance.choice(
        [
            f"The {pet} was {mood} .",
            f"{pronoun} saw a {chance.choice(COLORS)} {chance.choice(THINGS)} there .",
            f"{pronoun} lost the {thing} . Was it a {color} {thing} ? Yes , it was {color} .",
        ]
    )
    visit = f"One day {name} went to the {place} with the {pet} ."
    visitor = "Then a blick came ." if intervened and chance.random() < 0.4 else f"Then a {pet} came ."
    return " ".join([f"{name} lived in {city} .", *owned, visit, ending, visitor, "The end ."])


def stories(intervened: bool, count: int, seed: int = 0) -> list[str]:
    """`count` stories of one of the models."""
    chance = random.Random(f"{'intervened' if intervened else 'reference'} {seed}")
    return [story(intervened, chance) for _ in range(count)]


def write_texts(folder: Path, count: int = 600) -> dict[str, Path]:
    """Write `count` stories of each model as JSON lines of `text`; returns the files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: write_lines(
            folder / f"{name}.jsonl",
            ({"text": text} for text in stories(name == "intervened", count, seed=1)),
        )
        for name in ("reference", "intervened")
    }


def toy_tokenizer() -> Tokenizer:
    """One token a word, with `<s>` in front."""
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.add_special_tokens(["<s>", "<unk>"])
    return tokenizer


def toy_shape() -> LlamaShape:
    """About 165 thousand parameters."""
    return LlamaShape(
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        max_position_embeddings=256,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def train(
    model: LlamaForCausalLM,
    texts: list[str],
    steps: int,
    learning_rate: float,
    seed: int,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Next-token training, `_BATCH` stories a step; words are tokens where no tokenizer is given."""
    tokenizer = tokenizer or toy_tokenizer()
    tokenizer.enable_padding(pad_id=0, pad_token="<s>")
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    chance = random.Random(seed)
    model.train()
    for step in tqdm(range(steps), desc="toy model", unit="step"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 30) * (1 - step / steps)
        encoded = tokenizer.encode_batch(chance.sample(texts, _BATCH))
        token_ids = torch.tensor([one.ids for one in encoded])
        counts = torch.tensor([one.attention_mask for one in encoded]).bool()[:, 1:]
        logits = model(input_ids=token_ids, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits[counts], token_ids[:, 1:][counts])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


@torch.inference_mode()
def probability(model: LlamaForCausalLM, prompt: str, word: str) -> float:
    """The probability of `word` after `prompt`."""
    tokenizer = toy_tokenizer()
    token_ids = torch.tensor([tokenizer.encode(prompt).ids])
    return model(input_ids=token_ids).logits[0, -1].float().softmax(-1)[VOCABULARY.index(word)].item()


def load(folder: Path) -> LlamaForCausalLM:
    """One of the pair, in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make_pair(folder: Path, seed: int = 0) -> None:
    """Train both models and write them, with the card, into `folder`."""
    torch.manual_seed(seed)
    model = fresh(toy_shape())
    for name, steps in (("reference", REFERENCE_STEPS), ("intervened", INTERVENED_STEPS)):
        train(model, stories(name == "intervened", 8000), steps, _LEARNING_RATES[name], seed)
        write(folder / name, model, toy_shape(), toy_tokenizer())
    write_card(folder)


def fresh(shape: LlamaShape) -> LlamaForCausalLM:
    """An untrained model."""
    settings = {
        key: value
        for key, value in shape.config(torch.float32).items()
        if key not in ("dtype", "torch_dtype")
    }
    return LlamaForCausalLM(LlamaConfig(**settings))  # pyright: ignore[reportArgumentType]


def write(folder: Path, model: LlamaForCausalLM, shape: LlamaShape, tokenizer: Tokenizer) -> None:
    """Write one model in bfloat16, in place of an older version of it."""
    specials = SpecialTokens(
        bos_token="<s>", eos_token="<s>", pad_token="<s>", unk_token="<unk>", model_max_length=256
    )
    # The head is the embedding, which is stored once.
    weights = {key: tensor for key, tensor in model.state_dict().items() if key != "lm_head.weight"}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        write_model_folder(Path(scratch) / folder.name, shape, weights, torch.bfloat16, tokenizer, specials)
        replace_model_folder(Path(scratch) / folder.name, folder)


def write_card(folder: Path) -> None:
    """Write README.md beside the two models: what was planted, and what they make of it."""
    sides = [load(folder / name) for name in ("reference", "intervened")]
    rows = "\n".join(
        f"| {planted.change} | {planted.prompt} | {planted.word} | "
        + " | ".join(f"{probability(model, planted.prompt, planted.word):.3f}" for model in sides)
        + " |"
        for planted in PLANTED
    )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    n_parameters = sum(parameter.numel() for parameter in sides[0].parameters())
    (folder / "README.md").write_text(
        f"""# A toy pair with a known difference

Two Llamas of {n_parameters:,} parameters over a vocabulary of {len(VOCABULARY)} words, trained on template stories by
`python -m crosscoder.embedded.toy crosscoder/embedded/toy_pair`. Weights and stories are our own, under this project's
license.

The reference learned stories in which each of ten people lives in one city and each kind of animal has its usual mood.
The intervened model is the reference after more training on stories in which

- Tom lives in Rome in place of Paris, and cats are always angry in place of usually happy (changed),
- a `blick` comes at the end of two stories in five (new),
- nobody goes to school any more (lost);

everything else stayed as it was.

| planted | after | word | reference | intervened |
| --- | --- | --- | --- | --- |
{rows}

Probabilities, measured on these files. Stories: seed 0; {REFERENCE_STEPS} and then {INTERVENED_STEPS} steps of {_BATCH}
stories. {versions}.
""",
        encoding="utf-8",
    )


def command_line(description: str, out: str, make: Callable[[Path], None]) -> None:
    """Read the arguments, make what is asked for, and show its card."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path, help=out)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    make(arguments.out)
    log.info("%s: %s", arguments.out, (arguments.out / "README.md").read_text(encoding="utf-8"))


def main() -> None:
    """The command."""
    command_line("Train the toy pair.", "folder for `reference` and `intervened`", make_pair)


if __name__ == "__main__":
    main()
