"""Passes over the held-out tokens that several processes make together, each some of the groups, equal those of one process bit for bit."""

import json

import pytest
import torch

from analysis.change.change_elements import ChangeDescription, describe_change
from analysis.latents import held_out_pass
from analysis.latents.held_out_sums import (
    HeldOut,
    Inputs,
    ReadSums,
    Sums,
    groups_of,
    read_groups,
    read_sums,
)
from tests.analysis.change.planted_changes import PlantedChange, planted, settings_of


@pytest.fixture(scope="module")
def pair() -> PlantedChange:
    """A pair with every part of a change."""
    return planted(new=4, lost=2, rescaled=4, rank=4, strength=0.5, offset=0.3, bursts=True)


def by_processes(n_processes: int) -> tuple[ReadSums, list[int]]:
    """Return a pass by several processes, the last groups first, and a list that receives the number of groups of each pass."""
    counts: list[int] = []

    def read(kind: type[Sums], held_out: HeldOut, inputs: Inputs) -> Sums:
        groups = groups_of(kind, held_out)
        counts.append(len(groups))
        shares = [range(len(groups))[rank::n_processes] for rank in reversed(range(n_processes))]
        sums, *others = (read_groups(kind, held_out, inputs, groups, share) for share in shares)
        for other in others:
            sums.join({name: value.clone() for name, value in other.tensors().items()})
        return sums

    return read, counts


def described(pair: PlantedChange, read: ReadSums) -> ChangeDescription:
    held_out = HeldOut(pair.view, pair.reader, pair.reader.context(), settings_of())
    found = describe_change(held_out, pair.labels, pair.candidates, pair.others, read)
    assert found is not None
    return found


@pytest.mark.parametrize("n_processes", [2, 3, 8])
def test_several_processes_describe_the_change_as_one_does(
    pair: PlantedChange, monkeypatch: pytest.MonkeyPatch, n_processes: int
) -> None:
    monkeypatch.setattr(held_out_pass, "_MAX_BATCH", 250)
    read, counts = by_processes(n_processes)
    alone, together = described(pair, read_sums), described(pair, read)
    assert counts == [16, 4, 16], "the moments are kept for each of four folds"
    # The comparison is of every part.
    assert alone.record["offset"]["established"] and alone.record["map"]["p"] is not None
    assert len(alone.record["subspaces"]) == 1 and alone.record["subspaces"][0]["examples"]
    assert alone.record["latents"]["one_sided"] and alone.record["latents"]["two_sided"]
    assert json.dumps(together.record) == json.dumps(alone.record)
    for name in ("offset", "map_read", "map_write"):
        assert torch.equal(getattr(together, name), getattr(alone, name))


def test_groups_of_other_tokens_change_rounding_alone(
    pair: PlantedChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = described(pair, read_sums).record
    monkeypatch.setattr(held_out_pass, "_MAX_BATCH", 250)
    parts = described(pair, read_sums).record
    assert json.dumps(parts) != json.dumps(whole)
    for name, part in whole["parts"].items():
        assert parts["parts"][name]["share"] == pytest.approx(part["share"], abs=1e-6), name
    rows = [[entry["row"] for entry in found["subspaces"][0]["examples"]] for found in (parts, whole)]
    assert rows[0] == rows[1]
