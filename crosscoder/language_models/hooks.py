"""Forward hooks: read and replace the output of a module of a language model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeGuard

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache

from ..errors import PairError

Splice = Callable[[Float[Tensor, "document token d_model"]], Float[Tensor, "document token d_model"]]


class FullPass(NamedTuple):
    """Logits and the states between the decoder layers of one model, from a full forward pass."""

    logits: Float[Tensor, "document token vocabulary"]
    states: tuple[Float[Tensor, "document token _"], ...] | None
    """The input of the first decoder layer, then each layer's output, read with hooks; None if the model has no decoder layers."""


class _Stopped(Exception):
    """Ends a forward pass once the hooked modules have run."""


def read_output(
    model: nn.Module,
    module: nn.Module,
    token_ids: Int[Tensor, "document token"],
    attention_mask: Bool[Tensor, "document past_and_token"],
    past: Cache | None = None,
    **options: Any,
) -> Float[Tensor, "document token d_model"] | None:
    """Return the output of `module` in a forward pass of `model` that stops right after it; None if it is never run.

    The pass continues from the keys and values in `past` and appends its own; the mask covers both. Options as in
    `forward`.
    """
    if past is not None:
        options |= {"past_key_values": past, "use_cache": True}
    found = read_outputs(model, [module], token_ids, attention_mask, **options)
    return found[0] if found else None


def read_outputs(
    model: nn.Module,
    modules: Sequence[nn.Module],
    token_ids: Int[Tensor, "document token"],
    attention_mask: Bool[Tensor, "document past_and_token"],
    **options: Any,
) -> list[Float[Tensor, "document token _"]]:
    """Return the outputs of several modules in execution order, from one forward pass that stops after the last of them.

    Modules that are never run are left out. Options as in `forward`.
    """
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found.append(hidden(output))
        if len(found) == len(modules):
            raise _Stopped

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        forward(model, token_ids, attention_mask, **options)
    except _Stopped:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


def splice_output(
    model: nn.Module,
    module: nn.Module,
    splice: Splice,
    token_ids: Int[Tensor, "document token"],
    attention_mask: Bool[Tensor, "document past_and_token"],
    **options: Any,
) -> Float[Tensor, "*place vocabulary"]:
    """Return logits of `model` with the output of `module` replaced by `splice(output)`; options as in `forward`."""

    def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        before = hidden(output)
        after = splice(before).to(before)
        if isinstance(output, Tensor):
            return after
        return [after, *output[1:]] if isinstance(output, list) else (after, *output[1:])

    handle = module.register_forward_hook(replace)
    try:
        return forward(model, token_ids, attention_mask, **options).logits
    finally:
        handle.remove()


def forward(
    model: nn.Module,
    token_ids: Int[Tensor, "document token"],
    attention_mask: Bool[Tensor, "document past_and_token"],
    *,
    gradients: bool = False,
    at: Bool[Tensor, "document token"] | None = None,
    **options: Any,
) -> Any:
    """Run one forward pass, by default without gradients and without a cache.

    It does not use inference mode, whose tensors cannot be trained on.

    Args:
        at: Tokens to compute logits for, returned as `[place, vocabulary]` in their order: the unembedding of a small model
            costs more than its layers. None: all tokens, as `[document, token, vocabulary]`.
    """
    with torch.set_grad_enabled(gradients), _restrict_unembedding(model, at):
        return model(
            input_ids=token_ids, attention_mask=attention_mask.long(), **{"use_cache": False} | options
        )


@contextmanager
def _restrict_unembedding(model: Any, at: Bool[Tensor, "document token"] | None) -> Iterator[None]:
    """Make the unembedding read only the selected tokens, gathered into one contiguous matrix.

    The batch slice that `logits_to_keep` of transformers takes is multiplied many times slower on a CPU.
    """
    if at is None:
        yield
        return
    handle = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: (inputs[0][at.to(inputs[0].device)], *inputs[1:])
    )
    try:
        yield
    finally:
        handle.remove()


def hidden(output: Any) -> Tensor:
    """Return the hidden states in a module's output, which is a tensor, or a tuple or list that starts with one.

    Raises:
        PairError: It is something else.
    """
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(first, Tensor):
        raise PairError(
            f"pair.hookpoint: the module returns a {type(first).__name__}, not a tensor; give the path of a layer, e.g. model.layers.15"
        )
    return first


def is_activations(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a tensor of activations, `[document, token, d_model]`."""
    return isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point()
