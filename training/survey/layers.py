"""How far two models differ at each layer, from their activations on the same tokens.

    CKA      similarity of the tokens' geometry: 1 if equal up to rotation and scale, about 0 if unrelated
    change   E‖intervened - reference‖² / E‖reference - mean‖², for equal widths

CKA (Kornblith et al. 2019, section 3) is biased upward with fewer tokens than dimensions, so it uses the unbiased estimator of HSIC
(Song et al. 2012; Nguyen, Raghu & Kornblith 2021, equation 3). It can therefore be slightly negative.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def aligned_layers(
    n_reference: int, n_intervened: int, hookpoints: tuple[int, int] | None = None
) -> list[tuple[int, int]]:
    """Pair each state of the reference with one of the intervened model at equal relative depth.

    State 0 is the input of the first decoder layer (the embeddings), and state i + 1 the output of layer i.

    Args:
        hookpoints: States that are paired regardless of depth.
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
    """Compute CKA and change for each pair of states; all states hold the same tokens in the same order."""
    rows = []
    for one, other in aligned_layers(len(reference), len(intervened), hookpoints):
        left, right = reference[one].double(), intervened[other].double()
        rows.append(
            {
                "reference": one,
                "intervened": other,
                "cka": unbiased_cka(left, right),
                "change": relative_change(left, right),
            }
        )
    return rows


def relative_change(
    reference: Float[Tensor, "token one"], intervened: Float[Tensor, "token other"]
) -> float | None:
    """E‖intervened - reference‖² / E‖reference - mean‖²; None if the widths differ or the reference is constant."""
    if reference.shape != intervened.shape:
        return None
    variance = (reference - reference.mean(dim=0)).square().sum()
    return float((intervened - reference).square().sum() / variance) if variance > 0 else None


def unbiased_cka(one: Float[Tensor, "token one"], other: Float[Tensor, "token other"]) -> float | None:
    """Linear CKA with the unbiased estimator of HSIC; None for fewer than four tokens, or if either side is constant."""
    if len(one) < 4:
        return None
    kernels = [part @ part.T for part in (one.double(), other.double())]
    variances = [_unbiased_hsic(kernel, kernel) for kernel in kernels]
    if min(variances) <= 0:
        return None
    return float(_unbiased_hsic(*kernels) / (variances[0] * variances[1]) ** 0.5)


def _unbiased_hsic(one: Float[Tensor, "token token"], other: Float[Tensor, "token token"]) -> float:
    """The unbiased estimator HSIC₁ of two Gram matrices."""
    n = len(one)
    left, right = (kernel - torch.diag(kernel.diagonal()) for kernel in (one, other))
    trace = (left * right).sum()
    sums = left.sum() * right.sum() / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (left.sum(dim=0) @ right.sum(dim=0))
    return float((trace + sums - cross) / (n * (n - 3)))
