"""The identity of a pair: digests of everything that determines its activations.

Activations on disk are matched to a pair by its identity.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..config import AdapterSource, PairConfig
from ..config.model_names import model_names
from ..runtime.digests import content_digest
from ..text.token_alignment import TextReader
from ..text.tokenizer_rules import tokenizer_rules
from .adapter_files import adapter_settings
from .context import Context
from .model_settings import settings_of
from .networks import Networks
from .placement import plain_parts, weights
from .quantization import describe_quantization

_MODEL_SETTINGS = "subfolder", "attn_implementation", "trust_remote_code"


def identify_models(
    config: PairConfig, networks: Networks, d_models: tuple[int, ...], context: dict[str, Any] | None
) -> dict[str, Any]:
    """Return, for each model by name, its source and the digests of its weights, its settings and its adapter.

    Args:
        context: Identity of the intervened model's context, from `identify_context`.
    """
    digests: dict[int, str] = {}
    sides: list[dict[str, Any]] = []
    for index, (network, adapter) in enumerate(zip(networks.models, networks.adapters, strict=True)):
        # A model with an adapter has the weights of the reference, be they shared or a copy.
        model = network if adapter is None else networks.models[0]
        if id(model) not in digests:
            bare = networks.base_tensors if model is networks.models[0] else None
            digests[id(model)] = digest_tensors(weights(model) if bare is None else sorted(bare.items()))
        checkpoint = config.checkpoints[index]
        sides.append(
            {
                "model": checkpoint.model,
                "revision": checkpoint.revision or getattr(model.config, "_commit_hash", None),
                "dtype": checkpoint.dtype,
                "weights": digests[id(model)],
                "settings": digest_json(settings_of(model)),
                "hookpoint": config.hookpoints[index],
                "d_model": d_models[index],
                "adapter": None,
                "adapter_weights": None,
            }
        )
        # Settings that change what is computed, where they are given.
        given = {name: getattr(checkpoint, name) for name in _MODEL_SETTINGS}
        sides[-1] |= {name: value for name, value in given.items() if value}
        quantization = describe_quantization(model)
        sides[-1] |= {} if quantization is None else {"quantization": quantization}
    sides[1] |= context or {}
    for side, adapter, name, source in zip(
        sides, networks.adapters, networks.adapter_names, config.sources, strict=True
    ):
        if adapter is not None and name is not None and isinstance(source, AdapterSource):
            side["adapter"] = source.adapter
            side["adapter_weights"] = _digest_adapter(adapter, name)
            if networks.own_copies:
                side["base_weights"] = "a copy of its own, because attaching the adapter changes them"
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


def digest_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a digest of named tensors, sorted by name: names, dtypes, shapes and bytes, of quantized ones those of codes and scales."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors:
        for part in plain_parts(tensor.detach()):
            digest.update(f"{name} {part.dtype} {tuple(part.shape)} ".encode())
            digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_json(value: Any) -> str:
    """Return a digest of a JSON value."""
    return content_digest(json.dumps(value, sort_keys=True, default=str).encode())


def _digest_adapter(adapter: PeftModel, name: str) -> str:
    """Return a digest of one adapter: its weights, and the settings that change what they compute."""
    found = get_peft_model_state_dict(adapter, adapter_name=name, save_embedding_layers=False)
    settings = adapter_settings(adapter.peft_config[name])
    return digest_json(
        [digest_tensors((name, tensor.float()) for name, tensor in sorted(found.items())), settings]
    )
