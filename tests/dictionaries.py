"""Small dictionaries of every kind and shape, with nontrivial weights, normalization and thresholds."""

import torch
from torch import Tensor

from crosscoder.config import BatchTopK, CrosscoderConfig, JumpReLU, ReLU, SparsityConfig, TopK
from crosscoder.config.model_names import model_names
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.sparsity import JumpReLUSparsity

KINDS: dict[str, SparsityConfig] = {
    "batch_topk": BatchTopK(k=4),
    "topk": TopK(k=4),
    "relu": ReLU(target_l0=4),
    "jumprelu": JumpReLU(target_l0=4),
}
SHAPES: dict[str, tuple[int, ...]] = {
    "one": (6,),
    "two": (6, 6),
    "two_unequal": (5, 8),
    "three": (4, 4, 4),
    "three_unequal": (3, 5, 7),
}


def raw_activations(d_models: tuple[int, ...], n_tokens: int = 64, seed: int = 0) -> Tensor:
    """Return activations whose mean and scale differ between models by an order of magnitude or more."""
    generator = torch.Generator().manual_seed(100 + seed)
    parts = [
        10.0 ** (index - 1) * (torch.randn(n_tokens, d_model, generator=generator) + 2 * index + 1)
        for index, d_model in enumerate(d_models)
    ]
    return torch.cat(parts, dim=1)


def small_crosscoder(kind: str, shape: str, n_latents: int = 24, seed: int = 0) -> Crosscoder:
    """Return a calibrated dictionary with random weights, whose norms differ between latents and between models."""
    d_models = SHAPES[shape]
    config = CrosscoderConfig(
        d_models=d_models, model_names=model_names(len(d_models)), n_latents=n_latents, sparsity=KINDS[kind]
    )
    crosscoder = Crosscoder(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for parameter in (crosscoder.W_enc, crosscoder.W_dec, crosscoder.b_enc, crosscoder.b_dec):
            parameter.add_(0.3 * noise(parameter))
        crosscoder.W_dec.mul_(noise(crosscoder.b_enc).exp()[:, None])
        if isinstance(crosscoder.sparsity, JumpReLUSparsity):
            crosscoder.sparsity.log_threshold.copy_(0.5 * noise(crosscoder.b_enc))
    sample = raw_activations(d_models, n_tokens=512, seed=7)
    crosscoder.set_normalization(sample)
    crosscoder.calibrate(sample)
    return crosscoder.eval()
