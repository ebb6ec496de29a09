"""The language models of a pair as they are run: which weights they share, and which adapter is on in each."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import nn


class Networks:
    """Reference, intervened model, then the snapshots between them in their order in time, in eval mode."""

    def __init__(
        self,
        models: tuple[nn.Module, ...],
        adapter: PeftModel | None = None,
        adapter_names: tuple[str | None, ...] | None = None,
    ) -> None:
        """
        Args:
            models: Entries are the same object for an adapter, a context, or a model compared with itself.
            adapter: The reference with all adapters; None where there are none.
            adapter_names: Of each model, the adapter that is on in it; None: there are none.
        """
        self.models, self.adapter = models, adapter
        self.adapter_names = adapter_names or (None,) * len(models)
        # Hooks and a switched adapter are states of the models, so only one thread may use them at a time.
        self.lock = threading.RLock()
        self._on: str | None = None if adapter is None else str(adapter.active_adapter)

    @contextmanager
    def switched(self, model: int) -> Iterator[Any]:
        """The plain transformers model of one side, with its adapter on, or with every adapter off in the reference; as it was
        before, afterwards."""
        with self.lock:
            network = self.models[model]
            if self.adapter is None or network is not self.adapter.get_base_model():
                yield network
                return
            before = self._on
            self._switch(self.adapter, self.adapter_names[model])
            try:
                yield network
            finally:
                self._switch(self.adapter, before)

    def _switch(self, adapter: PeftModel, name: str | None) -> None:
        """One adapter on, or none. Not by `disable_adapter` of peft, which first looks at every layer: that takes longer than a pass
        over a few tokens."""
        if name == self._on:
            return
        tuner: Any = adapter.base_model
        if name is None:
            tuner.disable_adapter_layers()
        else:
            if self._on is None:
                tuner.enable_adapter_layers()
            if adapter.active_adapter != name:
                adapter.set_adapter(name)
            adapter.requires_grad_(False)  # peft makes what it switches on trainable
        self._on = name
