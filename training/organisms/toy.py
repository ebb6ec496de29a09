"""Train the toy pair (`crosscoder.demo.toy`): a tiny Llama trained on stories, then fine-tuned on changed stories.

python -m training.organisms.toy crosscoder/demo/toy_pair
"""

import argparse
import importlib.metadata
import logging
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from crosscoder.demo.model_folder import (
    LlamaShape,
    SpecialTokens,
    replace_model_folder,
    write_model_folder,
)
from crosscoder.demo.toy import PLANTED, VOCABULARY, stories

log = logging.getLogger(__name__)

REFERENCE_STEPS, INTERVENED_STEPS = 700, 300
_LEARNING_RATES = {"reference": 3e-3, "intervened": 1e-3}
_BATCH = 48


def toy_tokenizer() -> Tokenizer:
    """One token per word, preceded by `<s>`."""
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.add_special_tokens(["<s>", "<unk>"])
    return tokenizer


def toy_shape() -> LlamaShape:
    """Shape of the toy models, with about 165 thousand parameters."""
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
    """Train on next-token prediction, with `_BATCH` stories per step; words are tokens if no tokenizer is given."""
    tokenizer = tokenizer or toy_tokenizer()
    tokenizer.enable_padding(pad_id=0, pad_token="<s>")
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    rng = random.Random(seed)
    model.train()
    for step in tqdm(range(steps), desc="toy model", unit="step"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 30) * (1 - step / steps)
        encoded = tokenizer.encode_batch(rng.sample(texts, _BATCH))
        token_ids = torch.tensor([one.ids for one in encoded])
        loss_mask = torch.tensor([one.attention_mask for one in encoded]).bool()[:, 1:]
        logits = model(input_ids=token_ids, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits[loss_mask], token_ids[:, 1:][loss_mask])
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
    """Load one model of the pair in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make_pair(folder: Path, seed: int = 0) -> None:
    """Train both models and write them to `folder`, with their card."""
    torch.manual_seed(seed)
    model = fresh(toy_shape())
    for name, steps in (("reference", REFERENCE_STEPS), ("intervened", INTERVENED_STEPS)):
        train(model, stories(name == "intervened", 8000), steps, _LEARNING_RATES[name], seed)
        write(folder / name, model, toy_shape(), toy_tokenizer())
    write_card(folder)


def fresh(shape: LlamaShape) -> LlamaForCausalLM:
    """A randomly initialized model."""
    settings = {
        key: value
        for key, value in shape.config(torch.float32).items()
        if key not in ("dtype", "torch_dtype")
    }
    return LlamaForCausalLM(LlamaConfig(**settings))  # pyright: ignore[reportArgumentType]


def write(folder: Path, model: LlamaForCausalLM, shape: LlamaShape, tokenizer: Tokenizer) -> None:
    """Write one model in bfloat16, replacing an older version."""
    specials = SpecialTokens(
        bos_token="<s>", eos_token="<s>", pad_token="<s>", unk_token="<unk>", model_max_length=256
    )
    # The unembedding is tied to the embedding, which is stored once.
    weights = {key: tensor for key, tensor in model.state_dict().items() if key != "lm_head.weight"}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        write_model_folder(Path(scratch) / folder.name, shape, weights, torch.bfloat16, tokenizer, specials)
        replace_model_folder(Path(scratch) / folder.name, folder)


def write_card(folder: Path) -> None:
    """Write README.md for the pair: what was planted, and the probabilities that the models learned."""
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
`python -m training.organisms.toy crosscoder/demo/toy_pair`. Weights and stories are our own, under this project's
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
    """Parse the arguments, make the models, and log their card."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path, help=out)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    make(arguments.out)
    log.info("%s: %s", arguments.out, (arguments.out / "README.md").read_text(encoding="utf-8"))


def main() -> None:
    """Run the command."""
    command_line("Train the toy pair.", "folder for `reference` and `intervened`", make_pair)


if __name__ == "__main__":
    main()
