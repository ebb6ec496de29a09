"""The loaded language models of a pair, with shared weights and the adapter of each."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import nn


class Networks:
    """Reference, intervened model, then the snapshots between them, earliest first, in eval mode."""

    def __init__(
        self,
        models: tuple[nn.Module, ...],
        adapter: PeftModel | None = None,
        adapter_names: tuple[str | None, ...] | None = None,
    ) -> None:
        """
        Args:
            models: The same object more than once for an adapter, a context, or a model compared with itself.
            adapter: The reference with all adapters; None if there are none.
            adapter_names: The active adapter of each model; None: no model has one.
        """
        self.models, self.adapter = models, adapter
        self.adapter_names = adapter_names or (None,) * len(models)
        # Hooks and active adapters are state of the models, so only one thread may use them at a time.
        self.lock = threading.RLock()
        self._active: str | None = None if adapter is None else str(adapter.active_adapter)

    @contextmanager
    def switched(self, model: int) -> Iterator[Any]:
        """Switch to the adapter of one model, or switch all adapters off, and yield the plain transformers model.

        The previous adapter is restored afterwards.
        """
        with self.lock:
            network = self.models[model]
            if self.adapter is None or network is not self.adapter.get_base_model():
                yield network
                return
            before = self._active
            self._switch(self.adapter, self.adapter_names[model])
            try:
                yield network
            finally:
                self._switch(self.adapter, before)

    def _switch(self, adapter: PeftModel, name: str | None) -> None:
        """Activate one adapter, or none.

        `disable_adapter` of peft visits every layer first, which takes longer than a pass over a few tokens.
        """
        if name == self._active:
            return
        tuner: Any = adapter.base_model
        if name is None:
            tuner.disable_adapter_layers()
        else:
            if self._active is None:
                tuner.enable_adapter_layers()
            if adapter.active_adapter != name:
                adapter.set_adapter(name)
            adapter.requires_grad_(False)  # peft makes the active adapter trainable
        self._active = name
