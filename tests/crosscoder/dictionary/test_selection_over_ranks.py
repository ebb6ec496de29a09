"""Ranks that divide the latents select what one process selects, bit for bit."""

import pytest
import torch
from torch import Tensor

from crosscoder.dictionary.latent_ranks import GroupRanks
from crosscoder.dictionary.selection_over_ranks import kth_largest_over_ranks
from crosscoder.dictionary.sparsity import keep_largest_of_tokens, mask_largest, threshold_for
from crosscoder.dictionary.topk_selection import BatchSelection, PreLatents, TokenSelection
from crosscoder.runtime.process_group import process_group
from tests.groups import Group

N_TOKENS, N_LATENTS = 30, 40

NORMS = 0.5 + torch.arange(N_LATENTS) % 3


def scores(case: str) -> Tensor:
    """Pre-latents of `N_TOKENS` tokens and `N_LATENTS` latents."""
    values = torch.randn(N_TOKENS, N_LATENTS, generator=torch.Generator().manual_seed(3))
    match case:
        case "ties":  # few different values, so that many scores tie at the k-th
            return (2 * values).round() / 2
        case "all equal":
            return torch.ones_like(values) / NORMS
        case "few positive":
            return torch.where(torch.arange(N_LATENTS) % 13 == 5, values, -1)
        case "on one rank":
            return torch.where(torch.arange(N_LATENTS) < N_LATENTS // 2, values, -values.abs())
        case "none positive":
            return -values.abs()
        case "weak tokens":
            values[1::3] *= 0.01
            return values
        case _:
            return values


CASES = ("plain", "ties", "all equal", "few positive", "on one rank", "none positive", "weak tokens")
KEPT = (0, 1, 3, 17, N_LATENTS, N_LATENTS + 5)


def pre_latents_of(values: Tensor) -> PreLatents:
    """Pre-latents that a dictionary computes exactly: token t activates dimension t alone."""
    return PreLatents(values, torch.zeros(values.shape[1]), torch.eye(len(values)))


def selected(rank: int, size: int) -> dict[str, Tensor]:
    """Everything that is selected of the latents of one rank, as dense codes, by case; of all latents on a rank of one."""
    ranks = GroupRanks(process_group()) if size > 1 else None
    given = {} if ranks is None else {"ranks": ranks}
    held = slice(0, N_LATENTS) if ranks is None else slice(*_ends(ranks.range_of(N_LATENTS)))
    found: dict[str, Tensor] = {}
    for case in CASES:
        values, norms = scores(case)[:, held], NORMS[held]
        rectified = values.relu()
        for keep in KEPT:
            select = BatchSelection(**given)
            for turn in range(2):  # the second begins with the bound that the first predicts
                found[f"batch {case} {keep} {turn}"] = select(
                    pre_latents_of(values), norms, keep * N_TOKENS // 2
                ).dense()
            found[f"token {case} {keep}"] = TokenSelection(**given)(
                pre_latents_of(values), norms, keep
            ).dense()
            mask = mask_largest(rectified * norms, keep * N_TOKENS // 2, **given)
            found[f"dense batch {case} {keep}"] = rectified * mask
            found[f"dense token {case} {keep}"] = keep_largest_of_tokens(rectified, norms, keep, **given)
            if keep:
                flat = (rectified * norms).flatten()
                found[f"threshold {case} {keep}"] = torch.tensor(
                    threshold_for(flat, keep * N_TOKENS // 2, **given)
                )
    return found


def _ends(held: range) -> tuple[int, int]:
    return held.start, held.stop


def kth(values: Tensor, k: int) -> float:
    ranks = GroupRanks(process_group())
    return kth_largest_over_ranks(values[ranks.rank :: ranks.size], k, ranks)


def check(group: Group) -> None:
    alone = selected(0, 1)
    parts = group.run(selected_here)
    for name, whole in alone.items():
        if name.startswith("threshold"):
            assert all(torch.equal(part[name], whole) for part in parts), name
            continue
        divided = torch.cat([part[name] for part in parts], dim=1)
        if "dense" in name and ("ties" in name or "all equal" in name):
            # The dense rule of one process gives ties to any latent.
            assert float((divided * NORMS).sum()) == pytest.approx(float((whole * NORMS).sum())), name
            assert torch.equal((divided > 0).sum(), (whole > 0).sum()), name
        else:
            assert torch.equal(divided, whole), name


def selected_here() -> dict[str, Tensor]:
    return selected(process_group().rank, process_group().size)


def test_two_ranks_select_what_one_process_does(two_ranks: Group) -> None:
    check(two_ranks)


@pytest.mark.slow
def test_four_ranks_select_what_one_process_does(four_ranks: Group) -> None:
    check(four_ranks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kth_of_all_ranks_is_that_of_the_sorted_whole(two_ranks: Group, dtype: torch.dtype) -> None:
    values = torch.randn(201, generator=torch.Generator().manual_seed(0), dtype=dtype)
    positive = values[values > 0].sort(descending=True).values
    for k in (1, 2, len(positive) // 2, len(positive), len(positive) + 1):
        expected = float(positive[k - 1]) if k <= len(positive) else 0.0
        assert two_ranks.run(kth, values, k) == [expected, expected], k
