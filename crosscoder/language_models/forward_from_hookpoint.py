"""The forward pass from the hookpoint: the rest of a model, run on given activations.

If the hookpoint is a decoder layer, the layers up to it are skipped: they return the given activations, and the layers above
read nothing else from them. A context before the tokens is run once, and its keys and values are cached. Both shortcuts are
verified on a short pass; if that fails, every layer is run and the output of the hookpoint is replaced.
"""

import copy
import logging
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from .context import Context
from .decoder_layers import find_stack
from .hooks import forward, splice_output
from .model_checks import TOLERANCES
from .shared_layers import bypass_layers

logger = logging.getLogger(__name__)


class ForwardFromHookpoint:
    """The rest of one model above its hookpoint. Not thread-safe."""

    def __init__(
        self,
        network: nn.Module,
        module: nn.Module,
        hookpoint: str,
        device: torch.device,
        context: Context | None = None,
    ) -> None:
        """
        Args:
            network: With its adapter switched on or off as in later calls.
            context: What the model reads before every document.
        """
        self._network, self._module, self._device, self._context = network, module, device, context
        self._past: Cache | None = None
        # Dtype and device of the hookpoint's output; set by the trial pass.
        self._like = torch.empty(0)
        stack = find_stack(network, hookpoint)
        self._skipped = [] if stack is None else list(stack.layers[: stack.n_below])
        if self._skipped[-1:] != [module] or not self._agrees():
            self._skipped = []

    @property
    def n_skipped(self) -> int:
        """Number of layers skipped, counted from the first; 0 if all must be run."""
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
        """Return logits with the hookpoint's output set to `activations`; `gradients` and `at` as in `hooks.forward`.

        Gradients flow back to `activations`.
        """
        options: dict[str, Any] = {"gradients": gradients, "at": at}
        if not self._skipped:
            return self._spliced(token_ids, mask, activations, **options)
        if self._context is not None:
            options |= {"past_key_values": self._read_context(len(token_ids)), "use_cache": True}
            mask = self._context.prepend_mask(mask)
        return self.above(token_ids, mask, activations, **options)

    def above(
        self,
        token_ids: Int[Tensor, "document token"],
        mask: Bool[Tensor, "document past_and_token"],
        activations: Float[Tensor, "document token d_model"],
        **options: Any,
    ) -> Float[Tensor, "*place vocabulary"]:
        """Return logits from the layers above alone, given the hookpoint's output. Requires `n_skipped` > 0.

        Options as in `hooks.forward`; a cache receives the keys and values of the layers above.
        """
        assert self._skipped
        with bypass_layers(self._skipped, activations.to(self._like)):
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
        """Return the same logits with every layer run."""
        if self._context is None:
            return splice_output(
                self._network, self._module, activations.to, token_ids, mask, gradients=gradients, at=at
            )  # fmt: skip
        found = splice_output(
            self._network,
            self._module,
            self._context.splice_documents(activations.to),
            *self._context.prepend(token_ids, mask),
            gradients=gradients,
            at=self._context.document_mask(torch.ones_like(mask) if at is None else at),
        )
        return found.view(*mask.shape, -1) if at is None else found

    def _read_context(self, n_rows: int) -> Cache:
        """Return the cached keys and values of the context for `n_rows` documents, as a copy that a pass can extend."""
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
        """Whether skipping layers gives the logits of running them: bit for bit, or up to rounding after a context."""
        ids = torch.tensor([[3, 5, 7, 11, 13], [17, 19, 23, 23, 23]], device=self._device)
        mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3], device=self._device)
        outputs: list[Any] = []
        handle = self._module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        try:
            forward(self._network, ids, mask)
        finally:
            handle.remove()
        if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
            logger.debug("no layers are skipped: the output of the hookpoint is not a single tensor")
            return False
        self._like = outputs[0].new_empty(0)
        expected, found = self._spliced(ids, mask, outputs[0]), self(ids, mask, outputs[0])
        if self._context is None:
            agrees = torch.equal(expected[mask], found[mask])
        else:
            difference = (expected - found)[mask].float().norm(dim=1) / expected[mask].float().norm(dim=1)
            agrees = bool(difference.median() <= TOLERANCES[self._like.dtype])
        if not agrees:
            logger.debug("no layers are skipped: layers above the hookpoint read more than its output")
        return agrees
