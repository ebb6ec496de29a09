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

    @contextmanager
    def switched(self, model: int) -> Iterator[Any]:
        """The plain transformers model of one side, with its adapter on, or with every adapter off in the reference."""
        with self.lock:
            network, name = self.models[model], self.adapter_names[model]
            if self.adapter is None or network is not self.adapter.get_base_model():
                yield network
            elif name is None:
                with self.adapter.disable_adapter():
                    yield network
                self.adapter.requires_grad_(False)  # peft makes what it switches on trainable
            else:
                if self.adapter.active_adapter != name:
                    self.adapter.set_adapter(name)
                    self.adapter.requires_grad_(False)
                yield network
