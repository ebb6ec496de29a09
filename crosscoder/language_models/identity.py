"""The identity of a pair: digests of everything that determines its activations.

Activations on disk are matched to a pair by its identity.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..config import AdapterSource, PairConfig
from ..config.model_names import model_names
from ..runtime.digests import content_digest
from ..text.token_alignment import TextReader
from ..text.tokenizer_rules import tokenizer_rules
from .context import Context
from .networks import Networks


def identify_models(
    config: PairConfig, networks: Networks, d_models: tuple[int, ...], context: dict[str, Any] | None
) -> dict[str, Any]:
    """Return, for each model by name, its source and the digests of its weights and its adapter.

    Args:
        context: Identity of the intervened model's context, from `identify_context`.
    """
    digests: dict[int, str] = {}
    sides: list[dict[str, Any]] = []
    for index, model in enumerate(networks.models):
        if id(model) not in digests:
            digests[id(model)] = digest_tensors(_base_tensors(model, networks.adapter))
        checkpoint = config.checkpoints[index]
        sides.append(
            {
                "model": checkpoint.model,
                "revision": checkpoint.revision or getattr(model.config, "_commit_hash", None),
                "dtype": checkpoint.dtype,
                "weights": digests[id(model)],
                "hookpoint": config.hookpoints[index],
                "d_model": d_models[index],
                "adapter": None,
                "adapter_weights": None,
            }
        )
    sides[1] |= context or {}
    for side, name, source in zip(sides, networks.adapter_names, config.sources, strict=True):
        if networks.adapter is not None and name is not None and isinstance(source, AdapterSource):
            side["adapter"] = source.adapter
            side["adapter_weights"] = _digest_adapter(networks.adapter, name)
    return dict(zip(model_names(len(sides)), sides, strict=True))


def identify_context(context: Context, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the text of a context and the digest of its tokens."""
    ids = context.token_ids.tolist()
    return {"context": tokenizer.decode(ids), "context_digest": digest_json(ids)}


def identify_texts(
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    readers: tuple[TextReader, TextReader] | None,
) -> dict[str, Any]:
    """Return digests of tokenizer and chat template, for both models if their tokenizers differ."""
    identity = {
        "tokenizer": digest_json(tokenizer_rules(tokenizer)),
        "chat_template": digest_json(chat_template),
    }
    if readers is not None:
        intervened, template, _ = readers[1]
        identity |= {
            "intervened_tokenizer": digest_json(tokenizer_rules(intervened)),
            "intervened_chat_template": digest_json(template),
        }
    return identity


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of named tensors: names, dtypes, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_json(value: Any) -> str:
    """Return a digest of a JSON value."""
    return content_digest(json.dumps(value, sort_keys=True).encode())


def _digest_adapter(adapter: PeftModel, name: str) -> str:
    """Return a digest of one adapter: its weights, and the settings that scale them."""
    settings = adapter.peft_config[name].to_dict()
    scale = {
        key: settings.get(key) for key in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
    }
    weights = get_peft_model_state_dict(adapter, adapter_name=name, save_embedding_layers=False)
    return digest_json([digest_tensors({name: tensor.float() for name, tensor in weights.items()}), scale])


def _base_tensors(model: nn.Module, adapter: PeftModel | None) -> dict[str, Tensor]:
    """Return the base weights of a model, under their names without an adapter."""
    tensors = model.state_dict()
    if adapter is None:
        return tensors
    prefix = f".{adapter.base_model.prefix}"
    return {
        name.replace(".base_layer.", "."): tensor for name, tensor in tensors.items() if prefix not in name
    }
