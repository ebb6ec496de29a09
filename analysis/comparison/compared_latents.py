"""Latents of several runs: how many of each run the others have too, and the nearest latents of single ones."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64

from crosscoder.errors import CrosscoderError

from ..labels.replication import NearestDirections
from ..labels.rule import CLAIMED
from ..report.phrases import visible
from ..report.wording import Part, Sentence, listed, named, say
from ..tables.analysis_files import SAME_DIRECTION
from .compared_labels import stated_labels
from .compared_runs import ComparedRun
from .comparison_schema import ClaimedLatent, LatentComparison, MatchCell, MatchRow, NearestLatent
from .latent_lookup import (
    ALL,
    CAUSAL,
    SoughtLatents,
    Space,
    decoder_directions,
    nearest_latents,
    sought_latents,
    space_of,
)

LOOSE, CLOSE = SAME_DIRECTION, 0.9
"""Cosines from which on a latent is found again; published studies use 0.7 to 0.9."""

_SHOWN = 12
"""Single latents of each run in Markdown and HTML."""

_Nearest = Mapping[tuple[int, int], NearestDirections]
"""For the places of two runs: the nearest latent of the second run for each latent of the first that is looked up."""


def compare_latents(runs: Sequence[ComparedRun]) -> LatentComparison:
    """Return how many latents of each run are in the others, and single latents with the nearest of each other run."""
    spaces: dict[int, Space] = {}
    unknown: list[Sentence] = []
    for place, run in enumerate(runs):
        found = space_of(run)
        if isinstance(found, Space):
            spaces[place] = found
        else:
            unknown.append(say("{run}: {why}", run=named(run.name), why=found))
    sought: dict[int, SoughtLatents] = {}
    for place in list(spaces):
        if list(spaces.values()).count(spaces[place]) < 2:
            continue
        try:
            sought[place] = sought_latents(runs[place])
        except CrosscoderError as error:
            unknown.append(say("{run}: {why}", run=named(runs[place].name), why=named(error)))
            del spaces[place]
    nearest: dict[tuple[int, int], NearestDirections] = {}
    for other in sought:
        # One dictionary is in memory at a time; of the others only the latents that are looked up.
        rows, alive = decoder_directions(runs[other])
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


# --- what is told -----------------------------------------------------------------------------------------------------


def _statement(
    runs: Sequence[ComparedRun], spaces: Mapping[int, Space], unknown: Sequence[Sentence]
) -> Sentence:
    """Return between which runs directions are compared, and what the others differ in."""
    together: dict[Space, list[int]] = {}
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
    runs: Sequence[ComparedRun], sought: Mapping[int, SoughtLatents], nearest: _Nearest
) -> Iterator[MatchRow]:
    for place, one in sought.items():
        for group, members in one.groups.items():
            cells = tuple(
                _unmeasured("itself", "the run itself")
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
        ALL: "that {verb}" if run.results is not None else "of the dictionary, which was not analyzed",
        CAUSAL: "that {cause} a shift of behavior",
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


def _unmeasured(state: Literal["itself", "not comparable"], words: str) -> MatchCell:
    return MatchCell(state=state, found_loosely=None, found_closely=None, median=None, shown=say(words))


def _match_cell(
    one: SoughtLatents, members: Int64[np.ndarray, " member"], found: NearestDirections | None
) -> MatchCell:
    if found is None:
        return _unmeasured("not comparable", "not comparable")
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
    runs: Sequence[ComparedRun], sought: Mapping[int, SoughtLatents], nearest: _Nearest
) -> Iterator[ClaimedLatent]:
    """Yield the latents with a stated label of change, and those that are causes of a shift, run by run."""
    for place, one in sought.items():
        labels = {
            int(latent): group
            for group, members in one.groups.items()
            if group in CLAIMED
            for latent in members
        }
        causal = [int(latent) for latent in one.groups.get(CAUSAL, ())]
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
