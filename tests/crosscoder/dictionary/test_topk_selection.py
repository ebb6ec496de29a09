"""The blockwise search finds the same firings as the dense rule, whatever bound it starts from."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crosscoder.dictionary import topk_selection
from crosscoder.dictionary.sparse_latents import SparseLatents
from crosscoder.dictionary.sparsity import mask_largest
from crosscoder.dictionary.topk_selection import (
    BatchSelection,
    PreLatents,
    TokenSelection,
    kth_largest,
    mask_largest_per_token,
    pre_latent_bounds,
    round_down,
)
from tests.dictionaries import KINDS, SHAPES, raw_activations, small_crosscoder


def pre_latents_of(values: Tensor, dtype: torch.dtype = torch.float64) -> PreLatents:
    """Return pre-latents with exactly these values: every latent reads one axis."""
    width = values.shape[1]
    return PreLatents(
        torch.eye(width, dtype=values.dtype), torch.zeros(width, dtype=values.dtype), values.to(dtype)
    )


def scores_of(n_tokens: int, n_latents: int, ties: bool, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n_tokens, n_latents, generator=generator, dtype=torch.float64)
    return (2 * values).round() / 2 if ties else values


def naive_batch(scores: Tensor, keep: int) -> Tensor:
    """Return the mask of the `keep` largest positive scores; ties go to the lower latent, then to the earlier token."""
    places = [(-float(scores[t, j]), j, t) for t, j in (scores > 0).nonzero().tolist()]
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for _, latent, token in sorted(places)[:keep]:
        mask[token, latent] = True
    return mask


cases = given(
    n_tokens=st.integers(1, 40),
    n_latents=st.integers(1, 60),
    share=st.floats(0, 1.2),
    ties=st.booleans(),
    seed=st.integers(0, 1000),
)


@cases
@settings(max_examples=60, deadline=None)
def test_batch_selection_keeps_the_largest(
    n_tokens: int, n_latents: int, share: float, ties: bool, seed: int
) -> None:
    values, norms = scores_of(n_tokens, n_latents, ties, seed), torch.arange(1, n_latents + 1).double()
    keep = round(share * n_tokens * n_latents)
    found = BatchSelection()(pre_latents_of(values), norms, keep)
    mask = naive_batch(values * norms, keep)
    assert torch.equal(found.dense(), values * mask)


@cases
@settings(max_examples=60, deadline=None)
def test_token_selection_keeps_the_largest_of_every_token(
    n_tokens: int, n_latents: int, share: float, ties: bool, seed: int
) -> None:
    values, norms = scores_of(n_tokens, n_latents, ties, seed), torch.arange(1, n_latents + 1).double()
    keep = round(share * n_latents)
    found = TokenSelection()(pre_latents_of(values), norms, keep)
    rows = [naive_batch(row[None] * norms, keep)[0] for row in values]
    assert torch.equal(found.dense(), values * torch.stack(rows))


def weak(values: Tensor) -> None:
    values[1] *= 0.1  # Between the sampled tokens.


def few_positive(values: Tensor) -> None:
    values[0] = -1.0  # A sampled token.
    values[0, :3] = 1.0


def all_equal(values: Tensor) -> None:
    values[1] = 0.1


@pytest.mark.parametrize("change", [weak, few_positive, all_equal])
def test_tokens_below_the_bound_do_not_widen_the_search(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], None]
) -> None:
    """The masks pad every token to the widest one, so a few weak tokens must not bring all of their pre-latents."""
    widest: list[int] = []
    mask = topk_selection.mask_largest_per_token

    def measured(found: SparseLatents, scores: Tensor, keep: int) -> Tensor:
        widest.append(int(found.first_of_token.diff().max()))
        return mask(found, scores, keep)

    monkeypatch.setattr(topk_selection, "mask_largest_per_token", measured)
    values, norms = scores_of(640, 400, False, 0), torch.ones(400).double()
    change(values)
    found = TokenSelection()(pre_latents_of(values), norms, 8)
    assert torch.equal(found.first_of_token.diff(), (values > 0).sum(dim=1).clamp(max=8))
    assert widest[0] < 60


@pytest.mark.parametrize("ties", [False, True])
def test_the_initial_bound_does_not_change_the_result(ties: bool) -> None:
    """Otherwise a resumed training would differ from an uninterrupted one."""
    norms = torch.rand(50).double() + 0.5
    for seed in range(10):
        pre_latents = pre_latents_of(scores_of(40, 50, ties, seed))
        expected = BatchSelection()(pre_latents, norms, 200)
        for bound in (0.0, 0.3, 1.0, 3.0, 1000.0):
            selection_ = BatchSelection()
            selection_._bound = bound
            found = selection_(pre_latents, norms, 200)
            assert torch.equal(found.dense(), expected.dense()), bound
            assert torch.equal(found.token, expected.token)


def test_the_search_continues_below_a_bound_that_is_too_high(monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control of the test above: the search does restart."""
    looks: list[float] = []
    above = PreLatents.above

    def counted(self: PreLatents, bounds: Tensor) -> topk_selection.Entries:
        looks.append(float(bounds.min()))
        return above(self, bounds)

    monkeypatch.setattr(PreLatents, "above", counted)
    select, norms = BatchSelection(), torch.ones(50).double()
    select(pre_latents_of(scores_of(200, 50, False, 0)), norms, 1000)
    assert len(looks) == 1
    select(pre_latents_of(scores_of(200, 50, False, 1)), norms, 1000)
    assert len(looks) == 2
    assert 0 < looks[1] < 1.5
    select(pre_latents_of(0.5 * scores_of(200, 50, False, 2)), norms, 1000)
    assert len(looks) == 4
    assert looks[3] < looks[2]


def test_a_latent_that_writes_nothing_never_fires() -> None:
    norms = torch.tensor([1.0, 0.0, 2.0]).double()
    values = torch.ones(4, 3).double()
    for select, keep in ((BatchSelection(), 12), (TokenSelection(), 3)):
        assert torch.equal(select(pre_latents_of(values), norms, keep).latent.unique(), torch.tensor([0, 2]))


@pytest.mark.parametrize("block_bytes", [64, 4096, 1 << 22])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_blocks_find_what_the_whole_product_holds(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, dtype: torch.dtype
) -> None:
    monkeypatch.setitem(topk_selection._BLOCK_BYTES, "cpu", block_bytes)
    generator = torch.Generator().manual_seed(0)
    # Small integers, whose products and sums are exact in every precision.
    tokens = torch.randint(-3, 4, (33, 7), generator=generator).double()
    encoder = torch.randint(-3, 4, (7, 101), generator=generator).double()
    bias = torch.randint(-3, 4, (101,), generator=generator).double()
    bounds = torch.arange(101).double() % 7
    whole = tokens @ encoder + bias
    found = PreLatents(encoder, bias, tokens.to(dtype)).above(bounds)
    assert torch.equal(torch.stack([found.latent, found.token], dim=1), (bounds[:, None] < whole.T).nonzero())
    assert torch.equal(found.value, whole[found.token, found.latent])


def test_numbers_are_rounded_down_by_at_most_one_step() -> None:
    values = torch.cat([torch.rand(1000) * 10, torch.tensor([0.0, 1e-30, 1.0, torch.inf])])
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        rounded = round_down(values, dtype).float()
        assert (rounded <= values).all()
        finite = values.isfinite() & (values > 1e-3)
        assert (rounded[finite] >= values[finite] * (1 - 2 * torch.finfo(dtype).eps)).all()
    assert (torch.rand(1000).bfloat16().float() > torch.rand(1000)).any()


def test_the_bound_of_a_score_loses_no_entry() -> None:
    norms = torch.rand(1000) + 0.01
    entries = torch.rand(1000) * 3
    scores = entries * norms
    for score in scores[:50].tolist():
        assert (entries[scores > score] > pre_latent_bounds(score, norms)[scores > score]).all()


def test_kth_largest() -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, 2.0, 5.0])
    assert [kth_largest(scores, k) for k in range(1, 6)] == [5, 3, 2, 2, 1]


def test_largest_of_tokens_leaves_short_tokens_whole() -> None:
    code = torch.tensor([[1.0, 2.0, 0.0, 3.0], [0.0, 0.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    sparse_latents = SparseLatents.from_dense(code)
    assert mask_largest_per_token(sparse_latents, sparse_latents.value, 2).tolist() == [
        False,
        True,
        True,
        True,
    ]
    assert mask_largest_per_token(sparse_latents, sparse_latents.value, 0).tolist() == [False] * 4


def test_both_training_rules_of_batch_topk_agree() -> None:
    """`sparsity.mask_largest` on the dense scores, and the blockwise search."""
    for seed in range(5):
        scores = scores_of(64, 80, False, seed)
        found = BatchSelection()(pre_latents_of(scores), torch.ones(80).double(), 300)
        assert torch.equal(found.dense() > 0, mask_largest(scores, 300) & (scores > 0))


# --- inference --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_firings_are_the_code_without_its_zeros(kind: str, shape: str) -> None:
    crosscoder = small_crosscoder(kind, shape).double()
    activations = raw_activations(SHAPES[shape], 200, seed=3).double()
    code = crosscoder.encode(activations)
    sparse_latents = crosscoder.encode_sparse(activations)
    torch.testing.assert_close(sparse_latents.dense(), code)
    assert len(sparse_latents) == int((code > 0).sum()) > 0
    decoded, expected = crosscoder.decode(sparse_latents), crosscoder.decode(code)
    for part, other in zip(decoded, expected, strict=True):
        torch.testing.assert_close(part, other)


@pytest.mark.parametrize("kind", KINDS)
def test_folding_changes_no_firing(kind: str) -> None:
    crosscoder = small_crosscoder(kind, "two_unequal").double()
    activations = raw_activations(SHAPES["two_unequal"], 200, seed=3).double()
    torch.testing.assert_close(
        crosscoder.fold().encode_sparse(activations).dense(), crosscoder.encode_sparse(activations).dense()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_tokens_have_no_firings(kind: str) -> None:
    sparse_latents = small_crosscoder(kind, "two").encode_sparse(torch.zeros(0, 12))
    assert len(sparse_latents) == 0
    assert sparse_latents.shape == (0, 24)
