"""The loaded language models of a pair, with shared weights and the adapter of each."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import Tensor, nn


class Networks:
    """Reference, intervened model, then the snapshots between them, earliest first, in eval mode."""

    def __init__(
        self,
        models: tuple[nn.Module, ...],
        adapters: tuple[PeftModel | None, ...] | None = None,
        adapter_names: tuple[str | None, ...] | None = None,
        base_tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        """
        Args:
            models: The same object more than once for adapters that share its weights, a context, or a model compared with itself.
            adapters: The model around each of `models`, if it has an adapter.
            adapter_names: The active adapter of each model.
            base_tensors: Weights of the reference under their names without an adapter; None: none has been attached to it.
        """
        self.models, self.base_tensors = models, base_tensors
        self.adapters = adapters or (None,) * len(models)
        self.adapter_names = adapter_names or (None,) * len(models)
        # Hooks and active adapters are state of the models, so only one thread may use them at a time.
        self.lock = threading.RLock()
        self._wrappers = {
            id(adapter.get_base_model()): adapter for adapter in self.adapters if adapter is not None
        }
        self._active: dict[int, str | None] = {
            network: str(adapter.active_adapter) for network, adapter in self._wrappers.items()
        }

    @property
    def own_copies(self) -> bool:
        """Whether each adapter has a copy of the reference's weights of its own."""
        return bool(self._wrappers) and id(self.models[0]) not in self._wrappers

    @contextmanager
    def switched(self, model: int) -> Iterator[Any]:
        """Switch to the adapter of one model, or switch all adapters off, and yield the plain transformers model.

        The previous adapter is restored afterwards.
        """
        with self.lock:
            network = self.models[model]
            if id(network) not in self._wrappers:
                yield network
                return
            before = self._active[id(network)]
            self._switch(network, self.adapter_names[model])
            try:
                yield network
            finally:
                self._switch(network, before)

    def _switch(self, network: nn.Module, name: str | None) -> None:
        """Activate one adapter of a network, or none.

        `disable_adapter` of peft visits every layer first, which takes longer than a pass over a few tokens.
        """
        adapter, active = self._wrappers[id(network)], self._active[id(network)]
        if name == active:
            return
        tuner: Any = adapter.base_model
        if name is None:
            tuner.disable_adapter_layers()
        else:
            if active is None:
                tuner.enable_adapter_layers()
            if adapter.active_adapter != name:
                adapter.set_adapter(name)
            adapter.requires_grad_(False)  # peft makes the active adapter trainable
        self._active[id(network)] = name
