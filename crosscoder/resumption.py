"""A model run from its hookpoint on: what follows from given activations there, whatever came before.

Where the hookpoint is a decoder layer, the layers up to it need not be run: they put out the given activations, and the layers
above read nothing else of them. That is tried on a short pass before it is relied on; else everything is run and the output of
the hookpoint replaced.
"""

import logging
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .hooks import forward, hidden, splice_output
from .shared_layers import find_stack, putting_out

logger = logging.getLogger(__name__)


class Resumption:
    """The rest of one model above a module. Not for several threads at once."""

    def __init__(self, network: nn.Module, module: nn.Module, hookpoint: str, device: torch.device) -> None:
        """`network` in the state that it will be run in: an adapter switched as it will be."""
        self._network, self._module = network, module
        self._dtype = torch.float32  # of what the hookpoint puts out; set by the trial
        stack = find_stack(network, hookpoint)
        layers = [] if stack is None else list(stack.layers[: stack.n_below])
        self._skipped = layers if layers[-1:] == [module] and self._agrees(layers, device) else []

    def __call__(
        self,
        token_ids: Int[Tensor, "document token"],
        mask: Bool[Tensor, "document token"],
        activations: Float[Tensor, "document token d_model"],
        *,
        gradients: bool = False,
        n_last: int | None = None,
    ) -> Float[Tensor, "document last_token vocabulary"]:
        """Logits of all tokens, or of the last ones, where the module puts out `activations`; gradients flow back to them."""
        options: dict[str, Any] = {"gradients": gradients, "n_last": n_last}
        if not self._skipped:
            return splice_output(
                self._network, self._module, lambda _: activations, token_ids, mask, **options
            )
        with putting_out(self._skipped, activations.to(self._dtype)):
            return forward(self._network, token_ids, mask, **options).logits

    def _agrees(self, layers: list[nn.Module], device: torch.device) -> bool:
        """Whether skipping the layers gives what running them gives, bit for bit."""
        ids = torch.tensor([[3, 5, 7, 11, 13], [17, 19, 23, 23, 23]], device=device)
        mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3], device=device)
        outputs: list[Any] = []
        handle = self._module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        try:
            whole = forward(self._network, ids, mask).logits
        finally:
            handle.remove()
        if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
            logger.debug("layers are run again: the hookpoint puts out more than a tensor")
            return False
        self._dtype = outputs[0].dtype
        with putting_out(layers, hidden(outputs[0])):
            resumed = forward(self._network, ids, mask).logits
        agrees = torch.equal(whole[mask], resumed[mask])
        if not agrees:
            logger.debug("layers are run again: more than the hookpoint's output is read above it")
        return agrees
