"""What all models compute on the same tokens, at the least cost: layers that the reference shares with another, a prefix that all
documents share, and a context that stands before them, are each run once.

None of that is taken for granted: it is tried on a short pass, and where the result is not the same, everything is run.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from .context import Context
from .forward_from_hookpoint import TOLERANCES
from .shared_layers import SharedLayers, find_shared_layers

logger = logging.getLogger(__name__)


@runtime_checkable
class Read(Protocol):
    """A pass of one model (0 is the reference) up to its hookpoint, which goes on from a past where there is one."""

    def __call__(
        self,
        index: int,
        token_ids: Int[Tensor, "document token"],
        mask: Bool[Tensor, "document past_and_token"],
        past: Cache | None = None,
    ) -> Float[Tensor, "document token d_model"]: ...


# Tokens with which the documents of a trial pass begin.
_TRIAL_PREFIX = 4


class JointForward:
    """Reads two or more models together. Not for several threads at once."""

    def __init__(
        self,
        read: Read,
        models: tuple[nn.Module, ...],
        hookpoints: tuple[str, ...],
        device: torch.device,
        context: Context | None,
        same_as: tuple[int, ...],
    ) -> None:
        """`context` stands before every document in the second of two models; `same_as`: for each model the first one that is
        the same computation."""
        self._read, self._models, self._hookpoints = read, models, hookpoints
        self._device, self._context, self._same_as = device, context, same_as
        # Of each model with the reference; after a context no layer computes the same.
        self._shared: list[SharedLayers | None] = [None] * len(models)
        for index in range(1, len(models)):
            if same_as[index] == index and not context:
                self._shared[index] = self._try_shared_layers(index)
        self._continues: bool | None = None  # not tried yet

    def __call__(
        self, ids: Int[Tensor, "document token"], mask: Bool[Tensor, "document token"], n_prefix: int = 0
    ) -> tuple[Float[Tensor, "document token _"], ...]:
        """All models' activations. The first `n_prefix` tokens are the same in all documents, and each of those is longer."""
        if self._context is not None:
            return self._read(0, ids, mask), self._read_after_context(self._context, ids, mask)
        if n_prefix and len(ids) > 1:
            if self._continues is None:
                self._continues = self._try_prefix()
            if self._continues:
                return self._read_from_prefix(ids, mask, n_prefix)
        return self._read_all(self._shared, ids, mask)

    def _read_all(
        self,
        shared: Sequence[SharedLayers | None],
        token_ids: Int[Tensor, "document token"],
        mask: Bool[Tensor, "document past_and_token"],
        pasts: Sequence[Cache] | None = None,
    ) -> tuple[Float[Tensor, "document token _"], ...]:
        """All models' activations; each goes on from where its layers begin to differ from the reference's."""
        past_of = pasts or [None] * len(self._models)
        with ExitStack() as recording:
            for layers in filter(None, shared):
                recording.enter_context(layers.recorded())
            outputs = [self._read(0, token_ids, mask, past_of[0])]
        for index in range(1, len(self._models)):
            layers = shared[index]
            if self._same_as[index] < index:
                outputs.append(outputs[self._same_as[index]])
            elif layers is None:
                outputs.append(self._read(index, token_ids, mask, past_of[index]))
            else:
                with layers.replayed():
                    outputs.append(self._read(index, token_ids, mask, past_of[index]))
        return tuple(outputs)

    def _read_from_prefix(
        self, token_ids: Int[Tensor, "document token"], mask: Bool[Tensor, "document token"], n_prefix: int
    ) -> tuple[Float[Tensor, "document token _"], ...]:
        """All models' activations; the first tokens, the same in all documents, are run in one of them."""
        n_documents = len(token_ids)
        configs: list[Any] = [model.config for model in self._models]
        pasts = [DynamicCache(config=config) for config in configs]
        before = self._read_all(self._shared, token_ids[:1, :n_prefix], mask[:1, :n_prefix], pasts)
        for shared, past in zip(self._shared, pasts, strict=True):
            if shared is not None:
                shared.fill(past, pasts[0])
        for past in pasts:
            past.batch_repeat_interleave(n_documents)
        after = self._read_all(self._shared, token_ids[:, n_prefix:], mask, pasts)
        return tuple(
            torch.cat([first.expand(n_documents, -1, -1), rest], dim=1)
            for first, rest in zip(before, after, strict=True)
        )

    def _read_after_context(
        self, context: Context, ids: Int[Tensor, "document token"], mask: Bool[Tensor, "document token"]
    ) -> Float[Tensor, "document token d_model"]:
        """The intervened model's activations on documents after the context, which is run once where it can be continued."""
        if self._continues is None:
            self._continues = self._try_context(context)
        if len(ids) > 1 and self._continues:
            return self._continue_context(context, ids, mask)
        return context.after(self._read(1, *context.before(ids, mask)))

    def _continue_context(
        self, context: Context, ids: Int[Tensor, "document token"], mask: Bool[Tensor, "document token"]
    ) -> Float[Tensor, "document token d_model"]:
        settings: Any = self._models[1].config
        past = DynamicCache(config=settings)
        alone = context.token_ids.to(ids)[None]
        self._read(1, alone, torch.ones_like(alone, dtype=torch.bool), past)
        past.batch_repeat_interleave(len(ids))
        return self._read(1, ids, context.past(mask), past)

    def _try_context(self, context: Context) -> bool:
        """Whether the model can continue the context: the result differs by no more than rounding."""
        ids, mask = self._trial_documents()
        whole = context.after(self._read(1, *context.before(ids, mask)))
        return self._agrees(mask, (whole,), lambda: (self._continue_context(context, ids, mask),))

    def _try_shared_layers(self, index: int) -> SharedLayers | None:
        """The layers that a model shares with the reference, where a pass that shares them equals two passes bit for bit."""
        two = self._models[0], self._models[index]
        shared = find_shared_layers(two, (self._hookpoints[0], self._hookpoints[index]))
        if shared is None:
            return None
        ids, mask = self._trial_documents()
        apart = self._read(0, ids, mask), self._read(index, ids, mask)
        with shared.recorded():
            reference = self._read(0, ids, mask)
        with shared.replayed():
            together = reference, self._read(index, ids, mask)
        if all(torch.equal(one, other) for one, other in zip(apart, together, strict=True)):
            return shared
        logger.debug("more than the output of the last shared layer is read above it; no layers are shared")
        return None

    def _try_prefix(self) -> bool:
        """Whether all models can continue a prefix: the result differs by no more than rounding."""
        ids, mask = self._trial_documents()
        whole = self._read_all(self._shared, ids, mask)
        return self._agrees(mask, whole, lambda: self._read_from_prefix(ids, mask, _TRIAL_PREFIX))

    @staticmethod
    def _agrees(
        mask: Bool[Tensor, "document token"],
        whole: tuple[Float[Tensor, "document token _"], ...],
        continuing: Callable[[], tuple[Float[Tensor, "document token _"], ...]],
    ) -> bool:
        """Whether passes that continue others can be made, and give what whole ones give, but for rounding."""
        try:
            continued = continuing()
        except (
            AttributeError,
            IndexError,
            NotImplementedError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            logger.debug("prefixes are not reused, because the models cannot continue one: %r", error)
            return False
        for one, other in zip(whole, continued, strict=True):
            difference = (one - other)[mask].float().norm(dim=1) / one[mask].float().norm(dim=1)
            if not difference.median() <= TOLERANCES[one.dtype]:
                logger.debug("prefixes are not reused: continued ones differ by %.1e", difference.median())
                return False
        return True

    def _trial_documents(self) -> tuple[Int[Tensor, "document token"], Bool[Tensor, "document token"]]:
        """Three documents of different lengths that begin alike, padded on the right."""
        network: Any = self._models[0]
        places = torch.arange(16, device=self._device)
        steps, lengths = torch.tensor([[3, 9], [5, 16], [7, 6]], device=self._device)[..., None].unbind(1)
        ids = torch.where(places < _TRIAL_PREFIX, 2 * places, steps * places)
        return ids % network.get_input_embeddings().num_embeddings, places < lengths
