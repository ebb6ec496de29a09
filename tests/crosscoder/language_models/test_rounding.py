import pytest
import torch
from torch import nn

from crosscoder.errors import ConfigError
from crosscoder.language_models.rounding import round_weights, rounded


@pytest.mark.parametrize(("bits", "group"), [(2, 8), (4, 32), (8, 32), (8, 64)])
def test_no_weight_moves_by_more_than_half_a_step(bits: int, group: int):
    weight = torch.randn(48, 64)
    found, steps = round_weights(weight, bits, group)
    bound = steps.repeat_interleave(group, 1) / 2
    moved = (found - weight).abs()
    assert (moved <= bound * (1 + 1e-5)).all()
    assert moved.max() > 0.4 * bound.max()


def test_a_group_has_no_more_levels_than_its_bits_and_keeps_its_largest_weight():
    weight = torch.randn(20, 64)
    found, _ = round_weights(weight, 3, 32)
    for before, after in zip(weight.view(-1, 32), found.view(-1, 32), strict=True):
        assert len(after.unique()) <= 2**3 - 1
        assert after.abs().max().item() == pytest.approx(before.abs().max().item(), rel=1e-6)


def test_many_bits_leave_the_weights_unchanged():
    weight = torch.randn(20, 64)
    for bits in (16, 20):
        found, _ = round_weights(weight, bits, 32)
        assert torch.allclose(found, weight, atol=weight.abs().max().item() / 2**bits * 1.01)


def test_a_group_of_zeros_stays_zero():
    weight = torch.cat([torch.zeros(3, 32), torch.randn(3, 32)], 1)
    found, _ = round_weights(weight, 4, 32)
    assert not found[:, :32].any()
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    ("bits", "group", "message"),
    [
        (1, 32, "bits: 1 is too few; .* at least 2"),
        (8, 24, "group: 24 does not divide a row of 64"),
    ],
)
def test_invalid_roundings_are_refused(bits: int, group: int, message: str):
    with pytest.raises(ConfigError, match=message):
        round_weights(torch.zeros(2, 64), bits, group)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 4), nn.Linear(4, 3)

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_a_rounded_model_is_restored_whatever_happens_inside():
    network = Network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inside = rounded(network, bits=4)

    def fails() -> None:
        with inside:
            assert not torch.equal(network.body.weight, before["body.weight"])
            assert torch.equal(network.head.weight, before["head.weight"])
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
