"""Writing a Llama as a transformers folder that releases 4 and 5 read alike.

Release 5 keeps the rotary base in `rope_parameters` and 4 in `rope_theta`; either silently takes a default, and so
computes another model, where its own form is missing. Release 5 also names a tokenizer class that 4 does not know.
Hence config and tokenizer settings are written here, in both forms, and not by `save_pretrained`.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from ..errors import FormatError

WEIGHTS = "model.safetensors"
FILES = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json")
"""What a complete folder holds."""


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """The settings of a Llama, named as in its `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None

    def config(self, dtype: torch.dtype) -> dict[str, object]:
        """The content of `config.json`, with the rotary base and the dtype in the forms of both releases."""
        name = str(dtype).removeprefix("torch.")
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "initializer_range": 0.02,
            "use_cache": True,
            **asdict(self),
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "dtype": name,
            "torch_dtype": name,
        }


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """What `tokenizer_config.json` says beside the vocabulary; None leaves a token out."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    model_max_length: int
    chat_template: str | None = None

    def config(self) -> dict[str, object]:
        """The content of `tokenizer_config.json`, with the class name that both releases know."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": False,
            **given,
        }


def write_model_folder(
    folder: Path,
    shape: LlamaShape,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    tokenizer: Tokenizer,
    special_tokens: SpecialTokens,
) -> None:
    """Write config, weights (stored as `dtype`) and tokenizer; the folder appears whole or not at all.

    Raises:
        FormatError: The folder exists and holds something else than a complete model.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        unfinished = Path(name) / "model"
        unfinished.mkdir()
        _write_json(unfinished / "config.json", shape.config(dtype))
        stored = {key: tensor.to(dtype).contiguous() for key, tensor in weights.items()}
        save_file(stored, unfinished / WEIGHTS, metadata={"format": "pt"})
        tokenizer.save(str(unfinished / "tokenizer.json"))
        _write_json(unfinished / "tokenizer_config.json", special_tokens.config())
        try:
            unfinished.rename(folder)
        except OSError as error:
            # Somebody else may have finished the same folder in the meantime; that one is as good as ours.
            if not is_complete(folder):
                raise FormatError(
                    f"{folder}: exists and is not a complete model folder; remove it or give another folder"
                ) from error


def is_complete(folder: Path) -> bool:
    """Whether the folder holds every file of a model and its weights are not cut short."""
    if not all((folder / name).is_file() for name in FILES):
        return False
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return bool(file.keys())
    except SafetensorError:
        return False


def replace_model_folder(source: Path, folder: Path) -> None:
    """Move a folder written elsewhere on the same disk to where an older version of it may stand."""
    if folder.exists():
        if not is_complete(folder):
            raise FormatError(
                f"{folder}: exists and is not a complete model folder; remove it or give another folder"
            )
        shutil.rmtree(folder)
    source.rename(folder)


def write_variant(folder: Path, like: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a model that differs from the one in `like` in its weights alone, in the precision of that one's weights.

    A model that already stands in `folder` is replaced.

    Raises:
        FormatError: `folder` is `like` itself or holds something else than a model, `like` holds no complete model, or
            the weights have other names.
    """
    if not is_complete(like):
        raise FormatError(f"{like}: not a complete model folder; give one that has {', '.join(FILES)}")
    if folder.resolve() == like.resolve():
        raise FormatError(f"{folder}: is the reference itself; give another folder")
    before = load_file(like / WEIGHTS)
    if before.keys() != weights.keys():
        raise FormatError(
            f"{like / WEIGHTS}: other tensors than those to write: {sorted(before.keys() ^ weights.keys())}"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        unfinished = Path(name) / "model"
        shutil.copytree(like, unfinished, ignore=shutil.ignore_patterns(WEIGHTS))
        stored = {key: tensor.to(before[key].dtype).contiguous() for key, tensor in weights.items()}
        save_file(stored, unfinished / WEIGHTS, metadata={"format": "pt"})
        replace_model_folder(unfinished, folder)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
