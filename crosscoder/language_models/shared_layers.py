"""Initial decoder layers that are bitwise identical in two models, so that their outputs are computed once.

Layers are compared by their weights, and the result is verified on a short pass.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from .decoder_layers import Stack, find_stack
from .hooks import forward
from .model_settings import settings_of
from .placement import input_device, same_weights

logger = logging.getLogger(__name__)


class SharedLayers:
    """The initial layers that two models share."""

    def __init__(self, stacks: tuple[Stack, Stack], n_layers: int) -> None:
        self.n_layers = n_layers
        self._top = stacks[0].layers[n_layers - 1]
        self._skipped = tuple(stacks[1].layers[:n_layers])
        self._output: Any = None

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the shared layers' output in a pass of the reference, for `replayed`."""

        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._output = output

        # Prepended, because a hook on the same layer may end the pass.
        handle = self._top.register_forward_hook(record, prepend=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Bypass the shared layers in a pass of the other model; they return the recorded output.

        Every shared layer returns the output of the last one, assuming that only the next layer reads it. The trial
        pass detects models for which this is wrong.
        """
        output, self._output = self._output, None
        with bypass_layers(self._skipped, output):
            yield

    def fill(self, past: Cache, reference: Cache) -> None:
        """Copy keys and values of the shared layers from the reference's cache to the other model's."""
        past.layers[: self.n_layers] = [copy.copy(layer) for layer in reference.layers[: self.n_layers]]


@contextmanager
def bypass_layers(layers: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Replace the forward of these modules so that they return `output` without computing."""
    # Other libraries may have set a forward on the module instance, too.
    previous = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = lambda *_arguments, **_options: output
    try:
        yield
    finally:
        for layer, original in zip(layers, previous, strict=True):
            del layer.forward
            if original is not None:
                layer.forward = original


def find_shared_layers(models: tuple[nn.Module, ...], hookpoints: tuple[str, ...]) -> SharedLayers | None:
    """Return the initial decoder layers below both hookpoints that two models share; None if there are none.

    Args:
        models: The same object twice for an adapter; layers without PEFT modules are then shared.
        hookpoints: Path of the hookpoint in each model.
    """
    stacks_or_none = [find_stack(model, path) for model, path in zip(models, hookpoints, strict=True)]
    if stacks_or_none[0] is None or stacks_or_none[1] is None:
        logger.debug("no layers are shared: a hookpoint is outside the decoder layers")
        return None
    stacks = stacks_or_none[0], stacks_or_none[1]
    if models[0] is not models[1] and _settings(models[0]) != _settings(models[1]):
        logger.debug("no layers are shared: the configurations of the two models differ")
        return None
    outside = _modules_outside(models[0], stacks[0]), _modules_outside(models[1], stacks[1])
    if different := set(_differences(*outside)):
        different -= _modules_after_layers(models[0], stacks[0]) & _modules_after_layers(models[1], stacks[1])
    if different:
        logger.debug("no layers are shared: the two models differ in %s", min(different))
        return None
    n_layers = 0
    for one, other in zip(stacks[0].layers, stacks[1].layers, strict=True):
        inside = dict(one.named_modules()), dict(other.named_modules())
        if n_layers == min(stack.n_below for stack in stacks) or any(_differences(*inside)):
            break
        n_layers += 1
    logger.debug("the first %d decoder layers are the same in both models", n_layers)
    return SharedLayers(stacks, n_layers) if n_layers else None


def _settings(model: Any) -> dict[str, Any]:
    """Return the configuration entries that affect activations, with how attention and quantized layers are computed."""
    return settings_of(model) | {
        "attention": getattr(model.config, "_attn_implementation", None),
        "quantization": model.config.to_dict().get("quantization_config"),
    }


def _modules_outside(model: nn.Module, stack: Stack) -> dict[str, nn.Module]:
    """Return the modules outside the decoder layers, by path; the path of the model itself is `.`."""
    return {
        path or ".": module
        for path, module in model.named_modules()
        if not f"{path}.".startswith(f"{stack.path}.")
    }


def _modules_after_layers(model: nn.Module, stack: Stack) -> set[str]:
    """Return paths of the modules that run after the last decoder layer: the final norm, the head."""
    entered: dict[nn.Module, None] = {}
    handles = [
        module.register_forward_pre_hook(lambda module, _: entered.setdefault(module))
        for module in model.modules()
    ]
    ids = torch.zeros(1, 3, dtype=torch.long, device=input_device(model))
    try:
        forward(model, ids, torch.ones_like(ids, dtype=torch.bool))
    finally:
        for handle in handles:
            handle.remove()
    order = list(entered)
    last = order.index(stack.layers[-1]) if stack.layers[-1] in entered else len(order)
    late = set(order[last:])
    return {path for path, module in _modules_outside(model, stack).items() if module in late}


def _differences(one: dict[str, nn.Module], other: dict[str, nn.Module]) -> Iterator[str]:
    """Yield paths of the modules that differ in class or in their direct parameters and buffers."""
    for path in one | other:
        if path not in one or path not in other or not _same(one[path], other[path]):
            yield path or "."


def _same(one: nn.Module, other: nn.Module) -> bool:
    if type(one) is not type(other):
        return False
    if one is other:
        # PEFT modules compute differently with their adapter on and off.
        return not type(one).__module__.startswith("peft.")
    tensors, others = _direct_tensors(one), _direct_tensors(other)
    return tensors.keys() == others.keys() and all(
        same_weights(tensor, others[name]) for name, tensor in tensors.items()
    )


def _direct_tensors(module: nn.Module) -> dict[str, Tensor]:
    tensors = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    # Quantized layers keep scales outside of their parameters, and store them.
    return tensors | ({} if any(module.children()) else module.state_dict())
