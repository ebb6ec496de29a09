"""Latents of each run, looked up in the dictionaries of the others by the directions that they write.

Only dictionaries that read the same activations have directions in common: of the same models at the same hookpoints, through the same
view. Two latents are as alike as the smallest cosine over the models that the first one writes into, which is what replication by other
trainings of one run asks for (`analysis.labels.replication`).
"""

from collections.abc import Iterator, Mapping, Sequence
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
from ..report.phrases import visible
from ..report.wording import Part, Sentence, listed, named, say
from ..tables.analysis_files import SAME_DIRECTION
from .compared_labels import stated_labels
from .compared_runs import ComparedRun
from .compared_settings import model_identity
from .comparison_schema import ClaimedLatent, LatentComparison, MatchCell, MatchRow, NearestLatent

LOOSE, CLOSE = SAME_DIRECTION, 0.9
"""Cosines from which on a latent is found again; published studies use 0.7 to 0.9."""

_MOST = 4096
"""Latents that are looked up of a group: more would cost minutes for large dictionaries, and change the shares little."""

_SHOWN = 12
"""Single latents of each run in Markdown and HTML."""

_CHUNK = 1024
_ALL, _CAUSAL = "all", "causal"


class _Space(NamedTuple):
    """What the directions of a dictionary refer to."""

    reads: str
    models: tuple[tuple[str | None, ...], ...]
    """Digests of each model."""
    hookpoints: tuple[str, ...]


class _Sought(NamedTuple):
    """Latents of one run that are looked up in the others."""

    groups: Mapping[str, Int64[np.ndarray, " member"]]
    """Latents by group: `all`, a label, or `causal`; in a group of single latents the largest share of the shift first."""
    latents: Int64[Tensor, " latent"]
    """All of them, ascending."""
    rows: tuple[Float[Tensor, "latent _"], ...]
    """Their decoder rows in each model, training space."""


_Nearest = Mapping[tuple[int, int], NearestDirections]
"""For the places of two runs: the nearest latent of the second run for each latent of the first that is looked up."""


def compare_latents(runs: Sequence[ComparedRun]) -> LatentComparison:
    """Return how many latents of each run are in the others, and single latents with the nearest of each other run."""
    spaces: dict[int, _Space] = {}
    unknown: list[Sentence] = []
    for place, run in enumerate(runs):
        found = _space(run)
        if isinstance(found, _Space):
            spaces[place] = found
        else:
            unknown.append(say("{run}: {why}", run=named(run.name), why=found))
    sought: dict[int, _Sought] = {}
    for place in list(spaces):
        if list(spaces.values()).count(spaces[place]) < 2:
            continue
        try:
            sought[place] = _sought(runs[place])
        except CrosscoderError as error:
            unknown.append(say("{run}: {why}", run=named(runs[place].name), why=named(error)))
            del spaces[place]
    nearest: dict[tuple[int, int], NearestDirections] = {}
    for other in sought:
        # One dictionary is in memory at a time; of the others only the latents that are looked up.
        rows, alive = _directions(runs[other])
        for place in sought:
            if place != other and spaces[place] == spaces[other]:
                nearest[place, other] = nearest_latents(sought[place].rows, rows, alive)
    # A run whose only partner could not be read is left without one.
    sought = {place: one for place, one in sought.items() if any(place == first for first, _ in nearest)}
    latents = tuple(_single_latents(runs, sought, nearest))
    return LatentComparison(
        statement=_statement(runs, spaces, unknown),
        loose_cosine=LOOSE,
        close_cosine=CLOSE,
        shares=tuple(_share_rows(runs, sought, nearest)),
        latents=latents,
        left_out=_left_out(len(latents) - len(first_of_each_run(latents))),
    )


def first_of_each_run(latents: Sequence[ClaimedLatent]) -> list[ClaimedLatent]:
    """Return the single latents that Markdown and HTML show."""
    by_run: dict[str, list[ClaimedLatent]] = {}
    for latent in latents:
        by_run.setdefault(latent.run, []).append(latent)
    return [latent for of_run in by_run.values() for latent in of_run[:_SHOWN]]


def _left_out(number: int) -> Sentence | None:
    if not number:
        return None
    return say(
        "{number:counted further latent} {verb} in {file}.",
        number=number,
        verb="is" if number == 1 else "are",
        file=named("comparison.json"),
    )


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


# --- what is looked up ------------------------------------------------------------------------------------------------


def _space(run: ComparedRun) -> _Space | Sentence:
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
    return _Space(
        str(reads),
        tuple(model_identity(side) for side in sides),
        tuple(str(side.get("hookpoint")) for side in sides),
    )


def _directions(run: ComparedRun) -> tuple[tuple[Float[Tensor, "latent _"], ...], Bool[Tensor, " latent"]]:
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


def _sought(run: ComparedRun) -> _Sought:
    rows, counts = _directions(run)
    every = counts.nonzero().flatten().numpy()
    if len(every) > _MOST:
        every = every[np.linspace(0, len(every) - 1, _MOST).round().astype(np.int64)]
    groups = {_ALL: every, **_single_groups(run)}
    groups = {name: members[counts.numpy()[members]] for name, members in groups.items()}
    latents = torch.from_numpy(np.unique(np.concatenate(list(groups.values()))))
    return _Sought(
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
    groups[_CAUSAL] = ordered["evidence"] == _CAUSAL
    return {name: ordered.loc[mask, "latent"].to_numpy(np.int64) for name, mask in groups.items()}


# --- what is told -----------------------------------------------------------------------------------------------------


def _statement(
    runs: Sequence[ComparedRun], spaces: Mapping[int, _Space], unknown: Sequence[Sentence]
) -> Sentence:
    """Return between which runs directions are compared, and what the others differ in."""
    together: dict[_Space, list[int]] = {}
    for place, space in spaces.items():
        together.setdefault(space, []).append(place)
    groups = [places for places in together.values() if len(places) > 1]
    differ = [
        name
        for name, values in (
            ("the kind of dictionary", {space.reads for space in together}),
            ("the models", {space.models for space in together}),
            ("the hookpoint", {space.hookpoints for space in together}),
        )
        if len(values) > 1
    ]
    missing: Part = ""
    if unknown:
        missing = say(
            " Not compared: {unknown}.",
            unknown=listed(((f"run_{at}", one) for at, one in enumerate(unknown)), "; "),
        )
    if groups and len(groups[0]) == len(runs):
        return say(
            "All dictionaries read the same activations, so their latents are compared by the directions that they write."
        )
    apart = f" The runs differ in {' and in '.join(differ)}." if differ else ""
    if not groups:
        return say(
            "No two of these dictionaries read the same activations, so their latents are not compared.{apart}{missing}",
            apart=apart,
            missing=missing,
        )
    members = listed(
        (
            (
                f"group_{at}",
                say(
                    "{runs}",
                    runs=listed(
                        ((f"run_{one}", say("{run}", run=named(runs[one].name))) for one in places), ", "
                    ),
                ),
            )
            for at, places in enumerate(groups)
        ),
        "; ",
    )
    return say(
        "Latents are compared only between dictionaries that read the same activations: {members}.{apart}{missing}",
        members=members,
        apart=apart,
        missing=missing,
    )


def _share_rows(
    runs: Sequence[ComparedRun], sought: Mapping[int, _Sought], nearest: _Nearest
) -> Iterator[MatchRow]:
    for place, one in sought.items():
        for group, members in one.groups.items():
            cells = tuple(
                MatchCell(
                    state="itself",
                    found_loosely=None,
                    found_closely=None,
                    median=None,
                    shown=say("the run itself"),
                )
                if other == place
                else _match_cell(one, members, nearest.get((place, other)))
                for other in range(len(runs))
            )
            yield MatchRow(
                run=visible(runs[place].name),
                group=group,
                latents=len(members),
                statement=_group_statement(runs[place], group, len(members)),
                cells=cells,
            )


def _group_statement(run: ComparedRun, group: str, number: int) -> Sentence:
    which = {
        _ALL: "that {verb}" if run.results is not None else "of the dictionary, which was not analyzed",
        _CAUSAL: "that {cause} a shift of behavior",
    }.get(group, "labeled {label}")
    one = number == 1
    return say(
        f"{{run}}: {{latents:counted latent}} {which}",
        run=named(run.name),
        latents=number,
        label=group,
        verb="fires" if one else "fire",
        cause="causes" if one else "cause",
    )


def _match_cell(
    one: _Sought, members: Int64[np.ndarray, " member"], found: NearestDirections | None
) -> MatchCell:
    if found is None:
        return MatchCell(
            state="not comparable",
            found_loosely=None,
            found_closely=None,
            median=None,
            shown=say("not comparable"),
        )
    cosine = found.cosine[torch.searchsorted(one.latents, torch.from_numpy(members))].double()
    loosely, closely = (float((cosine >= least).double().mean()) for least in (LOOSE, CLOSE))
    median = float(cosine.median())
    return MatchCell(
        state="measured",
        found_loosely=loosely,
        found_closely=closely,
        median=median,
        shown=say(
            "{loosely:percent} at {loose:.1f}; {closely:percent} at {close:.1f}; median {median:.2f}",
            loosely=loosely,
            closely=closely,
            loose=LOOSE,
            close=CLOSE,
            median=median,
        ),
    )


def _single_latents(
    runs: Sequence[ComparedRun], sought: Mapping[int, _Sought], nearest: _Nearest
) -> Iterator[ClaimedLatent]:
    """Yield the latents with a stated label of change, and those that are causes of a shift, run by run."""
    for place, one in sought.items():
        labels = {
            int(latent): group
            for group, members in one.groups.items()
            if group in CLAIMED
            for latent in members
        }
        causal = [int(latent) for latent in one.groups.get(_CAUSAL, ())]
        for latent in dict.fromkeys((*causal, *labels)):
            at = int(torch.searchsorted(one.latents, latent))
            yield ClaimedLatent(
                run=visible(runs[place].name),
                latent=latent,
                label=labels.get(latent),
                causal=latent in causal,
                nearest=tuple(
                    _nearest(runs[other], nearest.get((place, other)), at) for other in range(len(runs))
                ),
            )


def _nearest(run: ComparedRun, found: NearestDirections | None, at: int) -> NearestLatent | None:
    if found is None:
        return None
    latent = int(found.latent[at])
    label = None
    if run.results is not None:
        known = str(run.results.features["label"].iloc[latent])
        label = known if known in stated_labels(run) else None
    return NearestLatent(latent=latent, cosine=float(found.cosine[at]), label=label)
