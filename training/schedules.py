"""What changes over a run, as functions of the step."""

import math

from crosscoder.config import TrainingConfig


def n_steps(config: TrainingConfig) -> int:
    """Steps of a run."""
    return max(1, math.ceil(config.n_tokens / config.batch_tokens))


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, a plateau, then a linear fall to zero at the end."""
    steps = n_steps(config)
    rising = (step + 1) / max(1.0, config.warmup * steps)
    falling = (steps - step) / max(1.0, config.decay * steps)
    return config.lr * min(1.0, rising, falling)


def annealed_k(step: int, k: int | float, n_latents: int, config: TrainingConfig) -> float:
    """k of a step, or the L0 that it is steered to: falls linearly from `k_start_multiple` · k to k, then stays."""
    over = config.k_anneal * n_steps(config)
    if step >= over:
        return float(k)
    start = min(config.k_start_multiple * k, n_latents)
    return start + (k - start) * step / over


def steered_penalty(penalty: float, l0: float, target: float) -> float:
    """One move of the controller of a sparsity penalty: up where L0 is above its target, down where below."""
    return penalty * math.exp(0.01 * max(-1.0, min(1.0, (l0 - target) / target)))
