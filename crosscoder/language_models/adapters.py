"""Attach PEFT adapters to the reference, and prove that both sides are then the models that were named.

peft may rewrite the weights of the base while it attaches an adapter (PiSSA, OLoRA, biases, stored base layers), and some adapters act
only through arguments that the forward of `PeftModel` hands along (activated LoRA, task ids). So the logits of a short probe must be

    with the adapter off   those of the bare reference, bit for bit
    with the adapter on    those of the forward of `PeftModel`, bit for bit

or up to rounding, if two passes of the bare reference already differ, as some kernels on a GPU do. Where the first fails, every adapter
gets a copy of the base weights of its own, and the reference stays bare. Where the second fails, the adapter is refused.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor, nn

from ..errors import PairError
from .adapter_files import AdapterRequest, StoredAdapter, attach, read_adapter
from .hooks import forward
from .load_errors import first_line
from .model_checks import TOLERANCES, check_causal
from .networks import Networks

logger = logging.getLogger(__name__)

_SEEDS = 1, 0
"""Seeds under which an adapter is attached to two copies of the base; the second copy is kept."""


_Compare = Callable[[Tensor, Tensor], bool]


class _NotShared(Exception):
    """The adapters cannot share the weights of the reference; the message says why."""


class AttachedAdapters(NamedTuple):
    """The reference, and the model with each adapter."""

    reference: nn.Module
    models: list[PeftModel]
    base_tensors: Mapping[str, Tensor] | None
    """Weights of the reference under their names without an adapter; None if no adapter shares them."""


def attach_adapters(
    reference: nn.Module,
    requests: Sequence[AdapterRequest],
    load_base: Callable[[], nn.Module],
    device: torch.device,
) -> AttachedAdapters:
    """Attach adapters to the reference. All share its weights if that is proven to change nothing; else each has a copy of its own.

    Args:
        reference: The bare reference; it may be changed.
        load_base: Loads the bare reference again.

    Raises:
        PairError: An adapter is missing, does not fit the reference, or its effect cannot be reproduced.
        FormatError: A weight file is damaged.
        ResourceError: A package that the adapter needs is not installed.
    """
    adapters = [read_adapter(request, reference, device) for request in requests]
    if not adapters:
        return AttachedAdapters(reference, [], None)
    bare = [_logits(reference, adapter) for adapter in adapters]
    repeated = [_logits(reference, adapter) for adapter in adapters]
    exact = all(_same(True, *passes) for passes in zip(bare, repeated, strict=True))
    same = partial(_same, exact)
    tensors = reference.state_dict()
    try:
        model = _share(reference, adapters, bare, device, same)
        return AttachedAdapters(model.get_base_model(), [model] * len(adapters), tensors)
    except _NotShared as reason:
        logger.warning(
            "%s; the base weights are loaded once more for each adapter, which takes as much memory", reason
        )
    del reference, tensors  # It may have been changed; free it before it is loaded again.
    models = [_attach_to_own_copy(load_base, adapter, device, same) for adapter in adapters]
    reference = load_base()
    for adapter, logits in zip(adapters, bare, strict=True):
        if not same(_logits(reference, adapter), logits):
            raise PairError(
                f"{adapter}: the reference gives other logits each time it is loaded; give a complete checkpoint"
            )
    return AttachedAdapters(reference, models, None)


def _share(
    reference: nn.Module,
    adapters: Sequence[StoredAdapter],
    bare: Sequence[Float[Tensor, "document token vocabulary"]],
    device: torch.device,
    same: _Compare,
) -> PeftModel:
    """Attach all adapters to one base, and prove every switch. Raises _NotShared where one is not proven."""
    for adapter in adapters:
        if adapter.vocabulary_size is not None:
            raise _NotShared(f"{adapter} has another vocabulary size ({adapter.vocabulary_size})")
    model: PeftModel | None = None
    with_adapter: list[Tensor] = []
    for count, adapter in enumerate(adapters, 1):
        model = attach(reference if model is None else model, adapter, device)
        # Before anything is switched, because some adapters cannot be switched on again.
        own = _own_logits(model, adapter, adapter.probe)
        names = None, *(one.request.name for one in adapters[:count])
        networks = Networks((model.get_base_model(),) * len(names), (model,) * len(names), names)
        for one, logits in zip(adapters[:count], bare, strict=False):
            with networks.switched(0) as network:
                if not same(off := _logits(network, one), logits):
                    raise _NotShared(
                        f"{one} changes the reference itself (its logits by {_difference(off, logits):.1%})"
                    )
        for index, (one, logits) in enumerate(zip(adapters, with_adapter, strict=False), 1):
            with networks.switched(index) as network:
                if not same(_logits(network, one), logits):
                    raise _NotShared(f"{adapter} changes the model with {one.request.adapter!r}")
        with networks.switched(count):
            with_adapter.append(_checked_logits(model, adapter, own, device, same))
    assert model is not None
    return model


def _attach_to_own_copy(
    load_base: Callable[[], nn.Module], adapter: StoredAdapter, device: torch.device, same: _Compare
) -> PeftModel:
    """Attach an adapter to a copy of the base, twice, to see that the result is the same model each time.

    Raises:
        PairError: It is not.
    """
    found: list[Tensor] = []
    model: PeftModel | None = None
    for seed in _SEEDS:
        del model  # before the next copy is loaded
        model = attach(load_base(), adapter, device, seed)
        own = _own_logits(model, adapter, adapter.probe)
        found.append(_checked_logits(model, adapter, own, device, same))
    if not same(*found):
        why = f"is attached with random numbers (init_lora_weights={getattr(adapter.config, 'init_lora_weights', None)!r})"
        if adapter.vocabulary_size is not None:
            why = f"does not store all rows of its {adapter.vocabulary_size} tokens, whose number differs from the reference's"
        raise PairError(
            f"{adapter} {why}, and gives another model each time (logits differ by {_difference(*found):.1%}); merge it into a checkpoint where "
            "it was trained, and give that as the model"
        )
    assert model is not None
    return model


def _checked_logits(
    model: PeftModel,
    adapter: StoredAdapter,
    own: Float[Tensor, "document token vocabulary"],
    device: torch.device,
    same: _Compare,
) -> Float[Tensor, "document token vocabulary"]:
    """Return the logits of the plain model with its adapter on; they are those of the forward of `PeftModel`.

    Args:
        own: Logits of that forward.

    Raises:
        PairError: They are not.
    """
    network = model.get_base_model()
    # A pass over other tokens first: some adapters keep what they computed from the tokens of the last pass (X-LoRA).
    _own_logits(model, adapter, adapter.probe.flip(1))
    found = _logits(network, adapter)
    if same(found, own):
        check_causal(f"{adapter} ({adapter.kind}): the reference with it", network, device)
        return found
    tokens = getattr(adapter.config, "alora_invocation_tokens", None)
    why = f"alora_invocation_tokens={tokens!r}" if tokens else "its kind"
    raise PairError(
        f"{adapter} ({adapter.kind}) acts only through the forward of PeftModel ({why}), so no hook can read it: the model with it gives logits "
        f"that differ by {_difference(found, own):.1%} from peft's own; give an adapter of weights alone, e.g. LoRA"
    )


@torch.no_grad()
def _own_logits(
    model: PeftModel, adapter: StoredAdapter, token_ids: Int[Tensor, "document token"]
) -> Float[Tensor, "document token vocabulary"]:
    """Return the logits of the forward of `PeftModel` with the adapter on.

    Raises:
        PairError: It needs more than token ids.
    """
    before, name = str(model.active_adapter), adapter.request.name
    if before != name:
        model.set_adapter(name)
    try:
        return model(input_ids=token_ids, attention_mask=torch.ones_like(token_ids), use_cache=False).logits
    except Exception as error:
        raise PairError(
            f"{adapter} ({adapter.kind}) does not run on token ids alone: {first_line(error)}; give an adapter of weights alone, "
            "e.g. LoRA"
        ) from error
    finally:
        if before != name:
            model.set_adapter(before)
            model.requires_grad_(False)


def _logits(network: nn.Module, adapter: StoredAdapter) -> Float[Tensor, "document token vocabulary"]:
    return forward(network, adapter.probe, torch.ones_like(adapter.probe, dtype=torch.bool)).logits


def _same(exact: bool, one: Tensor, other: Tensor) -> bool:
    """Whether two passes computed the same: bit for bit, or up to rounding."""
    if one.shape != other.shape:
        return False
    if exact:
        return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    change = (one.float() - other.float()).norm(dim=-1) / other.float().norm(dim=-1).clamp_min(1e-30)
    return bool(change.max() <= TOLERANCES.get(one.dtype, TOLERANCES[torch.float32]))


def _difference(one: Tensor, other: Tensor) -> float:
    """Norm of the difference of two tensors, relative to the second; of unequal shapes it is infinite."""
    if one.shape != other.shape:
        return float("inf")
    return float((one.float() - other.float()).norm() / other.float().norm().clamp_min(1e-30))
