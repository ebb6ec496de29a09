"""What decides the activations of a pair, as fingerprints: by them activations on disk are known to be of this pair."""

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
from ..runtime.files import content_digest
from ..text.token_alignment import TextReader
from .context import Context
from .loading import vocabulary
from .networks import Networks


def identify_models(
    config: PairConfig, networks: Networks, d_models: tuple[int, ...], context: dict[str, Any] | None
) -> dict[str, Any]:
    """Of each model, by its name: its source, and fingerprints of its weights and of its adapter's.

    Args:
        context: What the intervened model reads before every document, as `identify_context` tells it.
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
    """A context: its text, and a fingerprint of its tokens."""
    ids = context.token_ids.tolist()
    return {"context": tokenizer.decode(ids), "context_digest": digest_json(ids)}


def identify_texts(
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    readers: tuple[TextReader, TextReader] | None,
) -> dict[str, Any]:
    """How texts become tokens: fingerprints of tokenizer and chat template, of both models where they differ."""
    told = {"tokenizer": digest_json(vocabulary(tokenizer)), "chat_template": digest_json(chat_template)}
    if readers is not None:
        own, template, _ = readers[1]
        told |= {
            "intervened_tokenizer": digest_json(vocabulary(own)),
            "intervened_chat_template": digest_json(template),
        }
    return told


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A fingerprint of named tensors: their names, dtypes, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_json(value: Any) -> str:
    """A fingerprint of a JSON value."""
    return content_digest(json.dumps(value, sort_keys=True).encode())


def _digest_adapter(adapter: PeftModel, name: str) -> str:
    """A fingerprint of what one adapter adds: its weights, and the settings that scale them."""
    settings = adapter.peft_config[name].to_dict()
    scale = {
        key: settings.get(key) for key in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
    }
    own = get_peft_model_state_dict(adapter, adapter_name=name, save_embedding_layers=False)
    return digest_json([digest_tensors({name: tensor.float() for name, tensor in own.items()}), scale])


def _base_tensors(model: nn.Module, adapter: PeftModel | None) -> dict[str, Tensor]:
    """The weights of a model without those of an adapter, under the names they have without one."""
    tensors = model.state_dict()
    if adapter is None:
        return tensors
    own = f".{adapter.base_model.prefix}"
    return {name.replace(".base_layer.", "."): tensor for name, tensor in tensors.items() if own not in name}
