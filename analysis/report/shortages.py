"""Why something is not established, what it would need, and what could not have been seen."""

from typing import Any

from .phrases import unit_format
from .wording import Part, Sentence, named, say

_POWER = 0.8
"""Probability with which a detectable shift is established (`analysis.behaviors.shift_power`)."""


def not_established(shift: dict[str, Any], unit: str) -> Sentence:
    """Return why no shift is established, what that would need, and what could not have been seen."""
    match shift["verdict"]:
        case "no difference":
            return say("No shift established: both models have the same value on every prompt.")
        case "not enough prompts":
            return say(
                "No shift established: {prompts:counted held-out prompt} cannot establish a shift, however large; it takes at least {needed}.{power}",
                prompts=shift["n_prompts"],
                needed=shift["prompts_needed"],
                power=unseen(shift, unit),
            )
        case "smaller than asked":
            return say(
                "No shift established: the difference, with its interval, is smaller than its settings ask for.{power}",
                power=unseen(shift, unit),
            )
        case _:
            return say(
                "No shift established: the difference is not above its noise floor.{power}",
                power=unseen(shift, unit),
            )


def unseen(shift: dict[str, Any], unit: str) -> Part:
    """Return the smallest shift that the prompts would have shown; empty if it is unknown."""
    form = unit_format(unit)
    if shift["detectable"] is not None:
        return say(
            f" A shift under {{detectable:{form}}}{{unit}} could not have been seen reliably with {{detectable_with:counted prompt}} (it is seen with "
            "a probability of {power:percent} from there on).",
            detectable=shift["detectable"],
            unit="" if form == "percent" else f" {unit}",
            detectable_with=shift["n_prompts"],
            power=_POWER,
        )
    if shift["detectable_when_enough"] is not None:
        return say(
            f" With {{detectable_with:counted prompt}} of the same spread, a shift under {{detectable:{form}}}{{unit}} would still not be seen "
            "reliably.",
            detectable=shift["detectable_when_enough"],
            unit="" if form == "percent" else f" {unit}",
            detectable_with=shift["prompts_needed"],
        )
    return ""


def check_lacks(check: dict[str, Any], n_prompts: int) -> Sentence | None:
    """Return why a check was not made, and what it would need; None if it was made."""
    if check["made"]:
        return None
    needs = check["needs"] or {}
    if "prompts" in needs:
        return say(
            "not checked: {have:counted held-out prompt} are too few, {needed} are needed",
            have=n_prompts,
            needed=needs["prompts"],
        )
    if "draws" in needs:
        return say(
            "not checked: it would need {needed} different random draws, and there are fewer",
            needed=needs["draws"],
        )
    return say("not checked: {why}", why=named(check["why_not"]))
