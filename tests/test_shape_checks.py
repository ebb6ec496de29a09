"""The checker behind annotations is on in `make check-shapes`; without this, a typing mistake in its options goes unseen."""

import jaxtyping
import pytest
import torch

from crosscoder.dictionary.metrics import VarianceExplained
from crosscoder.dictionary.sparse_latents import SparseLatents
from training.losses import squared_error


def test_a_wrong_shape_raises_in_every_package(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("jaxtyping_packages", None) is None:
        pytest.skip("annotations are checked by make check-shapes alone")
    flat, square = torch.zeros(3), torch.zeros(3, 3)
    VarianceExplained().update(square, square)
    SparseLatents.from_dense(square)
    squared_error(square, (3,))
    with pytest.raises(jaxtyping.TypeCheckError, match="update"):
        VarianceExplained().update(flat, flat)
    with pytest.raises(jaxtyping.TypeCheckError, match="from_dense"):
        SparseLatents.from_dense(flat)
    with pytest.raises(jaxtyping.TypeCheckError, match="squared_error"):
        squared_error(flat, (3,))
