"""Looks up the latents of one dictionary in another, by the directions that they write.

Only dictionaries that read the same activations have directions in common: of the same models at the same hookpoints, through the same
view. Two latents are as alike as the smallest cosine over the models that the first one writes into, which is what replication by other
trainings of one run asks for (`analysis.labels.replication`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from crosscoder.activations.batch import split_models
from crosscoder.dictionary.storage import load_crosscoder, read_record
from crosscoder.errors import CrosscoderError, DataError, FormatError

from ..labels.replication import NearestDirections, models_written
from ..labels.rule import CLAIMED
from ..report.wording import Sentence, named, say
from .compared_labels import stated_labels
from .compared_runs import ComparedRun
from .compared_settings import model_identity

ALL, CAUSAL = "all", "causal"
"""Groups of latents beside the labels: all that fire, and causes of a shift."""

_MOST = 4096
"""Latents of a group that are looked up: more would cost minutes for large dictionaries, and change the shares little."""

_CHUNK = 1024


class Space(NamedTuple):
    """What the directions of a dictionary refer to."""

    reads: str
    models: tuple[tuple[str | None, ...], ...]
    """Digests of each model."""
    hookpoints: tuple[str, ...]


class SoughtLatents(NamedTuple):
    """Latents of one run that are looked up in the others."""

    groups: Mapping[str, Int64[np.ndarray, " member"]]
    """Latents by group: `all`, a label, or `causal`; in a group of single latents the largest share of the shift first."""
    latents: Int64[Tensor, " latent"]
    """All of them, ascending."""
    rows: tuple[Float[Tensor, "latent _"], ...]
    """Their decoder rows in each model, training space."""


def nearest_latents(
    directions: tuple[Float[Tensor, "latent _"], ...],
    others: tuple[Float[Tensor, "other _"], ...],
    among: Bool[Tensor, " other"],
) -> NearestDirections:
    """Return, for each latent, the other latent whose smallest cosine over the models that the first one writes into is largest.

    Args:
        directions: Decoder rows in each model, training space; none is zero in all models.
        others: Decoder rows of another dictionary in the same models.
        among: The other latents that may be found; at least one.
    """
    counts = models_written(directions)
    candidates = among.nonzero().flatten()
    units = [normalize(rows[candidates], dim=1).T for rows in others]
    latents, cosines = [], []
    for part in torch.arange(counts.shape[1]).split(_CHUNK):
        alike = torch.full((len(part), len(candidates)), torch.inf)
        for rows, unit, in_model in zip(directions, units, counts, strict=True):
            cosine = normalize(rows[part], dim=1) @ unit
            alike = torch.where(in_model[part, None], torch.minimum(alike, cosine), alike)
        best = alike.max(dim=1)
        latents.append(candidates[best.indices])
        cosines.append(best.values.clamp(max=1.0))
    return NearestDirections(torch.cat(latents), torch.cat(cosines))


def space_of(run: ComparedRun) -> Space | Sentence:
    """Return what a run's dictionary reads, or why that is not known."""
    if not run.folder.crosscoder.is_dir():
        return say("it has no dictionary yet")
    try:
        provenance = read_record(run.folder.crosscoder).get("provenance") or {}
    except CrosscoderError as error:
        return say("{why}", why=named(error))
    pair = provenance.get("pair") or run.pair
    sides = [side for side in pair.values() if isinstance(side, dict)]
    reads = provenance.get("reads") or (run.config.crosscoder.reads if run.config is not None else None)
    if reads is None or not sides or not all(side.get("weights") for side in sides):
        return say("it is not recorded which models its dictionary reads")
    return Space(
        str(reads),
        tuple(model_identity(side) for side in sides),
        tuple(str(side.get("hookpoint")) for side in sides),
    )


def decoder_directions(
    run: ComparedRun,
) -> tuple[tuple[Float[Tensor, "latent _"], ...], Bool[Tensor, " latent"]]:
    """Return the decoder rows of a run's dictionary in each model, training space, and which latents count: those that fire on held-out
    tokens, or all that write anything if the run was not analyzed.

    Raises:
        FormatError: The dictionary is damaged, or the analysis is not of this dictionary.
        DataError: None of its latents counts.
    """
    crosscoder = load_crosscoder(run.folder.crosscoder)
    stored = split_models(crosscoder.W_dec.detach().float(), crosscoder.config.d_models)
    rows = tuple(part * scale for part, scale in zip(stored, crosscoder.score_scale.tolist(), strict=True))
    counts = torch.stack([part.norm(dim=1) > 0 for part in rows]).any(dim=0)
    if run.results is not None:
        fires = run.results.features["label"].ne("dead").to_numpy(copy=True)
        if len(fires) != len(counts):
            raise FormatError(
                f"{run.folder.features}: has {len(fires)} latents, the dictionary {len(counts)}; run crosscoder analyze again"
            )
        counts &= torch.from_numpy(fires)
    if not counts.any():
        raise DataError(f"{run.folder.crosscoder}: none of its latents fires, so there is none to compare")
    return rows, counts


def sought_latents(run: ComparedRun) -> SoughtLatents:
    """Return the latents of a run that are looked up in the others. Raises as `decoder_directions` does."""
    rows, counts = decoder_directions(run)
    every = counts.nonzero().flatten().numpy()
    if len(every) > _MOST:
        every = every[np.linspace(0, len(every) - 1, _MOST).round().astype(np.int64)]
    groups = {ALL: every, **_single_groups(run)}
    groups = {name: members[counts.numpy()[members]] for name, members in groups.items()}
    latents = torch.from_numpy(np.unique(np.concatenate(list(groups.values()))))
    return SoughtLatents(
        {name: members for name, members in groups.items() if len(members)},
        latents,
        tuple(part[latents] for part in rows),
    )


def _single_groups(run: ComparedRun) -> dict[str, Int64[np.ndarray, " member"]]:
    """Return the latents with each label of change that the report states, and those that are causes of a shift."""
    if run.results is None:
        return {}
    ordered = run.results.features.sort_values(
        "shift_share", ascending=False, kind="stable", na_position="last"
    )
    stated = stated_labels(run)
    groups = {label: ordered["label"] == label for label in CLAIMED if label in stated}
    groups[CAUSAL] = ordered["evidence"] == CAUSAL
    return {name: ordered.loc[mask, "latent"].to_numpy(np.int64) for name, mask in groups.items()}
