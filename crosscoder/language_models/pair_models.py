"""Load the models of a pair: the reference, the intervened model, and the snapshots between them."""

import torch
from peft import PeftModel
from torch import nn

from ..config import AdapterSource, ContextSource, ModelSource, PairConfig
from ..runtime.device import resolve_device
from ..runtime.model_dtypes import settle_dtypes
from .adapter_files import AdapterRequest
from .adapters import attach_adapters
from .loading import is_quantized, load_model
from .networks import Networks
from .quantization import check_gradients


def load_networks(config: PairConfig, device: torch.device) -> Networks:
    """Load all models of `config`. A checkpoint that is named more than once is loaded once.

    Adapters share the weights of the reference where that is proven to change nothing (`adapters`).

    Raises:
        PairError: A model or an adapter is missing or does not fit.
        FormatError: A weight file is damaged.
        ResourceError: A package that a checkpoint needs is not installed, or memory is short.
    """

    config = settle_dtypes(config)

    def load_reference() -> nn.Module:
        return load_model("pair.reference.model", config.reference, device)

    requests = {
        index: AdapterRequest(f"{setting}.adapter", source.adapter, name)
        for index, (setting, name, source) in enumerate(_changed(config), 1)
        if isinstance(source, AdapterSource)
    }
    attached = attach_adapters(load_reference(), list(requests.values()), load_reference, device)
    with_adapter = dict(zip(requests, attached.models, strict=True))
    loaded: list[tuple[ModelSource, nn.Module]] = [(config.reference, attached.reference)]
    models = [attached.reference]
    adapters: list[PeftModel | None] = [None]
    names: list[str | None] = [None]
    for index, (setting, _, source) in enumerate(_changed(config), 1):
        adapter: PeftModel | None = with_adapter.get(index)
        if adapter is not None:
            model: nn.Module | None = adapter.get_base_model()
        elif isinstance(source, ContextSource):
            model = attached.reference
        else:
            assert isinstance(source, ModelSource)
            model = next((model for known, model in loaded if known == source), None)
            if model is None:
                model = load_model(f"{setting}.model", source, device)
                loaded.append((source, model))
        models.append(model)
        adapters.append(adapter)
        names.append(requests[index].name if adapter is not None else None)
    return Networks(tuple(models), tuple(adapters), tuple(names), attached.base_tensors)


def check_pair_gradients(config: PairConfig, networks: Networks) -> None:
    """Check that gradients pass the layers of both models. Raises PairError if they do not, as in some quantized models."""
    for name, source, network in zip(
        ("reference", "intervened"), config.checkpoints, networks.models, strict=False
    ):
        check_gradients(f"pair.{name}: {source.model!r}", network)


def require_gradients(config: PairConfig) -> None:
    """Check, before any long work, what `check_pair_gradients` checks. Models are loaded only if they are quantized."""
    if any(
        is_quantized(f"pair.{name}.model", source)
        for name, source in zip(("reference", "intervened"), config.checkpoints, strict=False)
    ):
        check_pair_gradients(config, load_networks(config, resolve_device("pair.device", config.device)))


def _changed(
    config: PairConfig,
) -> list[tuple[str, str, ModelSource | AdapterSource | ContextSource]]:
    """Return setting, name of its adapter, and source of every model after the reference."""
    snapshots = [
        (f"pair.snapshots.{index}", f"snapshot_{index + 1}", source)
        for index, source in enumerate(config.snapshots)
    ]
    return [("pair.intervened", "default", config.intervened), *snapshots]
