"""Load language models, adapters and tokenizers from folders or the Hub, with one-line error messages."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils import get_peft_model_state_dict, load_peft_weights
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from ..config import ModelSource
from ..errors import FormatError, PairError, did_you_mean


def load_model(setting: str, source: ModelSource, device: torch.device) -> nn.Module:
    """Load a causal language model in eval mode, in the dtype of `source`.

    Raises:
        PairError: The model is missing, has an unknown architecture, or lacks weights.
        FormatError: A weight file is damaged.
    """
    name = _locate(setting, source.model)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            revision=source.revision or "main",
            dtype=getattr(torch, source.dtype),
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise PairError(f"{setting}: {source.model!r} cannot be loaded: {_first_line(error)}") from error
    except SafetensorError as error:
        raise FormatError(
            f"{setting}: a weight file of {source.model!r} is damaged ({error}); download it again"
        ) from error
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise PairError(
            f"{setting}: {source.model!r} has no weights for {missing[0]} and {len(missing) - 1} more; "
            "they would be initialized at random; give a complete checkpoint of a causal language model"
        )
    return model.eval().requires_grad_(False).to(device)


def load_adapter(
    base: nn.Module | PeftModel,
    adapter: str,
    device: torch.device,
    setting: str = "pair.intervened.adapter",
    name: str = "default",
) -> PeftModel:
    """Attach an adapter that can be switched on and off to a base model, sharing the base weights.

    Args:
        base: A model, or a model with adapters; in that case its active adapter stays active.
        name: Name of the adapter within the base model.

    Raises:
        PairError: The adapter is missing, does not fit the base, or cannot be switched off completely.
    """
    adapter = _locate(setting, adapter)
    try:
        config = PeftConfig.from_pretrained(adapter)
    except (OSError, ValueError) as error:
        raise PairError(f"{setting}: {adapter!r} is not a PEFT adapter: {_first_line(error)}") from error
    if config.is_prompt_learning:
        raise PairError(
            f"{setting}: {adapter!r} is of type {config.peft_type}, which adds virtual tokens, so the positions of the two "
            "models do not match; give an adapter of weights, e.g. LoRA"
        )
    bias = getattr(config, "bias", None)
    if bias not in ("none", None):
        raise PairError(
            f"{setting}: {adapter!r} also changes biases (bias={bias!r}), which cannot be switched off; "
            "merge it into a checkpoint and give that as the intervened model"
        )
    try:
        with warnings.catch_warnings():
            # peft 0.21 reads an attribute that transformers 5 renamed; users cannot fix this.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            # Missing weights raise an error below.
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
            if isinstance(base, PeftModel):
                model = base
                model.load_adapter(adapter, name)
            else:
                model = PeftModel.from_pretrained(base, adapter, name, config=config, is_trainable=False)
        weights = load_peft_weights(adapter, device="cpu")
    except (OSError, ValueError, RuntimeError) as error:
        raise PairError(f"{setting}: {adapter!r} does not fit the reference: {_first_line(error)}") from error
    except SafetensorError as error:
        raise FormatError(
            f"{setting}: the weight file of {adapter!r} is damaged ({error}); download it again"
        ) from error
    loaded = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    unmatched = set(weights) ^ set(loaded)
    if unmatched:
        raise PairError(
            f"{setting}: {len(unmatched)} weights of {adapter!r} and of the reference do not match, e.g. "
            f"{min(unmatched)}; was it trained on another model (its config names {config.base_model_name_or_path!r})?"
        )
    return model.eval().requires_grad_(False).to(device)


def load_tokenizer(setting: str, name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Raises:
        PairError: The model has no tokenizer that can be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(_locate(setting, name), revision=revision or "main")
    except (OSError, ValueError) as error:
        raise PairError(
            f"{setting}: {name!r} has no tokenizer that can be loaded: {_first_line(error)}"
        ) from error


def adapter_tokenizer(
    adapter: str, setting: str = "pair.intervened.adapter"
) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer from the local folder of an adapter; None if it has none."""
    if any(
        (Path(adapter).expanduser() / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")
    ):
        return load_tokenizer(setting, adapter, None)
    return None


def find_module(setting: str, model: nn.Module, path: str, name: str) -> nn.Module:
    """Return the module at a path.

    Raises:
        PairError: The path does not exist; the message suggests near matches.
    """
    modules = dict(model.named_modules())
    if path in modules and path:
        return modules[path]
    parent = modules.get(path.rpartition(".")[0])
    if isinstance(parent, nn.ModuleList):
        hint = f" ({path.rpartition('.')[0]} goes from 0 to {len(parent) - 1})"
    else:
        hint = did_you_mean(path, modules)
    raise PairError(f"{setting}: {name!r} has no module {path!r}{hint}; give the path of one of its layers")


def _locate(setting: str, name: str) -> str:
    """Return the folder with ~ expanded, or the Hub id. A missing folder is an error before any request to the Hub."""
    path = Path(name).expanduser()
    # A Hub id is NAME or OWNER/NAME.
    is_path = name.startswith(("/", "./", "../", "~")) or name.count("/") > 1
    if is_path and not path.is_dir():
        raise PairError(
            f"{setting}: folder {name!r} does not exist; give the folder or the Hub id of a checkpoint"
        )
    return str(path) if path.is_dir() else name


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
