import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.change.constant_offset import ConstantOffset, OffsetAccumulator, fit_offset, holm
from analysis.change.position_classes import PositionClasses
from analysis.latents.token_context import RowContext, TokenContext
from tests.analysis.readers import MemoryReader

WIDTH, DOCUMENT = 16, 20
FIRST, TEMPLATE = slice(0, 2), slice(2, 5)
"""Positions of a document."""


class ChatContext(RowContext):
    """Positions 2 to 4 of every document are from the chat template."""

    has_template = True

    def template_at(self, document: Tensor, position: Tensor) -> Tensor:
        return (position >= 2) & (position < 5)


def fitted(
    difference: Tensor, *, chat: bool = False, n_blocks: int = 64, batch: int = 1000, seed: int = 0
) -> ConstantOffset:
    generator = torch.Generator().manual_seed(99)
    reference = torch.randn(difference.shape, generator=generator, dtype=torch.float64)
    reader = MemoryReader(torch.cat([reference, reference + difference], dim=1), (WIDTH, WIDTH), DOCUMENT)
    numbers = reader.document.numpy().astype(np.int64)
    context: TokenContext = ChatContext(numbers) if chat else RowContext(numbers)
    classes = PositionClasses(context, n_masked=0)
    sums = OffsetAccumulator(reader.d_models, classes, n_blocks, seed)
    for read in reader.batches(batch):
        sums.update(read)
    sums.end_group(0)
    return fit_offset(sums.result(), reader, classes, 0.95, seed)


def noise(n_tokens: int = 4000, seed: int = 0, size: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(n_tokens, WIDTH, generator=generator, dtype=torch.float64)


def vector(seed: int = 7) -> Tensor:
    return noise(1, seed)[0]


def test_a_constant_is_found_with_its_share() -> None:
    constant = vector()
    offset = fitted(noise() + constant)
    (entry,) = offset.classes
    square = float(constant.square().sum())
    assert offset.established and entry.established and offset.reason == ""
    assert offset.share.value == pytest.approx(square / (square + WIDTH), abs=0.02)
    assert offset.share.low is not None and offset.share.high is not None
    assert offset.share.low < square / (square + WIDTH) < offset.share.high
    assert entry.p == pytest.approx(0.001)
    assert entry.typical == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(entry.vector, constant, atol=0.06, rtol=0)
    torch.testing.assert_close(offset.directions(), entry.vector[None])


def test_without_a_mean_nothing_is_found() -> None:
    """Neither in noise, nor in differences that are equal within a document and random between documents."""
    by_document = noise(200, seed=1).repeat_interleave(DOCUMENT, dim=0)
    for seed in range(10):
        for difference in (noise(seed=seed), by_document.roll(seed, dims=1) + noise(seed=seed)):
            offset = fitted(difference, seed=seed)
            assert not offset.established
            assert offset.reason
            assert not offset.fitted.any()


def test_the_p_value_is_uniform_without_a_mean() -> None:
    values = [fitted(noise(400, seed), seed=seed).classes[0].p for seed in range(200)]
    assert np.mean(np.array(values) <= 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(np.array(values) <= 0.5) == pytest.approx(0.5, abs=0.1)


def test_the_held_out_share_of_noise_is_not_above_zero() -> None:
    """A mean fitted to the same tokens would explain 1 / n_tokens of the square."""
    shares = [fitted(noise(400, seed), seed=seed).share.value for seed in range(40)]
    assert np.mean(shares) == pytest.approx(0, abs=5e-4)


def test_a_latent_on_few_tokens_moves_the_mean_and_is_no_offset() -> None:
    fires = torch.rand(4000, 1, generator=torch.Generator().manual_seed(1)) < 0.1
    offset = fitted(noise(size=0.1) + 3 * fires * vector())
    assert offset.classes[0].p == pytest.approx(0.001)
    assert offset.classes[0].carried < 0.2
    assert not offset.established
    assert "some tokens" in offset.reason


def test_with_few_documents_nothing_is_established() -> None:
    offset = fitted(noise(10 * DOCUMENT, size=0.01) + vector())
    assert not offset.established
    assert offset.share.low is None
    assert "fewer than 12" in offset.reason


def test_exchanging_the_models_changes_the_sign_alone() -> None:
    difference = noise() + vector()
    one, other = fitted(difference), fitted(-difference)
    assert one.share == pytest.approx(other.share)
    torch.testing.assert_close(one.directions(), -other.directions())


def test_every_class_of_tokens_has_its_own_offset() -> None:
    position = torch.arange(4000) % DOCUMENT
    difference = noise(size=0.1)
    difference[position < 2] += vector(1)
    difference[(position >= 2) & (position < 5)] += vector(2)
    offset = fitted(difference, chat=True)
    by_name = {entry.name: entry for entry in offset.classes}
    assert offset.claimed == (True, True, False)
    assert (by_name["first"].tokens, by_name["template"].tokens) == (400, 600)
    torch.testing.assert_close(by_name["first"].vector, vector(1), atol=0.02, rtol=0)
    torch.testing.assert_close(by_name["template"].vector, vector(2), atol=0.02, rtol=0)
    assert not by_name["other"].established
    # The shares of the classes are of the whole difference, so they add up.
    assert sum(entry.share.value for entry in offset.classes) == pytest.approx(offset.share.value)
    assert not offset.fitted[:, 2].any()


def test_batches_and_documents_give_the_same_sums() -> None:
    difference = noise() + vector()
    assert fitted(difference, batch=7).share == pytest.approx(fitted(difference, batch=4000).share)


def test_masked_positions_are_not_the_first_tokens() -> None:
    document, position = torch.zeros(4, dtype=torch.int64), torch.arange(1, 5)
    classes = PositionClasses(ChatContext(np.zeros(8, dtype=np.int64)), n_masked=1)
    assert classes.of(document, position).tolist() == [0, 0, 1, 1]


def test_p_values_are_corrected_by_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
