"""Pairs that differ by one planted element of change or several, each with a dictionary that is constructed instead of trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from analysis.change.change_elements import ChangeDescription, describe_change
from analysis.latents.dictionary_view import PairedView, view_of
from analysis.latents.held_out_sums import HeldOut
from crosscoder.config import AnalysisConfig, CrosscoderConfig, FileActivations, ReLU, RunConfig
from crosscoder.planted.exact import exact_dictionary
from tests.analysis.readers import MemoryReader

D = 48
SHARED = 30
BURST_DIMENSIONS, BURST_LATENTS, BURST_SHARE = 8, 16, 0.02
TOKENS = 16_000
_NOISE = 0.03


def settings_of(n_blocks: int = 64, seed: int = 0) -> RunConfig:
    files = FileActivations(kind="files", reference=Path("a.npy"), intervened=Path("b.npy"))
    analysis = AnalysisConfig(bootstrap_blocks=n_blocks)
    return RunConfig(output=Path("run"), activations=files, analysis=analysis, seed=seed)


def random_units(count: int, generator: torch.Generator, d_model: int = D) -> Tensor:
    return normalize(torch.randn(count, d_model, generator=generator, dtype=torch.float64), dim=1)


def frame_of(dimension: int, generator: torch.Generator, d_model: int = D) -> Tensor:
    """Orthonormal rows."""
    return torch.linalg.qr(torch.randn(d_model, dimension, generator=generator, dtype=torch.float64)).Q.T


def burst_directions(basis: Tensor, generator: torch.Generator, noise: float = 0.2) -> Tensor:
    """What one training finds of bursts in a subspace: directions all over it, each with an error."""
    units = random_units(BURST_LATENTS, generator, len(basis)) @ basis
    return normalize(units + noise * random_units(BURST_LATENTS, generator, basis.shape[1]), dim=1)


class OtherFound(NamedTuple):
    """What another training found: the changed features with a small error, and its own directions in the subspace of bursts."""

    directions: tuple[Tensor, Tensor]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class PlantedChange:
    reader: MemoryReader
    view: PairedView
    candidates: tuple[str, ...]
    """Label of each latent in this training alone."""
    others: tuple[OtherFound, OtherFound]
    offset: Tensor
    map_read: Tensor
    map_write: Tensor
    """Orthonormal rows; of no map, one row each that means nothing."""
    basis: Tensor
    """Of the bursts."""
    n_tiling: int
    """Latents that tile the subspace of bursts, the last ones. No other training finds one of them again."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels after replication."""
        stable = len(self.candidates) - self.n_tiling
        return self.candidates[:stable] + ("undetermined",) * self.n_tiling

    def described(self, settings: RunConfig | None = None) -> ChangeDescription:
        held_out = HeldOut(self.view, self.reader, self.reader.context(), settings or settings_of())
        found = describe_change(held_out, self.labels, self.candidates, self.others)
        assert found is not None
        return found


def planted(
    new: int = 0,
    lost: int = 0,
    rescaled: int = 0,
    offset: float = 0.0,
    rank: int = 0,
    strength: float = 0.5,
    bursts: bool = False,
    gain: float = 1.0,
    n_tokens: int = TOKENS,
    document_tokens: int = 20,
    seed: int = 0,
    noises: tuple[float, float] = (_NOISE, _NOISE),
    swapped: bool = False,
    knows_offset: bool = True,
) -> PlantedChange:
    """Build a pair: shared features, the given changes, and independent noise in both models."""
    generator = torch.Generator().manual_seed(seed)
    units = random_units(SHARED + new + lost + rescaled, generator)
    kinds = ["shared"] * SHARED + ["new"] * new + ["lost"] * lost + ["rescaled"] * rescaled
    kept = {"shared": (1.0, 1.0), "new": (0.0, 1.0), "lost": (1.0, 0.0), "rescaled": (1.0, 0.4)}
    scales = torch.tensor([kept[kind] for kind in kinds], dtype=torch.float64)
    read, write = frame_of(max(rank, 1), generator), frame_of(max(rank, 1), generator)
    linear = strength * read.T @ write if rank else torch.zeros(D, D, dtype=torch.float64)
    constant = offset * random_units(1, generator)[0]
    basis = frame_of(BURST_DIMENSIONS, generator)
    transform = gain * (torch.eye(D, dtype=torch.float64) + linear)
    rows = torch.cat([units * scales[:, :1], units * scales[:, 1:] @ transform], dim=1)
    rates = 0.04 + 0.08 * torch.rand(len(units), generator=generator)
    fires = torch.rand(n_tokens, len(units), generator=generator) < rates
    sizes = (1 + 0.3 * torch.randn(n_tokens, len(units), generator=generator)).clamp_min(0.2)
    values = (fires * sizes).double() @ rows
    values[:, D:] += constant
    if bursts:
        bursting = torch.rand(n_tokens, 1, generator=generator) < BURST_SHARE
        values[:, D:] += bursting * 2.0 * random_units(n_tokens, generator, BURST_DIMENSIONS) @ basis
    noise = torch.tensor(noises, dtype=torch.float64).repeat_interleave(D)
    values += noise * torch.randn(n_tokens, 2 * D, generator=generator, dtype=torch.float64)
    tiling = burst_directions(basis, generator) if bursts else torch.zeros(0, D, dtype=torch.float64)
    labels = kinds + ["new"] * len(tiling)
    changed = units[SHARED:]
    others = []
    for _ in range(2):
        again = normalize(changed + 0.1 * random_units(len(changed), generator), dim=1)
        own = burst_directions(basis, generator) if bursts else tiling
        sides = tuple(torch.cat([again * scales[SHARED:, model, None], model * own]) for model in (0, 1))
        others.append((sides, labels[SHARED:]))
    if swapped:
        values, rows = (torch.cat([part[:, D:], part[:, :D]], dim=1) for part in (values, rows))
        others = [(sides[::-1], _swapped(names)) for sides, names in others]
        labels = _swapped(labels)
    view = _view(values, rows, tiling, constant if knows_offset else torch.zeros_like(constant), swapped)
    reader = MemoryReader(values.float(), (D, D), document_tokens)
    one, other = (OtherFound((sides[0], sides[1]), tuple(names)) for sides, names in others)
    return PlantedChange(
        reader, view, tuple(labels), (one, other), constant, read, write, basis, n_tiling=len(tiling)
    )


def _swapped(labels: list[str]) -> list[str]:
    return [{"new": "lost", "lost": "new"}.get(label, label) for label in labels]


def _view(values: Tensor, rows: Tensor, tiling: Tensor, constant: Tensor, swapped: bool) -> PairedView:
    config = CrosscoderConfig(
        d_models=(D, D),
        model_names=("reference", "intervened"),
        n_latents=len(rows) + len(tiling),
        sparsity=ReLU(target_l0=2),
    )
    crosscoder = exact_dictionary(config, rows.float(), values.float())
    scale = crosscoder.scale.repeat_interleave(D)
    sign = -1.0 if swapped else 1.0
    nothing = torch.zeros_like(constant)
    bias = (torch.cat([constant, nothing]) if swapped else torch.cat([nothing, constant])).float() * scale
    with torch.no_grad():
        crosscoder.b_dec.add_(bias)
        crosscoder.b_enc[: len(rows)].sub_(bias @ crosscoder.W_enc[:, : len(rows)])
        for place, direction in enumerate(tiling.float(), start=len(rows)):
            # Reads the difference along its direction, and writes it into the model that has the bursts.
            one, other = slice(0, D), slice(D, 2 * D)
            crosscoder.W_dec[place] = 0
            crosscoder.W_dec[place, one if swapped else other] = (
                direction * crosscoder.scale[0 if swapped else 1]
            )
            crosscoder.W_enc[one, place] = -sign * direction / crosscoder.scale[0]
            crosscoder.W_enc[other, place] = sign * direction / crosscoder.scale[1]
            mean = crosscoder.mean
            crosscoder.b_enc[place] = sign * (mean[other] - mean[one]) @ direction - 0.7
    view = view_of(crosscoder, (D, D), "paired")
    assert isinstance(view, PairedView)
    return view
