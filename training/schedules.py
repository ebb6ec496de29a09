"""Schedules: learning rate, k and sparsity penalty as functions of the training step."""

import math

from crosscoder.config import TrainingConfig
from crosscoder.config.open_settings import chosen


def n_steps(config: TrainingConfig) -> int:
    """Number of training steps of a run."""
    n_tokens = chosen(config.n_tokens, "training.n_tokens")
    return max(1, math.ceil(n_tokens / chosen(config.batch_tokens, "training.batch_tokens")))


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Learning rate at `step`: linear warm-up, plateau, linear decay to zero."""
    steps = n_steps(config)
    rising = (step + 1) / max(1.0, config.warmup * steps)
    falling = (steps - step) / max(1.0, config.decay * steps)
    return chosen(config.lr, "training.lr") * min(1.0, rising, falling)


def annealed_k(step: int, k: int | float, n_latents: int, config: TrainingConfig) -> float:
    """k (or target L0) at `step`: falls linearly from `k_start_multiple` · k to k, then stays."""
    over = config.k_anneal * n_steps(config)
    if step >= over:
        return float(k)
    start = min(config.k_start_multiple * k, n_latents)
    return start + (k - start) * step / over


def updated_penalty(penalty: float, l0: float, target: float) -> float:
    """One update of the sparsity penalty's controller: up if L0 is above its target, down if below."""
    return penalty * math.exp(0.01 * max(-1.0, min(1.0, (l0 - target) / target)))
