"""Reading and replacing what one module of a language model puts out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache

Splice = Callable[[Float[Tensor, "document token d_model"]], Float[Tensor, "document token d_model"]]


class _Stopped(Exception):
    """Leaves a forward pass as soon as the wanted output is there."""


def read_output(
    model: nn.Module,
    module: nn.Module,
    token_ids: Int[Tensor, "document token"],
    attention_mask: Bool[Tensor, "document past_and_token"],
    past: Cache | None = None,
    **options: Any,
) -> Float[Tensor, "document token d_model"] | None:
    """Output of `module` inside a forward pass of `model` that ends right after it; None where it is never reached.

    The pass continues the tokens whose keys and values `past` holds, and adds its own; the mask covers both. Options as for
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
    """Outputs of several modules, in the order in which one forward pass reaches them; the pass ends after the last of them. Options
    as for `forward`."""
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
    """Logits of `model` with the output of `module` replaced by `splice(output)`; options as for `forward`."""

    def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        before = hidden(output)
        after = splice(before).to(before)
        return after if isinstance(output, Tensor) else (after, *output[1:])

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
    """One forward pass, without gradients and without a cache unless they are asked for.

    Not inference mode: its tensors could not be trained on.

    Args:
        at: Tokens whose logits are wanted, `[place, vocabulary]` in their order, and no others are computed: the unembedding of a
            small model costs more than its layers. None: all, `[document, token, vocabulary]`.
    """
    with torch.set_grad_enabled(gradients), _read_by_the_head(model, at):
        return model(
            input_ids=token_ids, attention_mask=attention_mask.long(), **{"use_cache": False} | options
        )


@contextmanager
def _read_by_the_head(model: Any, at: Bool[Tensor, "document token"] | None) -> Iterator[None]:
    """Inside, the unembedding reads some tokens alone, laid out one after the other: a slice of a batch, as `logits_to_keep` of
    transformers gives it, is multiplied many times slower on a CPU."""
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
    """The hidden states in a module's output: a layer gives a tensor or a tuple that begins with it."""
    first = output[0] if isinstance(output, tuple) else output
    if not isinstance(first, Tensor):
        raise TypeError(f"the hooked module gives a {type(first).__name__}, not a tensor")
    return first
