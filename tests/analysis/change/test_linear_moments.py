import torch

from analysis.change.constant_offset import FOLDS
from analysis.change.linear_moments import LinearMoments, LinearMomentSums

WIDTH, KINDS, TOKENS = 6, 3, 500


def data() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x, delta, y = (torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64) + 1 for _ in range(3))
    fold = torch.randint(FOLDS, (TOKENS,), generator=generator)
    kind = torch.randint(KINDS, (TOKENS,), generator=generator)
    return x, delta, y, fold, kind


def moments_of(*columns: torch.Tensor, size: int = TOKENS) -> LinearMoments:
    sums = LinearMomentSums(KINDS, WIDTH)
    for rows in torch.arange(TOKENS).split(size):
        sums.update(*(column[rows] for column in columns))
    return sums.result()


def test_folds_add_up() -> None:
    moments = moments_of(*data())
    for fold in range(FOLDS):
        for part, rest, whole in zip(moments.of(fold), moments.without(fold), moments.whole(), strict=True):
            torch.testing.assert_close(part + rest, whole)


def test_batched_equals_whole() -> None:
    for one, other in zip(moments_of(*data()), moments_of(*data(), size=17), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_centered_products_are_those_of_deviations_from_the_means_of_other_documents() -> None:
    x, delta, y, fold, kind = data()
    moments = moments_of(x, delta, y, fold, kind)
    means = moments.without(1).means()
    found = moments.of(1).centered(means)
    rows, training = fold == 1, fold != 1
    deviations = []
    for values, mean in ((x, means.x), (delta, means.delta), (y, means.y)):
        naive = torch.stack([values[training & (kind == index)].mean(dim=0) for index in range(KINDS)])
        torch.testing.assert_close(mean, naive)
        deviations.append(values[rows] - naive[kind[rows]])
    one, between, other = deviations
    torch.testing.assert_close(found.xx, one.T @ one, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found.xy, one.T @ other, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found.delta_y, between.T @ other, rtol=1e-5, atol=1e-3)
