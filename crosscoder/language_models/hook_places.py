"""Hookpoints by the names of TransformerLens, found in a model of transformers.

    blocks.N.hook_resid_pre     input of decoder layer N
    blocks.N.hook_resid_mid     that, after attention is added
    blocks.N.hook_resid_post    output of decoder layer N
    blocks.N.hook_attn_out      what attention adds to the residual stream
    blocks.N.hook_mlp_out       what the MLP adds to the residual stream
    hook_embed                  token embeddings

A hookpoint is the output of a module. Which module computes a place is not looked up by its name: the outputs of a short pass have to fulfill,
bit for bit, what defines the place. If no module does, the name is refused. Names are those of a model whose weights TransformerLens
did not process (no folded norms, no centered weights).
"""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..config import PairConfig
from ..config.hook_names import HookName, hook_names, parse_hook_name
from ..errors import PairError, did_you_mean
from ..runtime.device import resolve_device
from .decoder_layers import find_decoder_layers
from .hooks import forward, is_activations
from .networks import Networks
from .pair_models import load_networks
from .placement import input_device

logger = logging.getLogger(__name__)

_N_TOKENS = 5
_ATTENTION = ("attn", "attention")

_UNREADABLE = {
    "attn.hook_z": "the values of each head before they are projected, which no module returns; blocks.N.hook_attn_out is what follows",
    "hook_pos_embed": "the same for every document",
}
_INSIDE_A_LAYER = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
_KNOWN = (*_INSIDE_A_LAYER, "hook_embed", *_UNREADABLE)


class _Output(NamedTuple):
    path: str
    value: Float[Tensor, "document token d_model"]


class _Trace(NamedTuple):
    """A short pass: what the decoder layers read and return, and the outputs of all modules that return activations, in the order of the pass.
    A module that runs more than once has no output that a hookpoint could name."""

    inputs: list[Any]
    returned: list[Any]
    outputs: list[_Output]


def settle_hook_names(config: PairConfig) -> PairConfig:
    """Return the settings with module paths for the names of TransformerLens; the models are loaded for it if there are any.

    Raises:
        PairError: A model cannot be loaded, or has no module that computes such a place.
    """
    if not hook_names(config):
        return config
    return with_module_paths(config, load_networks(config, resolve_device("pair.device", config.device)))


def with_module_paths(config: PairConfig, networks: Networks) -> PairConfig:
    """Return the settings of loaded models with module paths for the names of TransformerLens.

    A name that stands for both models may be another module in each. Raises PairError as `settle_hook_names`.
    """
    if not hook_names(config) or config.hookpoint is None:
        return config
    found = []
    for index, (setting, given) in enumerate(
        (
            ("pair.hookpoint", config.hookpoint),
            (
                "pair.intervened_hookpoint" if config.intervened_hookpoint else "pair.hookpoint",
                config.intervened_hookpoint or config.hookpoint,
            ),
        )
    ):
        with networks.switched(index) as network:
            path = module_path(setting, network, given, config.checkpoints[index].model)
        if path != given:
            logger.info("%s: %s of %r is %s", setting, given, config.checkpoints[index].model, path)
        found.append(path)
    reference, intervened = found
    return config.model_copy(
        update={
            "hookpoint": reference,
            "intervened_hookpoint": None if intervened == reference else intervened,
        }
    )


def module_path(setting: str, model: nn.Module, hookpoint: str, name: str) -> str:
    """Return the path of the module whose output is at a hookpoint; a path, and what is no name of TransformerLens, is returned as it is.

    Args:
        setting: The setting that names the hookpoint, for messages.
        name: Name of the model, for messages.

    Raises:
        PairError: No module of the model returns what is there.
    """
    wanted = parse_hook_name(hookpoint)
    if wanted is None or hookpoint in dict(model.named_modules()):
        return hookpoint

    def refuse(reason: str) -> NoReturn:
        raise PairError(
            f"{setting}: {hookpoint!r} of {name!r} is {reason}; give the path of a module, e.g. model.layers.15"
        )

    _require_known(wanted, refuse)
    layers = find_decoder_layers(model)
    if layers is None:
        refuse(
            "no place that can be found, because the model has no decoder layers that run one after another"
        )
    path, n_layers = layers
    if wanted.layer is None:
        return _embedding(model, _traced(model, path), refuse)
    if wanted.layer >= n_layers:
        refuse(f"not there: the decoder layers go from 0 to {n_layers - 1}")
    if wanted.place == "hook_resid_post":
        return f"{path}.{wanted.layer}"
    trace = _traced(model, path)
    if wanted.place == "hook_resid_pre":
        return _before(path, wanted.layer, trace, refuse)
    return _inside(f"{path}.{wanted.layer}.", wanted, trace, refuse)


def _require_known(wanted: HookName, refuse: Callable[[str], NoReturn]) -> None:
    if wanted.place in _UNREADABLE:
        refuse(_UNREADABLE[wanted.place])
    inside = wanted.layer is not None
    if wanted.place not in _KNOWN or inside != (wanted.place in _INSIDE_A_LAYER):
        names = [f"blocks.N.{place}" for place in _INSIDE_A_LAYER] + ["hook_embed"]
        full = f"blocks.N.{wanted.place}" if inside else wanted.place
        refuse(
            f"a name of TransformerLens whose place is not read here{did_you_mean(full, names)}: {', '.join(names)} are"
        )


def _before(path: str, layer: int, trace: _Trace, refuse: Callable[[str], NoReturn]) -> str:
    """Return the module whose output is the input of a layer."""
    wanted = trace.inputs[layer]
    if layer > 0:
        if not _same(wanted, trace.returned[layer - 1]):
            refuse(
                f"not the output of layer {layer - 1}: the model changes it in between, and no module returns that"
            )
        return f"{path}.{layer - 1}"
    outside = [output for output in trace.outputs if not output.path.startswith(f"{path}.")]
    found = [output for output in outside if _same(output.value, wanted)]
    if not found:
        refuse("the input of the first layer, which no module returns")
    return _chosen(found)


def _embedding(model: Any, trace: _Trace, refuse: Callable[[str], NoReturn]) -> str:
    """Return the path of the token embedding, if the residual stream begins with it, or with its sum with other embeddings."""
    embedding, begins = model.get_input_embeddings(), trace.inputs[0]
    path = next(path for path, module in model.named_modules() if module is embedding)
    value = next((output.value for output in trace.outputs if output.path == path), None)
    if value is not None and (
        _same(value, begins)
        or any(
            _same(value + other.value, begins)
            for other in trace.outputs
            if other.value.shape[-1] == value.shape[-1]
        )
    ):
        return path
    return refuse(
        "not what the embedding returns: the model changes it (e.g. multiplies it) before the first layer"
    )


def _inside(inside: str, wanted: HookName, trace: _Trace, refuse: Callable[[str], NoReturn]) -> str:
    """Return the module that computes a place inside a layer: attention and MLP are the two outputs whose sum with the input of the
    layer is its output."""
    assert wanted.layer is not None
    before, after = trace.inputs[wanted.layer], trace.returned[wanted.layer]
    outputs = [output for output in trace.outputs if output.path.startswith(inside)]
    pairs = [
        (first, second)
        for index, first in enumerate(outputs)
        for second in outputs[index + 1 :]
        if _is_sum(before, first.value, second.value, after)
    ]
    attention = [
        output for pair in pairs for output in pair if _is_attention(output.path.removeprefix(inside))
    ]
    mlp = [output for pair in pairs for output in pair if not _is_attention(output.path.removeprefix(inside))]
    if not attention or not mlp:
        refuse(
            "not to be found: layer output = input + attention + MLP does not hold for the outputs of any two modules of the layer"
        )
    added = attention[0].value
    match wanted.place:
        case "hook_attn_out":
            return _chosen([output for output in attention if _same(output.value, added)])
        case "hook_mlp_out":
            return _chosen([output for output in mlp if _same(output.value, mlp[0].value)])
        case _:
            middle = [output for output in outputs if _same(output.value, before + added)]
            if not middle:
                refuse("a sum that the layer computes itself, and no module returns it")
            return _chosen(middle)


def _is_attention(inside: str) -> bool:
    return any(word in inside for word in _ATTENTION)


def _is_sum(before: Tensor, first: Tensor, second: Tensor, after: Tensor) -> bool:
    """Whether a layer adds two outputs to its input, in one of the orders in which it may have rounded."""
    if not first.shape == second.shape == before.shape:
        return False
    return any(torch.equal(total, after) for total in ((before + first) + second, (first + second) + before))


def _chosen(outputs: list[_Output]) -> str:
    """Return the outermost of modules with one output."""
    return min((output.path for output in outputs), key=lambda path: path.count("."))


def _same(one: Any, other: Any) -> bool:
    return is_activations(one) and is_activations(other) and torch.equal(one, other)


def _traced(model: nn.Module, path: str) -> _Trace:
    layers = model.get_submodule(path)
    assert isinstance(layers, nn.ModuleList)
    inputs, returned, outputs = [], [], []
    members = set(layers)
    device = input_device(model)

    def kept(value: Any) -> Any:
        # A copy, because some models go on adding to a tensor in place; on one device, because layers may lie on several.
        return value.detach().to(device, copy=True) if isinstance(value, Tensor) else value

    def enter(_: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> None:
        inputs.append(kept(given[0] if given else options.get("hidden_states")))

    def leave(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, _: Any, output: Any) -> None:
            value = kept(output[0] if isinstance(output, (tuple, list)) and output else output)
            if module in members:
                returned.append(value)
            if is_activations(value) and value.shape[1] == _N_TOKENS:
                outputs.append(_Output(name, value))

        return keep

    ids = torch.arange(_N_TOKENS, device=device)[None]
    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(enter, with_kwargs=True))
        for name, module in model.named_modules():
            if name and module is not layers:
                hooks.enter_context(module.register_forward_hook(leave(name)))
        forward(model, ids, torch.ones_like(ids, dtype=torch.bool))
    runs = Counter(output.path for output in outputs)
    return _Trace(inputs, returned, [output for output in outputs if runs[output.path] == 1])
