"""Write a Llama as a transformers folder that releases 4 and 5 read identically.

Release 5 stores the rotary base in `rope_parameters`, release 4 in `rope_theta`. Each silently uses a default, and so
computes a different model, if its form is missing. Release 5 also writes a tokenizer class that release 4 does not know.
Hence config and tokenizer settings are written here in both forms, not by `save_pretrained`.
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
"""Files of a complete folder."""


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
        """Return the content of `config.json`, with rotary base and dtype in the forms of both releases."""
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
    """Settings in `tokenizer_config.json`; a token that is None is left out."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    model_max_length: int
    chat_template: str | None = None

    def config(self) -> dict[str, object]:
        """Return the content of `tokenizer_config.json`, with a class name that both releases know."""
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
    """Write config, weights (stored as `dtype`) and tokenizer, atomically.

    Raises:
        FormatError: The folder exists and is not a complete model folder.
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
            # Another process may have written the same folder meanwhile; it is equivalent.
            if not is_complete(folder):
                raise FormatError(
                    f"{folder}: exists and is not a complete model folder; remove it or give another folder"
                ) from error


def is_complete(folder: Path) -> bool:
    """Whether the folder has every file of a model and its weights are not truncated."""
    if not all((folder / name).is_file() for name in FILES):
        return False
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return bool(file.keys())
    except SafetensorError:
        return False


def replace_model_folder(source: Path, folder: Path) -> None:
    """Move a folder from elsewhere on the same disk, replacing an older model folder."""
    if folder.exists():
        if not is_complete(folder):
            raise FormatError(
                f"{folder}: exists and is not a complete model folder; remove it or give another folder"
            )
        shutil.rmtree(folder)
    source.rename(folder)


def write_variant(folder: Path, like: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a model that differs from the one in `like` only in its weights, in the dtypes of `like`.

    A model in `folder` is replaced.

    Raises:
        FormatError: `folder` is `like` itself or not a model folder, `like` is not a complete model folder, or the
            weights have other names.
    """
    if not is_complete(like):
        raise FormatError(f"{like}: not a complete model folder; give one with {', '.join(FILES)}")
    if folder.resolve() == like.resolve():
        raise FormatError(f"{folder}: this is the folder of the reference itself; give another one")
    before = load_file(like / WEIGHTS)
    if before.keys() != weights.keys():
        raise FormatError(
            f"{like / WEIGHTS}: tensor names differ from those to write: {sorted(before.keys() ^ weights.keys())}"
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
