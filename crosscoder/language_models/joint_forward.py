"""Forward passes of all models on the same tokens, without redundant work: layers that a model shares with the reference, a
prefix shared by all documents, and a context before them are each run once.

Each shortcut is verified on a short pass; if the result differs, everything is run.
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
from .decoder_layers import vocabulary_size
from .model_checks import TOLERANCES
from .shared_layers import SharedLayers, find_shared_layers

logger = logging.getLogger(__name__)


@runtime_checkable
class ReadActivations(Protocol):
    """Runs one model (0 is the reference) up to its hookpoint, continuing from a cache if one is given."""

    def __call__(
        self,
        index: int,
        token_ids: Int[Tensor, "document token"],
        mask: Bool[Tensor, "document past_and_token"],
        past: Cache | None = None,
    ) -> Float[Tensor, "document token d_model"]: ...


# Length of the common prefix of the documents in a trial pass.
_TRIAL_PREFIX = 4


class JointForward:
    """Reads two or more models together. Not thread-safe."""

    def __init__(
        self,
        read: ReadActivations,
        models: tuple[nn.Module, ...],
        hookpoints: tuple[str, ...],
        device: torch.device,
        context: Context | None,
        same_as: tuple[int, ...],
    ) -> None:
        """
        Args:
            context: What the second of two models reads before every document.
            same_as: For each model, the index of the first model with the same computation.
        """
        self._read, self._models, self._hookpoints = read, models, hookpoints
        self._device, self._context, self._same_as = device, context, same_as
        # Between each model and the reference. After a context, no layer has the same outputs.
        self._shared: list[SharedLayers | None] = [None] * len(models)
        for index in range(1, len(models)):
            if same_as[index] == index and not context:
                self._shared[index] = self._try_shared_layers(index)
        self._can_continue: bool | None = None  # None: not verified yet

    def __call__(
        self, ids: Int[Tensor, "document token"], mask: Bool[Tensor, "document token"], n_prefix: int = 0
    ) -> tuple[Float[Tensor, "document token _"], ...]:
        """Return the activations of all models.

        The first `n_prefix` tokens must be the same in all documents, and every document must be longer.
        """
        if self._context is not None:
            return self._read(0, ids, mask), self._read_after_context(self._context, ids, mask)
        if n_prefix and len(ids) > 1:
            if self._can_continue is None:
                self._can_continue = self._try_prefix()
            if self._can_continue:
                return self._read_from_prefix(ids, mask, n_prefix)
        return self._read_all(self._shared, ids, mask)

    def _read_all(
        self,
        shared: Sequence[SharedLayers | None],
        token_ids: Int[Tensor, "document token"],
        mask: Bool[Tensor, "document past_and_token"],
        pasts: Sequence[Cache] | None = None,
    ) -> tuple[Float[Tensor, "document token _"], ...]:
        """Return the activations of all models; each runs only from its first layer that differs from the reference's."""
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
        """Return the activations of all models; the common prefix is run in one document only."""
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
        """Return the intervened model's activations after the context, which is run once if its cache can be reused."""
        if self._can_continue is None:
            self._can_continue = self._try_context(context)
        if len(ids) > 1 and self._can_continue:
            return self._continue_context(context, ids, mask)
        return context.strip(self._read(1, *context.prepend(ids, mask)))

    def _continue_context(
        self, context: Context, ids: Int[Tensor, "document token"], mask: Bool[Tensor, "document token"]
    ) -> Float[Tensor, "document token d_model"]:
        settings: Any = self._models[1].config
        past = DynamicCache(config=settings)
        alone = context.token_ids.to(ids)[None]
        self._read(1, alone, torch.ones_like(alone, dtype=torch.bool), past)
        past.batch_repeat_interleave(len(ids))
        return self._read(1, ids, context.prepend_mask(mask), past)

    def _try_context(self, context: Context) -> bool:
        """Whether the model can continue from a cached context, up to rounding."""
        ids, mask = self._trial_documents()
        whole = context.strip(self._read(1, *context.prepend(ids, mask)))
        return self._agrees(mask, (whole,), lambda: (self._continue_context(context, ids, mask),))

    def _try_shared_layers(self, index: int) -> SharedLayers | None:
        """Return the layers that a model shares with the reference, if sharing them equals two separate passes bit for bit."""
        models = self._models[0], self._models[index]
        shared = find_shared_layers(models, (self._hookpoints[0], self._hookpoints[index]))
        if shared is None:
            return None
        ids, mask = self._trial_documents()
        separate = self._read(0, ids, mask), self._read(index, ids, mask)
        with shared.recorded():
            reference = self._read(0, ids, mask)
        with shared.replayed():
            joint = reference, self._read(index, ids, mask)
        if all(torch.equal(one, other) for one, other in zip(separate, joint, strict=True)):
            return shared
        logger.debug("no layers are shared: layers above the last shared one read more than its output")
        return None

    def _try_prefix(self) -> bool:
        """Whether all models can continue from a cached prefix, up to rounding."""
        ids, mask = self._trial_documents()
        whole = self._read_all(self._shared, ids, mask)
        return self._agrees(mask, whole, lambda: self._read_from_prefix(ids, mask, _TRIAL_PREFIX))

    @staticmethod
    def _agrees(
        mask: Bool[Tensor, "document token"],
        whole: tuple[Float[Tensor, "document token _"], ...],
        continuing: Callable[[], tuple[Float[Tensor, "document token _"], ...]],
    ) -> bool:
        """Whether passes that continue from a cache work, and equal whole passes up to rounding."""
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
            logger.debug("prefixes are not reused: the models cannot continue from a cache (%r)", error)
            return False
        for one, other in zip(whole, continued, strict=True):
            difference = (one - other)[mask].float().norm(dim=1) / one[mask].float().norm(dim=1)
            if not difference.median() <= TOLERANCES[one.dtype]:
                logger.debug(
                    "prefixes are not reused: passes that continue from a cache differ by %.1e",
                    difference.median(),
                )
                return False
        return True

    def _trial_documents(self) -> tuple[Int[Tensor, "document token"], Bool[Tensor, "document token"]]:
        """Return three documents of different lengths with a common prefix, right-padded."""
        places = torch.arange(16, device=self._device)
        steps, lengths = torch.tensor([[3, 9], [5, 16], [7, 6]], device=self._device)[..., None].unbind(1)
        ids = torch.where(places < _TRIAL_PREFIX, 2 * places, steps * places)
        return ids % min(map(vocabulary_size, self._models)), places < lengths
