"""Latent scaling on tokens that one model alone chooses, for the directions that seem to be in one model only.

A latent's own firings are chosen by both models, because the encoder reads both. A latent can therefore fire just where they differ: if a
model drops a feature on half of its tokens, one latent may take these tokens and look lost, while another takes the rest. Latent scaling on
the latent's firings then finds the feature absent, and says nothing about the feature.

Take latent j and its direction d in model S: the one with the larger decoder norm, or either for a latent whose two directions each seem to
be in one model only. The *content* of model M on token t is what M holds along d, without what latents of clearly different directions write:

    c^M_t = ⟨d, e^M_t + Σ_{i ∈ N} f_it d_i^M⟩ / ‖d‖²      N: latents that write along d (|cos| at least `NEAR`) into S or M, j included

T holds the tokens on which the content of S alone is at least half of the latent's mean activation. As in `latent_scaling`,

    nu_unselected = Σ_T c^S_t c^O_t / Σ_T (c^S_t)²         O: the other model

is near 0 if O lacks the direction wherever S has it, and near the share that O keeps otherwise. Everything is in training space.

The same pass counts how often two of these latents fire together (Jaccard index), which shows whether a lost direction was replaced by a
new one.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import normalize

from crosscoder.activations.batch import ActivationBatch
from crosscoder.config.model_names import MODEL_NAMES
from crosscoder.dictionary.sparse_latents import SparseLatents

from .bootstrap import BlockMoments
from .dictionary_view import PairedView
from .hashing import block_of
from .held_out_sums import HeldOut, HeldOutSums, Inputs
from .latent_scaling import Moments

NEAR = 0.8
"""Cosine from which another latent counts as writing along the direction."""

_CHOSEN_FROM = 0.5
"""Content that chooses a token, as a share of the latent's mean activation."""

# Latents asked about at a time, so that contents [token, asked] and neighbors stay small.
_CHUNK = 512


class UnselectedScaling(NamedTuple):
    """The sums of one pass, for the latents asked about."""

    moments: BlockMoments
    """By block: `own` Σ_T (c^S)², `other` Σ_T c^S c^O, `chosen` |T|."""
    jaccard: Float64[np.ndarray, "asked asked"]
    """Jaccard index of the firings of two latents; 0 on the diagonal."""

    def partner_jaccard(
        self, intervened_stronger: Bool[np.ndarray, " asked"]
    ) -> Float64[np.ndarray, " asked"]:
        """Return the largest Jaccard index of each latent with one that leans to the other model; 0 if there is none."""
        opposite = intervened_stronger[:, None] != intervened_stronger[None, :]
        return np.where(opposite, self.jaccard, 0.0).max(axis=1, initial=0.0)


def nu_unselected(moments: Moments) -> Float[Tensor, "*resample asked"]:
    """Return the share of the content that the other model holds; NaN if no token was chosen."""
    value = moments["other"] / moments["own"]
    return torch.where(value.isfinite(), value, torch.nan)


class _Asked(NamedTuple):
    """Some of the latents, with what a pass needs to compute their contents."""

    latents: Int64[Tensor, " asked"]
    near: Int64[Tensor, " near"]
    """Every latent that is near one of them, itself included."""
    readers: tuple[Float[Tensor, "asked _"], Float[Tensor, "asked _"]]
    """d / ‖d‖² in the space of each model."""
    written: tuple[Float[Tensor, "near asked"], Float[Tensor, "near asked"]]
    """⟨d, d_i^M⟩ / ‖d‖² of near latents, 0 for latents that are not near this one."""
    chosen_by_intervened: Bool[Tensor, " asked"]
    limit: Float[Tensor, " asked"]
    """Content that chooses a token."""


class UnselectedSums(HeldOutSums):
    """The sums of a pass for the latents asked about (`unselected_inputs`); the view must be aligned."""

    N_CLASSES: ClassVar[int | None] = None

    def __init__(self, view: PairedView, inputs: Inputs, n_blocks: int, seed: int) -> None:
        """`n_blocks`, `seed`: blocks of documents, as in `BlockSums`."""
        self._view, self._n_blocks, self._seed = view, n_blocks, seed
        self._latents = inputs["latents"]
        n_asked = len(self._latents)
        chunks = max(1, -(-n_asked // _CHUNK))
        asked = [
            inputs[name].tensor_split(chunks)
            for name in ("latents", "chosen_by_intervened", "mean_activation")
        ]
        self._parts = [_asked(view, *part) for part in zip(*asked, strict=True)]
        self._sums = {
            name: torch.zeros(n_blocks, n_asked, dtype=torch.float64) for name in ("own", "other", "chosen")
        }
        self._tokens = torch.zeros(n_blocks, dtype=torch.float64)
        self._together = torch.zeros(n_asked, n_asked, dtype=torch.float64)
        """Numbers of tokens, which float64 adds exactly in any order."""

    @classmethod
    def begin(cls, held_out: HeldOut, inputs: Inputs) -> Self:
        """See `HeldOutSums.begin`."""
        assert isinstance(held_out.view, PairedView)
        return cls(held_out.view, inputs, held_out.config.analysis.bootstrap_blocks, held_out.config.seed)

    def update(self, batch: ActivationBatch, rows: Int64[np.ndarray, " token"] | None = None) -> None:
        """See `HeldOutSums.update`."""
        document = batch.document.cpu().numpy().astype(np.int64)
        block = torch.from_numpy(block_of(document, self._n_blocks, self._seed))
        self._tokens.index_add_(0, block, torch.ones(len(block), dtype=torch.float64))
        codes, errors = self._view.codes_and_errors(batch.values)
        fired = _columns(codes, self._latents.to(codes.latent.device)).gt(0).double().cpu()
        self._together += fired.T @ fired
        start = 0
        for part in self._parts:
            columns = slice(start, start + len(part.latents))
            for name, values in _summands(part, codes, errors).items():
                self._sums[name][:, columns].index_add_(0, block, values)
            start = columns.stop

    def end_group(self, number: int) -> None:
        """See `HeldOutSums.end_group`. Every sum is of one block or of whole numbers."""

    def tensors(self) -> dict[str, Tensor]:
        """See `HeldOutSums.tensors`."""
        return {**self._sums, "tokens": self._tokens, "together": self._together}

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """See `HeldOutSums.join`."""
        for name, value in self.tensors().items():
            value += tensors[name]

    def result(self) -> UnselectedScaling:
        """Return the sums of all groups."""
        moments = BlockMoments(self._sums, {"tokens": self._tokens}, {})
        return UnselectedScaling(moments, _jaccard(self._together).numpy())


def unselected_inputs(
    latents: Int64[np.ndarray, " asked"],
    chosen_by_intervened: Bool[np.ndarray, " asked"],
    mean_activation: Float64[np.ndarray, " latent"],
) -> Inputs:
    """Return what the pass begins from.

    Args:
        chosen_by_intervened: Whether S is the intervened model, for each latent.
        mean_activation: Mean activation of every latent of the dictionary where it fires.
    """
    return {
        "latents": torch.from_numpy(latents),
        "chosen_by_intervened": torch.from_numpy(chosen_by_intervened),
        "mean_activation": torch.from_numpy(mean_activation[latents]),
    }


def _asked(
    view: PairedView,
    latents: Int64[Tensor, " asked"],
    chosen_by_intervened: Bool[Tensor, " asked"],
    mean_activation: Float64[Tensor, " asked"],
) -> _Asked:
    device = view.device
    latents, chosen_by_intervened = latents.to(device), chosen_by_intervened.to(device)
    directions = [
        torch.where(
            chosen_by_intervened[:, None],
            view.directions_in[MODEL_NAMES[1], model][latents],
            view.directions_in[MODEL_NAMES[0], model][latents],
        )
        for model in MODEL_NAMES
    ]
    is_near = torch.zeros(view.n_latents, len(latents), dtype=torch.bool, device=device)
    for rows, asked in zip(view.directions, directions, strict=False):
        is_near |= (normalize(rows, dim=1) @ normalize(asked, dim=1).T).abs() >= NEAR
    is_near[latents, torch.arange(len(latents), device=device)] = True
    near = is_near.any(dim=1).nonzero().flatten()
    squares = [rows.square().sum(dim=1).clamp_min(1e-30) for rows in directions]
    readers = tuple(rows / square[:, None] for rows, square in zip(directions, squares, strict=True))
    written = tuple(
        (rows[near] @ reader.T) * is_near[near]
        for rows, reader in zip(view.directions, readers, strict=False)
    )
    limit = (_CHOSEN_FROM * mean_activation).to(directions[0])
    return _Asked(
        latents, near, (readers[0], readers[1]), (written[0], written[1]), chosen_by_intervened, limit
    )


def _summands(
    part: _Asked, codes: SparseLatents, errors: tuple[Float[Tensor, "token _"], ...]
) -> dict[str, Float64[Tensor, "token asked"]]:
    """Return the summands of one batch."""
    values = _columns(codes, part.near)
    reference, intervened = (
        error @ reader.T + values @ written
        for error, reader, written in zip(errors, part.readers, part.written, strict=False)
    )
    own = torch.where(part.chosen_by_intervened, intervened, reference)
    other = torch.where(part.chosen_by_intervened, reference, intervened)
    chosen = own >= part.limit
    own = own.masked_fill(~chosen, 0.0)
    parts = {"own": own.square(), "other": own * other, "chosen": chosen}
    return {name: value.double().cpu() for name, value in parts.items()}


def _columns(codes: SparseLatents, latents: Int64[Tensor, " column"]) -> Float[Tensor, "token column"]:
    """Return some columns of a code as a dense matrix."""
    n_tokens, n_latents = codes.shape
    column = torch.full((n_latents,), -1, device=codes.latent.device)
    column[latents] = torch.arange(len(latents), device=codes.latent.device)
    wanted = column[codes.latent] >= 0
    dense = codes.value.new_zeros(n_tokens, len(latents))
    dense[codes.token[wanted], column[codes.latent[wanted]]] = codes.value[wanted]
    return dense


def _jaccard(together: Float64[Tensor, "asked asked"]) -> Float64[Tensor, "asked asked"]:
    """Return the Jaccard index of each pair from the numbers of tokens on which both fire."""
    alone = together.diagonal()
    union = alone[:, None] + alone[None, :] - together
    index = torch.where(union > 0, together / union, 0.0)
    return index.fill_diagonal_(0.0)
