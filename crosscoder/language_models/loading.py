"""Language models, adapters and tokenizers from folders or the hub, with what a user got wrong said in one line."""

import json
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
    """A causal language model, in eval mode, in the precision asked for.

    Raises:
        PairError: The model is missing, is of an unknown kind, or lacks weights.
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
            f"{setting}: a weight file of {source.model!r} is damaged ({error}); fetch it again"
        ) from error
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise PairError(
            f"{setting}: {source.model!r} has no weights for {missing[0]} and {len(missing) - 1} more; "
            "they would be random, so give a complete checkpoint of a causal language model"
        )
    return model.eval().requires_grad_(False).to(device)


def load_adapter(
    base: nn.Module | PeftModel,
    adapter: str,
    device: torch.device,
    setting: str = "pair.intervened.adapter",
    name: str = "default",
) -> PeftModel:
    """The base model with an adapter that can be switched off and on; shares the base's weights.

    Args:
        base: A model, or one that has adapters already: then this is one more, and another one stays switched on.
        name: What the adapter is called among those of the base.

    Raises:
        PairError: The adapter is missing, does not fit the base, or cannot be switched off without a trace.
    """
    adapter = _locate(setting, adapter)
    try:
        config = PeftConfig.from_pretrained(adapter)
    except (OSError, ValueError) as error:
        raise PairError(f"{setting}: {adapter!r} holds no PEFT adapter: {_first_line(error)}") from error
    if config.is_prompt_learning:
        raise PairError(
            f"{setting}: {adapter!r} is of type {config.peft_type}, which adds virtual tokens, so positions of the two "
            "models do not match; give an adapter of the weights, e.g. LoRA"
        )
    bias = getattr(config, "bias", None)
    if bias not in ("none", None):
        raise PairError(
            f"{setting}: {adapter!r} also changes biases (bias={bias!r}), which cannot be switched off again; "
            "merge it into a checkpoint and give that as the intervened model"
        )
    try:
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5 for an attribute under its old name; nothing a user could change.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            # Weights that are missing are refused below.
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
            f"{setting}: the weight file of {adapter!r} is damaged ({error}); fetch it again"
        ) from error
    own = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    strangers = set(weights) ^ set(own)
    if strangers:
        raise PairError(
            f"{setting}: {len(strangers)} weights of {adapter!r} and of the reference do not match, e.g. "
            f"{min(strangers)}; was it trained on another model (it names {config.base_model_name_or_path!r})?"
        )
    return model.eval().requires_grad_(False).to(device)


def load_tokenizer(setting: str, name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        PairError: There is none.
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
    """The tokenizer saved beside an adapter in a local folder, if there is one."""
    if any(
        (Path(adapter).expanduser() / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")
    ):
        return load_tokenizer(setting, adapter, None)
    return None


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What decides which ids a text gets: the vocabulary, the merges, and the tokens added to it."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    merges = json.loads(backend.to_str())["model"].get("merges") if tokenizer.is_fast else None
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    return {"tokens": tokenizer.get_vocab(), "merges": merges, "added": added}


def same_tokenizer(reference: PreTrainedTokenizerBase, intervened: PreTrainedTokenizerBase) -> bool:
    """Whether both give the same ids to the same text."""
    return vocabulary(reference) == vocabulary(intervened)


def compare_tokenizers(
    reference: PreTrainedTokenizerBase,
    intervened: PreTrainedTokenizerBase,
    names: tuple[str, str],
    remedy: str = "give two models with one tokenizer",
) -> None:
    """Both models must give the same ids to the same text.

    Args:
        remedy: What the message says would be right.

    Raises:
        PairError: They do not; the message names both and a difference.
    """
    if same_tokenizer(reference, intervened):
        return
    one, other = vocabulary(reference), vocabulary(intervened)
    example = "the merges differ"
    for part in ("tokens", "added"):
        if different := sorted(one[part].items() ^ other[part].items()):
            example = f"{len(different)} entries of the {part} differ, e.g. {different[0][0]!r}"
    raise PairError(
        f"pair: the tokenizers of {names[0]!r} ({len(one['tokens'])} tokens) and {names[1]!r} ({len(other['tokens'])} tokens) "
        f"are not the same: {example}; {remedy}"
    )


def find_module(setting: str, model: nn.Module, path: str, name: str) -> nn.Module:
    """The module at a path.

    Raises:
        PairError: There is none; the message names near matches.
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
    """The folder with ~ expanded, or the hub id; a missing folder is found out before the hub is asked for its name."""
    path = Path(name).expanduser()
    # An id on the hub is a name, or an owner and a name.
    is_path = name.startswith(("/", "./", "../", "~")) or name.count("/") > 1
    if is_path and not path.is_dir():
        raise PairError(
            f"{setting}: folder {name!r} does not exist; give the folder or the hub id of a checkpoint"
        )
    return str(path) if path.is_dir() else name


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
