"""The elements of the change, in words: which part carries most of it, and the share of every part."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .grounds import Draft
from .phrases import NOT_MEASURED
from .schema import Statement
from .wording import Sentence, listed, named, say

PARTS = {
    "offset": ("constant offset", "one constant vector for each class of tokens"),
    "one_sided": (
        "latents of one model",
        "latents labeled new, lost or replaced, which the other trainings find again",
    ),
    "subspaces": ("subspaces", "subspaces that every training fills with latents of its own"),
    "map": ("linear map", "one linear map of low rank, the same on all tokens"),
    "two_sided": (
        "latents of both models",
        "latents labeled rotated, rescaled or reweighted, which the other trainings find again",
    ),
    "other_latents": (
        "other latents",
        "latents that claim no change, or that the other trainings do not find again",
    ),
    "bias": ("bias", "what the dictionary adds when no latent fires"),
    "error": ("error", "in none of these: the dictionary does not reconstruct it"),
}

_CLASSES = {
    "first": "the first tokens of a document",
    "template": "tokens of the chat template",
    "other": "all other tokens",
    "all": "every token",
}
_SAME = 0.9
"""Cosine of the offsets of two classes of tokens from which they are called one direction."""

_SHOWN = 3


def change_drafts(
    summary: Mapping[str, Any], labels_rest_on: Sequence[str], withheld: bool
) -> Iterator[Draft]:
    """Yield which part of the change is largest, and the subspaces that changed; nothing if the change was not described.

    Args:
        labels_rest_on: Grounds of labels that claim a change.
        withheld: Whether nothing is labeled; then only a constant offset is stated, which needs no dictionary.
    """
    change = summary.get("change")
    if not change:
        return
    largest = change["largest"]
    if withheld and largest != "offset":
        return
    yield _largest(change, largest, labels_rest_on)
    if not withheld and change["subspaces"]:
        yield Draft(_subspaces(change["subspaces"]), ("change/subspaces",))


def change_statements(summary: Mapping[str, Any]) -> tuple[Statement, ...]:
    """Return the share of every part of the change; they add up to the whole."""
    change = summary.get("change")
    if not change:
        return (Statement(name="parts of the change", text=say(NOT_MEASURED), verdict=NOT_MEASURED),)
    shares = tuple(
        Statement(
            name=title,
            text=say("{part} of the squared change: {meaning}", part=_part(change, name), meaning=meaning),
            value=change["parts"][name]["share"],
        )
        for name, (title, meaning) in PARTS.items()
    )
    reasons = tuple(
        Statement(name=f"no {PARTS[name][0]}", text=say("{why}", why=named(why)))
        for name, why in (
            ("offset", change["offset"]["reason"]),
            ("map", change["map"]["reason"]),
            ("subspaces", change["subspaces_reason"]),
        )
        if why
    )
    return (*shares, *reasons)


def _part(change: Mapping[str, Any], name: str) -> Sentence:
    part = change["parts"][name]
    bounds = "" if part["low"] is None else " ({low:percent} to {high:percent})"
    return say(f"{{share:percent}}{bounds}", **{key: part[key] for key in ("share", "low", "high")})


def _largest(change: Mapping[str, Any], name: str, labels_rest_on: Sequence[str]) -> Draft:
    share = _part(change, name)
    match name:
        case "offset":
            return Draft(
                say("{share} of the squared change is {what}.", share=share, what=_offset(change["offset"])),
                ("change/offset",),
            )
        case "map":
            text = say(
                "{share} of the squared change is one linear map of rank {rank}, the same on all tokens.",
                share=share,
                rank=change["map"]["rank"],
            )
            return Draft(text, ("change/map",))
        case "subspaces":
            text = say(
                "{share} of the squared change lies in {n:counted subspace}, on the tokens where {it} active.",
                share=share,
                n=len(change["subspaces"]),
                it="it is" if len(change["subspaces"]) == 1 else "they are",
            )
            return Draft(text, ("change/subspaces",))
        case "one_sided" | "two_sided":
            text = say("{share} of the squared change is in {what}.", share=share, what=PARTS[name][1])
            return Draft(text, tuple(labels_rest_on))
        case _:
            text = say(
                "The largest part of the squared change, {share}, is in nothing that is established: {what}.",
                share=share,
                what=PARTS[name][1],
            )
            return Draft(text, kind="measured")


def _offset(offset: Mapping[str, Any]) -> Sentence:
    """Return on which tokens the offset was found, and on how many of them it is at least half as long."""
    found = [entry for entry in offset["classes"] if entry["established"]]
    everywhere = len(found) == len(offset["classes"])
    one = min((entry["cosine"] for entry in found), default=1.0) >= _SAME
    places = "every token" if everywhere else " and ".join(_CLASSES[entry["name"]] for entry in found)
    direction = "one constant direction" if one else "a constant direction for each class of tokens,"
    total = sum(entry["token_share"] for entry in found)
    carried = sum(entry["token_share"] * entry["carried"] for entry in found) / total if total else None
    return say(
        f"{direction} on {places} (at least half of it on {{carried:percent}} of them)", carried=carried
    )


def _subspaces(subspaces: Sequence[Mapping[str, Any]]) -> Sentence:
    shown = subspaces[:_SHOWN]
    return say(
        "{n:counted subspace} changed as a whole, found again by the other trainings, each with other latents: {list}{more}.",
        n=len(subspaces),
        list=listed(
            (
                (
                    f"subspace_{place}",
                    say(
                        "{dimension} dimensions, active on {token_share:percent} of the tokens (mean cosine between trainings {stability:.2f}, by "
                        "chance {chance:.2f})",
                        **{key: entry[key] for key in ("dimension", "token_share", "stability", "chance")},
                    ),
                )
                for place, entry in enumerate(shown)
            ),
            "; ",
        ),
        more=say("; and {others} more", others=len(subspaces) - len(shown))
        if len(subspaces) > len(shown)
        else "",
    )
