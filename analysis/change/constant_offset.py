"""The constant offset: the mean of x^intervened - x^reference, one for each class of tokens, and the evidence that it is constant.

The mean of any difference is some vector. To be called an offset it must pass three tests:

    explains   On documents that it was not fitted on (four folds), it explains a share of E‖Δx‖² whose interval is above 0. Held out, the
               share has no bias: a mean fitted to noise explains less than nothing elsewhere.
    p          Its length is beyond that of differences without a mean: the sums of blocks of documents with random signs
               (‖Σ_b ε_b s_b‖² without its diagonal, the statistic of Chen and Qin 2010), Holm's correction over classes.
    carried    It is on the tokens, not only in their mean: on at least three quarters of them ⟨Δx, c⟩ is at least half of ‖c‖². Latents that
               fire on few tokens, with positive values, also move the mean, but are absent elsewhere.

It claims that one vector is added to most tokens of the class. It does not say why, and a latent that fires on nearly all tokens is the
same thing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch, ActivationReader, split_models

from ..latents.block_sums import BlockSums
from ..latents.held_out_sums import HeldOut, HeldOutSums, Inputs
from ..latents.ordered_sums import OrderedSums, under, with_prefixes
from .block_shares import MIN_BLOCKS, Share, permutation_p, share_of
from .position_classes import PositionClasses

FOLDS = 4
"""Folds of documents: what is fitted on three is applied to the fourth. Block b belongs to fold b mod 4."""

CARRIED = 0.75
"""Smallest share of the tokens that must have at least half of the offset along it."""

LEVEL = 0.05
"""Largest corrected p-value of an element that is established."""

_DRAWS = 999
_SAMPLE_TOKENS = 8192


@dataclass(frozen=True)
class OffsetSums:
    """Sums over held-out tokens, per block of documents and class of tokens; raw units."""

    names: tuple[str, ...]
    count: Float64[Tensor, "block kind"]
    difference: Float64[Tensor, "block kind d_model"]
    """Sum of x^intervened - x^reference."""
    square: Float64[Tensor, "block kind"]
    """Sum of its squared length."""
    middle: Float64[Tensor, " d_model"]
    """Mean of (x^reference + x^intervened) / 2 over all tokens."""

    @property
    def totals(self) -> Float64[Tensor, " block"]:
        """Σ‖Δx‖² per block."""
        return self.square.sum(dim=1)


@dataclass(frozen=True)
class OffsetClass:
    """The offset of one class of tokens."""

    name: str
    tokens: int
    token_share: float
    vector: Float64[Tensor, " d_model"]
    """Mean difference over all tokens of the class, raw units."""
    share: Share
    """Share of E‖Δx‖² over all tokens that the offset explains on the tokens of the class."""
    p: float
    """Corrected for the number of classes."""
    typical: float
    """Median over tokens of ⟨Δx, c⟩ / ‖c‖²."""
    carried: float
    """Share of its tokens on which that is at least one half."""
    cosine: float
    """Cosine with the offset of the class that explains most."""
    established: bool

    def record(self) -> dict[str, Any]:
        """Return its entry in summary.json."""
        return {
            "name": self.name,
            "tokens": self.tokens,
            "token_share": self.token_share,
            "norm": float(self.vector.norm()),
            **self.share.record(),
            "p": self.p,
            "typical": self.typical,
            "carried": self.carried,
            "cosine": self.cosine,
            "established": self.established,
        }


@dataclass(frozen=True)
class ConstantOffset:
    """The offsets of all classes of tokens that occur."""

    classes: tuple[OffsetClass, ...]
    share: Share
    """Share of E‖Δx‖² of all classes together, established or not."""
    fitted: Float64[Tensor, "fold kind d_model"]
    """Offsets fitted without each fold; 0 where a class is not established, so that they can be subtracted as they are."""
    claimed: tuple[bool, ...]
    """Whether each class of `OffsetSums.names` is established."""
    reason: str
    """Why nothing is established; empty if something is."""

    @property
    def established(self) -> bool:
        """Whether any class has an offset."""
        return any(self.claimed)

    def directions(self) -> Float64[Tensor, "kind d_model"]:
        """Return the established offsets."""
        rows = [entry.vector for entry in self.classes if entry.established]
        return torch.stack(rows) if rows else self.fitted.new_zeros(0, self.fitted.shape[2])

    def record(self) -> dict[str, Any]:
        """Return the section `offset`."""
        return {
            **self.share.record(),
            "established": self.established,
            "reason": self.reason,
            "classes": [entry.record() for entry in self.classes],
        }


class OffsetAccumulator(HeldOutSums):
    """Accumulates `OffsetSums`, without the dictionary. Memory: 8 bytes per block, class and dimension."""

    N_CLASSES: ClassVar[int | None] = None

    def __init__(self, d_models: tuple[int, ...], classes: PositionClasses, n_blocks: int, seed: int) -> None:
        self._d_models, self._classes = d_models, classes
        self._blocks = BlockSums(n_blocks, 1, seed)
        shape = (n_blocks, len(classes.names))
        self._sums = {
            "count": torch.zeros(shape, dtype=torch.float64),
            "square": torch.zeros(shape, dtype=torch.float64),
            "difference": torch.zeros(*shape, d_models[0], dtype=torch.float64),
        }
        self._middle = torch.zeros(d_models[0], dtype=torch.float64)
        """Of the current group."""
        self._middles = OrderedSums()

    @classmethod
    def begin(cls, held_out: HeldOut, inputs: Inputs) -> Self:
        """See `HeldOutSums.begin`. It needs no inputs."""
        config = held_out.config
        classes = PositionClasses(held_out.context, config.tokens.mask_first)
        return cls(held_out.reader.d_models, classes, config.analysis.bootstrap_blocks, config.seed)

    def update(self, batch: ActivationBatch, rows: Int64[np.ndarray, " token"] | None = None) -> None:
        """See `HeldOutSums.update`."""
        one, other = (part.double() for part in split_models(batch.values.cpu(), self._d_models)[:2])
        delta = other - one
        kind = self._classes.of(batch.document, batch.position)
        index = self._blocks.blocks(batch.document) * len(self._classes.names) + kind
        count = self._sums["count"].view(-1)
        count += torch.bincount(index, minlength=len(count))
        self._sums["square"].view(-1).index_add_(0, index, delta.square().sum(dim=1))
        self._sums["difference"].view(len(count), -1).index_add_(0, index, delta)
        self._middle += (one.sum(dim=0) + other.sum(dim=0)) / 2

    def end_group(self, number: int) -> None:
        """See `HeldOutSums.end_group`."""
        self._middles.add(number, {"middle": self._middle})
        self._middle = torch.zeros_like(self._middle)

    def tensors(self) -> dict[str, Tensor]:
        """See `HeldOutSums.tensors`."""
        return with_prefixes({"blocks": self._sums, "middle": self._middles.tensors()})

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """See `HeldOutSums.join`."""
        for name, value in under(tensors, "blocks").items():
            self._sums[name] += value
        self._middles.join(under(tensors, "middle"))

    def result(self) -> OffsetSums:
        """Return the sums of all groups."""
        middle = self._middles.total()["middle"] / self._sums["count"].sum().clamp_min(1)
        return OffsetSums(self._classes.names, **self._sums, middle=middle)


def folds_of(n_blocks: int) -> Int64[Tensor, " block"]:
    """Return the fold of each block of documents."""
    return torch.arange(n_blocks) % FOLDS


def fit_offset(
    sums: OffsetSums,
    reader: ActivationReader,
    classes: PositionClasses,
    confidence: float,
    seed: int,
) -> ConstantOffset:
    """Fit the offsets, and test each. `reader` gives a sample of tokens for the median."""
    fold = folds_of(len(sums.count))
    fitted = torch.stack([_mean(sums, fold != left_out) for left_out in range(FOLDS)])
    explained = (fitted[fold] * sums.difference).sum(dim=2)
    along = _along(sums, reader, classes, fitted, seed)
    carried = [float((values >= 0.5).double().mean()) if len(values) else 0.0 for values in along]
    present = [kind for kind in range(len(sums.names)) if float(sums.count[:, kind].sum())]
    p_values = holm([_sign_p(sums.difference[:, kind], seed) for kind in present])
    whole = _mean(sums, torch.ones(len(fold), dtype=torch.bool))
    largest = max(present, key=lambda kind: float(explained[:, kind].sum()))
    enough = int((sums.totals > 0).sum()) >= MIN_BLOCKS
    entries, claimed = [], [False] * len(sums.names)
    for kind, p in zip(present, p_values, strict=True):
        share = share_of(explained[:, kind], sums.totals, confidence)
        claimed[kind] = enough and share.above_zero and p <= LEVEL and carried[kind] >= CARRIED
        tokens = int(sums.count[:, kind].sum())
        entries.append(
            OffsetClass(
                name=sums.names[kind],
                tokens=tokens,
                token_share=tokens / float(sums.count.sum()),
                vector=whole[kind],
                share=share,
                p=p,
                typical=float(along[kind].median()) if len(along[kind]) else 0.0,
                carried=carried[kind],
                cosine=float(torch.cosine_similarity(whole[kind], whole[largest], dim=0)),
                established=claimed[kind],
            )
        )
    kept = torch.tensor(claimed, dtype=torch.float64)[None, :, None]
    share = share_of(explained.sum(dim=1), sums.totals, confidence)
    return ConstantOffset(
        tuple(entries), share, fitted * kept, tuple(claimed), _reason(entries, claimed, enough)
    )


def holm(p_values: list[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the same order."""
    order = np.argsort(p_values)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _reason(entries: list[OffsetClass], claimed: list[bool], enough: bool) -> str:
    if any(claimed):
        return ""
    if not enough:
        return f"fewer than {MIN_BLOCKS} blocks of held-out documents"
    if all(entry.p > LEVEL or not entry.share.above_zero for entry in entries):
        return "a mean fitted on some documents explains nothing on the others beyond chance"
    return "the mean comes from some tokens: on more than a quarter of them less than half of it is there"


def _mean(sums: OffsetSums, blocks: Tensor) -> Float64[Tensor, "kind d_model"]:
    return sums.difference[blocks].sum(dim=0) / sums.count[blocks].sum(dim=0).clamp_min(1)[:, None]


def _sign_p(sums: Float64[Tensor, "block d_model"], seed: int) -> float:
    """Return the p-value of ‖Σ_b s_b‖² without its diagonal, against random signs of the blocks."""
    gram = sums @ sums.T
    gram.fill_diagonal_(0)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (_DRAWS, len(sums)), generator=generator).double() * 2 - 1
    return permutation_p(float(gram.sum()), ((signs @ gram) * signs).sum(dim=1))


def _along(
    sums: OffsetSums,
    reader: ActivationReader,
    classes: PositionClasses,
    fitted: Float64[Tensor, "fold kind d_model"],
    seed: int,
) -> list[Float64[Tensor, " _"]]:
    """Return ⟨Δx, c⟩ / ‖c‖² of a sample of tokens of each class, with c fitted without their fold."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(reader.n_tokens, generator=generator)[:_SAMPLE_TOKENS].sort().values
    batch: ActivationBatch = reader.gather(rows)
    kind = classes.of(batch.document, batch.position)
    block = BlockSums(len(sums.count), 1, seed).blocks(batch.document)
    reference, intervened = (part.double() for part in split_models(batch.values.cpu(), reader.d_models)[:2])
    vector = fitted[block % FOLDS, kind]
    along = ((intervened - reference) * vector).sum(dim=1) / vector.square().sum(dim=1).clamp_min(1e-300)
    return [along[kind == index] for index in range(len(sums.names))]
