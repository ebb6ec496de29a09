"""The optimizer of the intervened models."""

import torch
from torch import nn


class Descent:
    """AdamW on the trainable weights: linear warm-up, linear decay to zero, gradients clipped to norm 1."""

    def __init__(self, model: nn.Module, learning_rate: float, warmup_steps: int, steps: int) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=0.0)
        self._rates = [
            learning_rate * min(1.0, (step + 1) / warmup_steps) * (1 - step / steps) for step in range(steps)
        ]
        self._taken = 0

    def step(self) -> None:
        """Take one step with the gradients accumulated since the last one."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._rates[self._taken]
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._taken += 1
