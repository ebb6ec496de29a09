import pytest
import torch

from crosscoder.config import BatchTopK, DictionaryConfig
from crosscoder.dictionary.views import crosscoder_config, view_rows
from crosscoder.errors import ConfigError

SPARSITY = BatchTopK(k=2)
VALUES = torch.arange(24.0).reshape(4, 6)


def dictionary(reads: str) -> DictionaryConfig:
    return DictionaryConfig.model_validate({"reads": reads, "n_latents": 9, "sparsity": SPARSITY})


@pytest.mark.parametrize(
    ("d_models", "names"),
    [
        ((3,), ("reference",)),
        ((3, 3), ("reference", "intervened")),
        ((2, 4), ("reference", "intervened")),
        ((2, 2, 2), ("reference", "intervened", "snapshot_1")),
    ],
)
def test_paired_takes_every_model_on_its_axis(d_models: tuple[int, ...], names: tuple[str, ...]) -> None:
    config = crosscoder_config(dictionary("paired"), d_models)
    assert config.d_models == d_models
    assert config.model_names == names
    assert (config.n_latents, config.sparsity) == (9, SPARSITY)
    assert torch.equal(view_rows(VALUES, d_models, "paired"), VALUES)


@pytest.mark.parametrize("reads", ["pooled", "difference"])
def test_pooled_and_difference_have_one_model_on_their_axis(reads: str) -> None:
    config = crosscoder_config(dictionary(reads), (3, 3))
    assert config.d_models == (3,)
    assert config.model_names == (reads,)


@pytest.mark.parametrize("reads", ["pooled", "difference"])
@pytest.mark.parametrize("d_models", [(2, 4), (6,), (2, 2, 2)])
def test_pooled_and_difference_refuse_what_cannot_be_compared(reads: str, d_models: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=rf"crosscoder\.reads: '{reads}' needs two models of equal width"):
        crosscoder_config(dictionary(reads), d_models)


def test_pooled_presents_the_reference_first_and_then_the_intervened_model() -> None:
    rows = view_rows(VALUES, (3, 3), "pooled")
    assert torch.equal(rows, torch.cat([VALUES[:, :3], VALUES[:, 3:]]))
    assert not torch.equal(rows, VALUES.reshape(8, 3)), "not token by token"


def test_difference_is_intervened_minus_reference() -> None:
    assert torch.equal(view_rows(VALUES, (3, 3), "difference"), torch.full((4, 3), 3.0))


def test_difference_is_taken_in_float32() -> None:
    """In bfloat16, rounding errors of a difference would be as large as a small shift."""
    reference = torch.full((1, 3), 256.0)
    values = torch.cat([reference, reference + 2], dim=1).bfloat16()
    values[0, 0] = 1e-3
    result = view_rows(values, (3, 3), "difference")
    assert result.dtype == torch.float32
    assert float(result[0, 0]) != 258
    assert float((values[:, 3:] - values[:, :3])[0, 0]) == 258
