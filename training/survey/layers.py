"""At which layers two models part: their activations on the same tokens, layer by layer.

    CKA      similarity of the tokens' geometry: 1 for the same up to rotation and scale, about 0 for unrelated ones
    change   E‖intervened - reference‖² / E‖reference - mean‖², where the widths are equal

CKA (Kornblith et al. 2019, section 3) is biased upward where there are fewer tokens than directions, so it is made of the
unbiased estimator of HSIC (Song et al. 2012; Nguyen, Raghu & Kornblith 2021, equation 3). It may lie a little below 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def aligned_layers(
    n_reference: int, n_intervened: int, hookpoints: tuple[int, int] | None = None
) -> list[tuple[int, int]]:
    """Pairs of states at equal relative depth, one for each state of the reference; both count their embeddings as 0.

    Args:
        hookpoints: States that are compared with each other whatever their depth.
    """
    scale = (n_intervened - 1) / max(1, n_reference - 1)
    pairs = {
        index: index if n_reference == n_intervened else round(index * scale) for index in range(n_reference)
    }
    return list((pairs | dict([hookpoints] if hookpoints else [])).items())


def compare_layers(
    reference: Sequence[Float[Tensor, "token _"]],
    intervened: Sequence[Float[Tensor, "token _"]],
    hookpoints: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """CKA and change of every pair of states; the same tokens, in the same order, in all of them."""
    compared = []
    for one, other in aligned_layers(len(reference), len(intervened), hookpoints):
        left, right = reference[one].double(), intervened[other].double()
        compared.append(
            {
                "reference": one,
                "intervened": other,
                "cka": unbiased_cka(left, right),
                "change": relative_change(left, right),
            }
        )
    return compared


def relative_change(
    reference: Float[Tensor, "token one"], intervened: Float[Tensor, "token other"]
) -> float | None:
    """E‖intervened - reference‖² / E‖reference - mean‖²; None where the widths differ or the reference does not vary."""
    if reference.shape != intervened.shape:
        return None
    variance = (reference - reference.mean(dim=0)).square().sum()
    return float((intervened - reference).square().sum() / variance) if variance > 0 else None


def unbiased_cka(one: Float[Tensor, "token one"], other: Float[Tensor, "token other"]) -> float | None:
    """Linear CKA from the unbiased estimator of HSIC; None for fewer than four tokens, or where one side does not vary."""
    if len(one) < 4:
        return None
    kernels = [part @ part.T for part in (one.double(), other.double())]
    own = [_unbiased_hsic(kernel, kernel) for kernel in kernels]
    if min(own) <= 0:
        return None
    return float(_unbiased_hsic(*kernels) / (own[0] * own[1]) ** 0.5)


def _unbiased_hsic(one: Float[Tensor, "token token"], other: Float[Tensor, "token token"]) -> float:
    """HSIC₁ of two Gram matrices."""
    n = len(one)
    left, right = (kernel - torch.diag(kernel.diagonal()) for kernel in (one, other))
    trace = (left * right).sum()
    sums = left.sum() * right.sum() / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (left.sum(dim=0) @ right.sum(dim=0))
    return float((trace + sums - cross) / (n * (n - 3)))
