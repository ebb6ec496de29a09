"""The decoder layers at the bottom of both models that are the same, bit for bit: what they compute is computed once.

Whether layers are the same is decided by their weights, and tried out on a short pass before it is relied on.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache

from .hooks import forward

logger = logging.getLogger(__name__)

# Entries of a configuration that change no activation: names, and what only generation or training reads.
_IDLE_SETTINGS = frozenset(
    {"_name_or_path", "architectures", "bos_token_id", "eos_token_id", "transformers_version", "use_cache"}
)


class Stack(NamedTuple):
    """The decoder layers of a model, as far up as its hookpoint lets them be skipped."""

    path: str
    layers: nn.ModuleList
    n_below: int
    """Layers that end before the hookpoint, or at it."""


class SharedLayers:
    """The first layers of two models, which give the same outputs on the same tokens."""

    def __init__(self, stacks: tuple[Stack, Stack], n_layers: int) -> None:
        self.n_layers = n_layers
        self._top = stacks[0].layers[n_layers - 1]
        self._skipped = tuple(stacks[1].layers[:n_layers])
        self._output: Any = None

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Inside, a pass of the reference leaves behind what `replayed` needs."""

        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._output = output

        # First in line: a hook that ends the pass may sit on the same layer.
        handle = self._top.register_forward_hook(record, prepend=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Inside, a pass of the intervened model does not run its shared layers: they put out what was recorded.

        All of them put out what the last one does. The ones below are read by nothing but the next layer; where that
        is not so, the trial pass tells.
        """
        output, self._output = self._output, None
        with putting_out(self._skipped, output):
            yield

    def fill(self, past: Cache, reference: Cache) -> None:
        """Give the intervened model's cache the keys and values of the layers that it did not run."""
        past.layers[: self.n_layers] = [copy.copy(layer) for layer in reference.layers[: self.n_layers]]


@contextmanager
def putting_out(layers: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Inside, these modules compute nothing and put out `output`."""
    # Other libraries, too, put a forward of their own on a module.
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = lambda *_arguments, **_options: output
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own


def find_shared_layers(models: tuple[nn.Module, ...], hookpoints: tuple[str, ...]) -> SharedLayers | None:
    """The decoder layers below both hookpoints that two models have in common; None where there are none.

    Args:
        models: The same object twice for an adapter; its layers are those of the reference where PEFT put no module.
        hookpoints: Path of the module where each of them is read.
    """
    found = [find_stack(model, path) for model, path in zip(models, hookpoints, strict=True)]
    if found[0] is None or found[1] is None:
        logger.debug("no layers are shared: a hookpoint is not in a list of decoder layers")
        return None
    stacks = found[0], found[1]
    if models[0] is not models[1] and _settings(models[0]) != _settings(models[1]):
        logger.debug("no layers are shared: the configurations of the two models differ")
        return None
    outside = _outside(models[0], stacks[0]), _outside(models[1], stacks[1])
    if different := set(_differences(*outside)):
        different -= _run_last(models[0], stacks[0]) & _run_last(models[1], stacks[1])
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


def find_stack(model: Any, hookpoint: str) -> Stack | None:
    """The list of decoder layers on the way to a hookpoint."""
    names = hookpoint.split(".")
    for depth, name in enumerate(names[1:], 1):
        layers = model.get_submodule(".".join(names[:depth]))
        if isinstance(layers, nn.ModuleList) and len(layers) == getattr(
            model.config, "num_hidden_layers", None
        ):
            n_below = int(name) + (depth == len(names) - 1)
            return Stack(".".join(names[:depth]), layers, n_below)
    return None


def _settings(model: Any) -> dict[str, Any]:
    """What decides how a model computes, besides its weights."""
    settings = model.config.to_dict() | {"attention": getattr(model.config, "_attn_implementation", None)}
    return {name: value for name, value in settings.items() if name not in _IDLE_SETTINGS}


def _outside(model: nn.Module, stack: Stack) -> dict[str, nn.Module]:
    """Modules that are no part of a decoder layer, by their path; the model itself goes by a point."""
    return {
        path or ".": module
        for path, module in model.named_modules()
        if not f"{path}.".startswith(f"{stack.path}.")
    }


def _run_last(model: nn.Module, stack: Stack) -> set[str]:
    """Paths of the modules that a pass enters only after its last decoder layer: the final norm, the head."""
    entered: dict[nn.Module, None] = {}
    handles = [
        module.register_forward_pre_hook(lambda module, _: entered.setdefault(module))
        for module in model.modules()
    ]
    ids = torch.zeros(1, 3, dtype=torch.long, device=next(model.parameters()).device)
    try:
        forward(model, ids, torch.ones_like(ids, dtype=torch.bool))
    finally:
        for handle in handles:
            handle.remove()
    order = list(entered)
    last = order.index(stack.layers[-1]) if stack.layers[-1] in entered else len(order)
    late = set(order[last:])
    return {path for path, module in _outside(model, stack).items() if module in late}


def _differences(one: dict[str, nn.Module], other: dict[str, nn.Module]) -> Iterator[str]:
    """Paths of the modules that are not the same in both, by class and by their own parameters and buffers."""
    for path in one | other:
        if path not in one or path not in other or not _same(one[path], other[path]):
            yield path or "."


def _same(one: nn.Module, other: nn.Module) -> bool:
    if type(one) is not type(other):
        return False
    if one is other:
        # An adapter is switched on and off in the modules that PEFT put in the place of the model's own.
        return not type(one).__module__.startswith("peft.")
    own, others = _own_tensors(one), _own_tensors(other)
    return own.keys() == others.keys() and all(
        tensor.dtype == others[name].dtype and torch.equal(tensor, others[name])
        for name, tensor in own.items()
    )


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
