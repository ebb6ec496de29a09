"""A model run from its hookpoint on: what follows from given activations there, whatever came before.

Where the hookpoint is a decoder layer, the layers up to it need not be run: they put out the given activations, and the layers above
read nothing else of them. A context before the tokens is read once; the layers above find its keys and values. Both are tried on a
short pass before they are relied on; else everything is run and the output of the hookpoint replaced.
"""

import copy
import logging
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from .context import Context
from .hooks import forward, splice_output
from .shared_layers import find_stack, putting_out

logger = logging.getLogger(__name__)

TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How much of its norm a token may change, in the median, where a pass continues another. Rounding is some times smaller."""


class ForwardFromHookpoint:
    """The rest of one model above a module. Not for several threads at once."""

    def __init__(
        self,
        network: nn.Module,
        module: nn.Module,
        hookpoint: str,
        device: torch.device,
        context: Context | None = None,
    ) -> None:
        """`network` in the state that it will be run in: an adapter switched as it will be. `context`: what it reads first."""
        self._network, self._module, self._device, self._context = network, module, device, context
        self._past: Cache | None = None
        self._dtype = torch.float32  # of what the hookpoint puts out; set by the trial
        stack = find_stack(network, hookpoint)
        self._skipped = [] if stack is None else list(stack.layers[: stack.n_below])
        if self._skipped[-1:] != [module] or not self._agrees():
            self._skipped = []

    @property
    def n_skipped(self) -> int:
        """Layers that are not run, from the first one on; 0 where all have to be."""
        return len(self._skipped)

    def __call__(
        self,
        token_ids: Int[Tensor, "document token"],
        mask: Bool[Tensor, "document token"],
        activations: Float[Tensor, "document token d_model"],
        *,
        gradients: bool = False,
        at: Bool[Tensor, "document token"] | None = None,
    ) -> Float[Tensor, "*place vocabulary"]:
        """Logits where the module puts out `activations`, of all tokens or of some, as `forward` gives them; gradients flow back to
        them."""
        options: dict[str, Any] = {"gradients": gradients, "at": at}
        if not self._skipped:
            return self._spliced(token_ids, mask, activations, **options)
        if self._context is not None:
            options |= {"past_key_values": self._read_context(len(token_ids)), "use_cache": True}
            mask = self._context.past(mask)
        return self.above(token_ids, mask, activations, **options)

    def above(
        self,
        token_ids: Int[Tensor, "document token"],
        mask: Bool[Tensor, "document past_and_token"],
        activations: Float[Tensor, "document token d_model"],
        **options: Any,
    ) -> Float[Tensor, "*place vocabulary"]:
        """Logits of the layers above alone, from what the module puts out on these tokens; for a model whose layers are skipped.
        Options as for `forward`; a cache gets keys and values of the layers above."""
        assert self._skipped
        with putting_out(self._skipped, activations.to(self._dtype)):
            return forward(self._network, token_ids, mask, **options).logits

    def _spliced(
        self,
        token_ids: Int[Tensor, "document token"],
        mask: Bool[Tensor, "document token"],
        activations: Float[Tensor, "document token d_model"],
        *,
        gradients: bool = False,
        at: Bool[Tensor, "document token"] | None = None,
    ) -> Float[Tensor, "*place vocabulary"]:
        """The same with every layer run."""
        if self._context is None:
            return splice_output(
                self._network, self._module, lambda _: activations, token_ids, mask, gradients=gradients, at=at
            )  # fmt: skip
        found = splice_output(
            self._network,
            self._module,
            self._context.spliced(lambda _: activations),
            *self._context.before(token_ids, mask),
            gradients=gradients,
            at=self._context.wanted(torch.ones_like(mask) if at is None else at),
        )
        return found.view(*mask.shape, -1) if at is None else found

    def _read_context(self, n_rows: int) -> Cache:
        """Keys and values of the context, for so many rows; each pass adds its own to a copy."""
        assert self._context is not None
        if self._past is None:
            ids = self._context.token_ids.to(self._device)[None]
            network: Any = self._network
            self._past = DynamicCache(config=network.config)
            forward(
                network, ids, torch.ones_like(ids, dtype=torch.bool), past_key_values=self._past, use_cache=True
            )  # fmt: skip
        past = copy.deepcopy(self._past)
        past.batch_repeat_interleave(n_rows)
        return past

    def _agrees(self) -> bool:
        """Whether skipping the layers gives what running them gives: bit for bit, or but for rounding after a context."""
        ids = torch.tensor([[3, 5, 7, 11, 13], [17, 19, 23, 23, 23]], device=self._device)
        mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3], device=self._device)
        outputs: list[Any] = []
        handle = self._module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        try:
            forward(self._network, ids, mask)
        finally:
            handle.remove()
        if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
            logger.debug("layers are run again: the hookpoint puts out more than a tensor")
            return False
        self._dtype = outputs[0].dtype
        whole, resumed = self._spliced(ids, mask, outputs[0]), self(ids, mask, outputs[0])
        if self._context is None:
            agrees = torch.equal(whole[mask], resumed[mask])
        else:
            difference = (whole - resumed)[mask].float().norm(dim=1) / whole[mask].float().norm(dim=1)
            agrees = bool(difference.median() <= TOLERANCES[self._dtype])
        if not agrees:
            logger.debug("layers are run again: more than the hookpoint's output is read above it")
        return agrees
