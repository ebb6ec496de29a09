"""What carries most of the change, in words: the source of a report's first sentence."""

from collections.abc import Mapping
from typing import Any, NamedTuple

ALIKE = 0.9
"""Cosine from which the offsets of two classes of tokens are one direction."""

EVERY_TOKEN = 0.95
"""Share of the tokens that counts as every token."""

_TEMPLATES = {
    "one_sided": "{share:percent} of the change is {latents:counted latent} of one model only, found again by other trainings",
    "map": "{share:percent} of the change is one linear map of rank {rank}, on all tokens",
    "two_sided": "{share:percent} of the change is {latents:counted latent} of both models that changed, found again by other trainings",
    "other_latents": "{share:percent} of the change is in latents of which no change is established",
    "bias": "{share:percent} of the change is a constant of the dictionary that is not established as an offset",
    "error": "{share:percent} of the change is explained by nothing that was found",
}


class LeadingPart(NamedTuple):
    """A sentence without its full stop, for `say(template, **numbers)`."""

    name: str
    """A part (`partition.PARTS`)."""
    template: str
    numbers: dict[str, int | float]


def leading_part(change: Mapping[str, Any]) -> LeadingPart:
    """Return the words for the part with the largest share, from `summary["change"]`."""
    name = change["largest"]
    numbers: dict[str, int | float] = {"share": change["parts"][name]["share"]}
    if name == "offset":
        return LeadingPart(name, _offset_words(change["offset"]["classes"]), numbers)
    if name == "subspaces":
        return _subspaces(change["subspaces"], numbers)
    if name in change["latents"]:
        numbers["latents"] = change["latents"][name]
    if name == "map":
        numbers["rank"] = change["map"]["rank"]
    return LeadingPart(name, _TEMPLATES[name], numbers)


def _offset_words(classes: list[dict[str, Any]]) -> str:
    """Return the words for an offset: one direction, or one for each class of tokens that has one."""
    found = [entry for entry in classes if entry["established"]]
    tokens = sum(entry["token_share"] for entry in found)
    carried = sum(entry["token_share"] * entry["carried"] for entry in found)
    if tokens >= EVERY_TOKEN and all(entry["cosine"] >= ALIKE for entry in found):
        where = "every token" if carried >= EVERY_TOKEN else "most tokens"
        return "{share:percent} of the change is one constant direction on " + where
    what = "one constant direction" if len(found) == 1 else "constant directions, one for each class,"
    names = " and ".join(_CLASS_WORDS[entry["name"]] for entry in found)
    return "{share:percent} of the change is " + f"{what} on {names}"


_CLASS_WORDS = {
    "first": "the first tokens of documents",
    "template": "tokens of the chat template",
    "other": "tokens of the text",
    "all": "every token",
}


def _subspaces(found: list[dict[str, Any]], numbers: dict[str, int | float]) -> LeadingPart:
    if len(found) == 1:
        numbers |= {"dimension": found[0]["dimension"], "tokens": found[0]["token_share"]}
        words = "a subspace of {dimension} dimensions, active on {tokens:percent} of the tokens"
    else:
        numbers["subspaces"] = len(found)
        words = "within {subspaces:counted subspace} that other trainings found too"
    return LeadingPart("subspaces", "{share:percent} of the change is " + words, numbers)
