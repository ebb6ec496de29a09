"""Clipping of gradients by their norm, over all latents of a dictionary."""

from torch import Tensor
from torch.nn import utils
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.divided_weights import LATENT_DIMENSION


def clip_gradients(crosscoder: Crosscoder, largest: float) -> None:
    """Scale the gradients of all parameters so that their norm is `largest` at most.

    Where ranks divide the latents, the norm is that of all of them, and parameters that all ranks hold alike count once.
    """
    if crosscoder.ranks.alone:
        utils.clip_grad_norm_(crosscoder.parameters(), largest)
        return
    divided: list[Tensor] = []
    alike: list[Tensor] = []
    for name, parameter in crosscoder.named_parameters():
        if parameter.grad is not None:
            (divided if name in LATENT_DIMENSION else alike).append(parameter.grad)
    squares = crosscoder.ranks.sum(get_total_norm(divided).double().square())
    norm = (squares + get_total_norm(alike).double().square()).sqrt().to(alike[0].dtype)
    clip_grads_with_norm_(crosscoder.parameters(), largest, norm)
