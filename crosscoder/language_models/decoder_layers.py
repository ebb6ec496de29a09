"""The decoder layers of a model, found by what runs, and the outputs of all of them in one pass.

Configurations name the number of layers in many ways, nest it in the settings of a text model, or hold another number for a vision
tower. The entries of `hidden_states` have another offset in some architectures. So neither is relied on: decoder layers are modules of a
list that run one after another, each on the output of the one before, and their outputs are read with hooks.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import PairError
from .hooks import forward, is_activations
from .placement import input_device

_N_TOKENS = 3

_found: "weakref.WeakKeyDictionary[nn.Module, tuple[str, int] | None]" = weakref.WeakKeyDictionary()


class Stack(NamedTuple):
    """The decoder layers of a model, and how many of them lie below its hookpoint."""

    path: str
    layers: nn.ModuleList
    n_below: int
    """Number of layers that end before or at the hookpoint."""


class LayerPass(NamedTuple):
    """What the members of a list of modules read and returned in one pass, in execution order."""

    order: list[nn.Module]
    inputs: list[Any]
    outputs: list[Any]

    def states(self) -> tuple[Float[Tensor, "document token _"], ...]:
        """Return the input of the first layer, then each layer's output."""
        return self.inputs[0], *self.outputs


def find_decoder_layers(model: nn.Module) -> tuple[str, int] | None:
    """Return the path of the decoder layers of a model and their number; None if there are none.

    They are the longest list of modules that run one after another on a short text, each on the output of the one before.
    """
    if model not in _found:
        _found[model] = _search(model)
    return _found[model]


def find_stack(model: nn.Module, hookpoint: str) -> Stack | None:
    """Return the decoder layers of a model, if they contain the hookpoint; None if they do not."""
    found = find_decoder_layers(model)
    if found is None or not hookpoint.startswith(f"{found[0]}."):
        return None
    path, n_layers = found
    layer, _, inside = hookpoint.removeprefix(f"{path}.").partition(".")
    if not layer.isdecimal() or int(layer) >= n_layers:
        return None
    layers = model.get_submodule(path)
    assert isinstance(layers, nn.ModuleList)
    return Stack(path, layers, int(layer) + (not inside))


def middle_layer(models: Sequence[nn.Module]) -> str:
    """Return the path of the middle decoder layer. Raises PairError if the models' layers do not correspond."""
    found = [find_decoder_layers(model) for model in models]
    if found[0] is None or any(one != found[0] for one in found):
        layers = " and ".join("none" if one is None else f"{one[1]} at {one[0]}" for one in found)
        raise PairError(
            f"pair.hookpoint: left open (null), but the models have no decoder layers that correspond ({layers}); name hookpoint, and "
            "intervened_hookpoint if it differs"
        )
    path, n_layers = found[0]
    return f"{path}.{n_layers // 2}"


def text_settings(model: Any) -> Any:
    """Return the configuration of the language model; in a model that reads images too, it is nested in another."""
    nested = getattr(model.config, "get_text_config", None)
    return model.config if nested is None else nested(decoder=True)


def vocabulary_size(model: Any) -> int:
    """Return the number of tokens that a model knows; adapters may hide it in the embedding that they wrap."""
    size = getattr(text_settings(model), "vocab_size", None)
    return size if isinstance(size, int) else model.get_input_embeddings().num_embeddings


@contextmanager
def recorded_layers(layers: nn.ModuleList) -> Iterator[LayerPass]:
    """Record what each layer reads and returns in the pass that is made meanwhile."""
    record = LayerPass([], [], [])

    def enter(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        record.order.append(module)
        record.inputs.append(inputs[0] if inputs else options.get("hidden_states"))

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
        record.outputs.append(output[0] if isinstance(output, (tuple, list)) and output else output)

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(leave) for layer in layers]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _search(model: nn.Module) -> tuple[str, int] | None:
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    # Lists inside a layer, such as experts, are no decoder layers.
    outermost = {
        path: module
        for path, module in lists.items()
        if not any(path.startswith(f"{other}.") for other in lists)
    }
    ids = torch.arange(_N_TOKENS, device=input_device(model))[None]
    with ExitStack() as recording:
        passes = {
            path: recording.enter_context(recorded_layers(layers)) for path, layers in outermost.items()
        }
        forward(model, ids, torch.ones_like(ids, dtype=torch.bool))
    chains = {path: len(outermost[path]) for path, one in passes.items() if _is_chain(one, outermost[path])}
    if getattr(text_settings(model), "num_hidden_layers", None) != 1:
        # Any single module is a chain.
        chains = {path: n_layers for path, n_layers in chains.items() if n_layers > 1}
    return max(chains.items(), key=lambda item: item[1], default=None)


def _is_chain(one: LayerPass, layers: nn.ModuleList) -> bool:
    """Whether each layer ran once, in order, and read what the one before returned."""
    if one.order != list(layers) or len(one.outputs) != len(layers):
        return False
    values = one.inputs + one.outputs
    if not all(is_activations(value) and value.shape[1] == _N_TOKENS for value in values):
        return False
    return all(
        read is returned or _same_direction(read, returned)
        for read, returned in zip(one.inputs[1:], one.outputs[:-1], strict=True)
    )


def _same_direction(
    one: Float[Tensor, "document token one"], other: Float[Tensor, "document token other"]
) -> bool:
    """Whether two tensors are equal up to a factor: RWKV halves the hidden states after some layers."""
    if one.shape != other.shape:
        return False
    left, right = (value.nan_to_num().double().flatten() for value in (one, other))
    return bool(left @ right >= (1 - 1e-6) * left.norm() * right.norm())
