"""Load language models and tokenizers from folders or the Hub, with one-line error messages."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from ..config import ModelSource
from ..errors import PairError, did_you_mean
from ..runtime.device import fastest_dtype
from .load_errors import naming_settings, reading, telling_conversions
from .model_checks import auto_class, check_causal, check_sizes, check_weight_files, check_weights
from .placement import map_options, place
from .quantization import prepare, quantization_options


def load_model(setting: str, source: ModelSource, device: torch.device) -> nn.Module:
    """Load a causal language model in eval mode, in the dtype of `source`.

    A model that also reads images is loaded whole, and reads text alone.

    Raises:
        PairError: The model is missing, has an unknown architecture, lacks weights, or reads tokens before it predicts them.
        FormatError: A weight file is damaged.
        ResourceError: A package that the checkpoint needs is not installed, or memory is short.
    """
    name = locate(setting, source.model)
    subject = f"{setting}: {source.model!r}"
    options = _hub_options(source)
    config = _read_config(setting, source)
    auto = auto_class(subject, config, source.trust_remote_code)
    side, dtype = setting.removesuffix(".model"), source.dtype or fastest_dtype(device)
    with reading(f"{side}.quantization"):
        options |= quantization_options(side, source, config, dtype)
    check_sizes(subject, config)
    check_weight_files(subject, Path(name, source.subfolder or ""), config, auto)
    placement = map_options(subject, source, config, auto)
    with reading(subject), naming_settings(subject, config), telling_conversions():
        # Weights of other shapes raise an error below, with the shapes.
        loaded: Any = auto.from_pretrained(
            name,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            attn_implementation=source.attn_implementation,
            **placement,
            **options,
        )
    model, info = loaded
    check_weights(subject, info)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise PairError(
            f"{subject} is a PEFT adapter, or a folder that holds one, and not a checkpoint alone; give the checkpoint it was trained on as the "
            "model, and the folder as {adapter: ...}"
        )
    prepare(model)
    with reading(subject):
        model = place(model.eval().requires_grad_(False), source, device)
    check_causal(subject, model, device)
    return model


def is_quantized(setting: str, source: ModelSource) -> bool:
    """Whether the weights of a checkpoint are stored quantized, or quantized while they are loaded. Raises as `load_model`."""
    if source.quantization is not None:
        return True
    return getattr(_read_config(setting, source), "quantization_config", None) is not None


def _read_config(setting: str, source: ModelSource) -> Any:
    name = locate(setting, source.model)
    with reading(f"{setting}: {source.model!r}"):
        return AutoConfig.from_pretrained(name, **_hub_options(source))


def _hub_options(source: ModelSource) -> dict[str, Any]:
    """Return which files of a checkpoint transformers reads, and whether it runs code among them."""
    return {
        "revision": source.revision or "main",
        "subfolder": source.subfolder or "",
        "trust_remote_code": source.trust_remote_code,
        "local_files_only": source.local_files_only,
    }


def load_tokenizer(
    setting: str, name: str, revision: str | None, source: ModelSource | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Args:
        source: The checkpoint, if its other settings count, too.

    Raises:
        PairError: The model has no tokenizer that can be loaded.
    """
    options = {"revision": revision or "main", "trust_remote_code": False}
    with reading(f"{setting}: {name!r}", "has no tokenizer that can be loaded"):
        return AutoTokenizer.from_pretrained(
            locate(setting, name), **(options if source is None else _hub_options(source))
        )


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


def locate(setting: str, name: str) -> str:
    """Return the folder with ~ expanded, or the Hub id.

    Raises:
        PairError: The folder does not exist; that is said before any request to the Hub.
    """
    path = Path(name).expanduser()
    # A Hub id is NAME or OWNER/NAME.
    is_path = name.startswith(("/", "./", "../", "~")) or name.count("/") > 1
    if is_path and not path.is_dir():
        raise PairError(
            f"{setting}: folder {name!r} does not exist; give the folder or the Hub id of a checkpoint"
        )
    return str(path) if path.is_dir() else name
