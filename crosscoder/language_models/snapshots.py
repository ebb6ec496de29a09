"""Load the snapshots: checkpoints between the reference and the intervened model."""

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..config import AdapterSource, PairConfig
from ..text.tokenizer_rules import compare_tokenizers
from .loading import (
    adapter_tokenizer,
    load_adapter,
    load_model,
    load_tokenizer,
)
from .networks import Networks


def load_snapshots(
    config: PairConfig,
    ends: tuple[nn.Module, nn.Module],
    adapter: PeftModel | None,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
) -> Networks:
    """Load the snapshots of `config`; return them after the reference and the intervened model.

    Adapters share the weights of the reference. A checkpoint that is named more than once is loaded once.

    Args:
        adapter: The reference with the intervened model's adapter, if it has one.
        tokenizer: Tokenizer of the reference.

    Raises:
        PairError: A model or an adapter is missing or does not fit, or a tokenizer differs.
        FormatError: A weight file is damaged.
    """
    models: list[nn.Module] = list(ends)
    names: list[str | None] = [None, None if adapter is None else "default"]
    loaded = [(config.reference, ends[0]), (config.intervened, ends[1])]
    for index, source in enumerate(config.snapshots):
        setting, name = f"pair.snapshots.{index}", f"snapshot_{index + 1}"
        if isinstance(source, AdapterSource):
            setting = f"{setting}.adapter"
            adapter = load_adapter(adapter or ends[0], source.adapter, device, setting, name)
            models.append(adapter.get_base_model())
            names.append(name)
            other, where = adapter_tokenizer(source.adapter, setting), source.adapter
        else:
            setting = f"{setting}.model"
            model = next((model for known, model in loaded if known == source), None)
            other, where = None, source.model
            if model is None:
                model = load_model(setting, source, device)
                other = load_tokenizer(setting, source.model, source.revision)
            loaded.append((source, model))
            models.append(model)
            names.append(None)
        if other is not None:
            compare_tokenizers(tokenizer, other, (config.reference.model, where))
    return Networks(tuple(models), adapter, tuple(names))
