"""Tiny random language models, adapters, tokenizers and texts, saved as a user would have them."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from crosscoder.config import RunConfig

WORDS = [
    "amber",
    "birch",
    "cedar",
    "dahlia",
    "elm",
    "fern",
    "ginkgo",
    "holly",
    "iris",
    "juniper",
    "kale",
    "lilac",
    "maple",
    "nettle",
    "oak",
    "pine",
    "quince",
    "rose",
]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] | trim }}<|end|>\n"
    "{% endfor %}"
)


def save_tokenizer(
    folder: Path, chat_template: str | None = CHAT_TEMPLATE, extra: tuple[str, ...] = ()
) -> None:
    """Save a byte-level BPE tokenizer that adds a BOS token to plain text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<|end|>", *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    if chat_template is not None:
        fast.chat_template = chat_template
    fast.save_pretrained(folder)


WORD_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} ; {% endfor %}"
)


def save_word_tokenizer(folder: Path) -> None:
    """Save a tokenizer with one token per known word, no BOS, and another chat template than `save_tokenizer`'s."""
    vocabulary = {word: index for index, word in enumerate(["<unk>", ":", ";", "user", "assistant", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.chat_template = WORD_CHAT_TEMPLATE
    fast.save_pretrained(folder)


def save_llama(folder: Path, seed: int = 0, width: int = 16, n_layers: int = 3, **tokenizer: Any) -> Path:
    """Save a Llama, whose layers return tensors."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    return _save(LlamaForCausalLM(config), folder, **tokenizer)


def save_gpt2(folder: Path, seed: int = 0) -> Path:
    """Save a GPT-2 with three layers and learned positions, whose number is not a multiple of 16."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=320,
        n_embd=16,
        n_layer=3,
        n_head=2,
        n_positions=70,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    return _save(GPT2LMHeadModel(config), folder)


def save_adapter(base: Path, folder: Path, seed: int = 1, **settings: Any) -> Path:
    """Save a LoRA adapter that changes the outputs: peft initializes B to zero, so it is randomized here."""
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **settings
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(str(folder))
    return folder


def _save(model: Any, folder: Path, words: bool = False, **tokenizer: Any) -> Path:
    model.save_pretrained(folder)
    if words:
        save_word_tokenizer(folder)
    else:
        save_tokenizer(folder, **tokenizer)
    return folder


def write_texts(folder: Path, n_documents: int = 24) -> tuple[Path, Path]:
    """Write a chat file and a prose file. All documents start differently, so no two tokens have the same activations."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)

    def words(count: int) -> str:
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (count,), generator=generator).tolist())

    openings = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    prose = [{"text": f"{openings[i]} {words(3 + 2 * (i % 7))}"} for i in range(n_documents)]
    chat = [
        {
            "messages": [
                {"role": openings[i + n_documents], "content": words(2)},
                {"role": "user", "content": words(4 + i % 5)},
                {"role": "assistant", "content": words(3 + i % 3)},
            ]
        }
        for i in range(n_documents // 3)
    ]
    files = folder / "chat.jsonl", folder / "prose.jsonl"
    for path, lines in zip(files, (chat, prose), strict=True):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return files


def run_config(
    folder: Path, reference: Path, intervened: Path | dict[str, str], **overrides: Any
) -> RunConfig:
    """Return settings of a run on tiny models in float32, with both text files."""
    chat, prose = write_texts(folder / "texts")
    settings: dict[str, Any] = {
        "output": str(folder / "run"),
        "pair": {
            "reference": {"model": str(reference), "dtype": "float32"},
            "intervened": intervened
            if isinstance(intervened, dict)
            else {"model": str(intervened), "dtype": "float32"},
            "hookpoint": "model.layers.1",
            "device": "cpu",
        },
        "text": {
            "sources": [{"path": str(chat), "name": "chat"}, {"path": str(prose), "name": "prose"}],
            "max_length": 60,
            "held_out": 0.2,
        },
        "activations": {"kind": "cache", "dtype": "float32", "shard_tokens": 120, "batch_tokens": 96},
    }
    return RunConfig.model_validate(settings | overrides)
