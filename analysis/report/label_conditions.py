"""The conditions that a run must meet to be labeled, from the section `checks` of summary.json, in words."""

from collections.abc import Mapping
from typing import Any

from .fields import Verdict
from .phrases import NOT_MEASURED, Number
from .schema import Check
from .wording import Sentence, named, say

_LONGER = "train longer (training.n_tokens)"
_TRAINED = "_trained"

_CONTROL_CHECKS = {
    "identity_unchanged": (
        "control identity: nothing is called changed",
        "share of the latents that are called changed when the reference is compared with itself",
    ),
    "shuffled_parted": (
        "control shuffled: nothing is called shared",
        "share of the latents that are called shared when each token is paired with a different one, so that nothing is shared",
    ),
}


def conditions_of(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entries of the section by name; empty if an earlier release made the analysis, which had none."""
    return {entry["name"]: entry for entry in summary.get("checks") or ()}


def verdict_of(entry: Mapping[str, Any] | None) -> Verdict:
    """Return the verdict of a condition; `not measured` if it was not checked."""
    passed = None if entry is None else entry["passed"]
    return NOT_MEASURED if passed is None else "pass" if passed else "fail"


def is_withheld(summary: Mapping[str, Any]) -> bool:
    """Whether no latent is labeled, because the run missed a condition."""
    failed = any(entry["passed"] is False for entry in conditions_of(summary).values())
    return failed or bool(summary.get("withheld"))


def control_checks(summary: Mapping[str, Any]) -> tuple[Check, ...]:
    """Return the conditions on the controls; those on reconstruction and sparsity are among the conditions for a comparison."""
    return tuple(
        _control_check(name, entry)
        for name, entry in conditions_of(summary).items()
        if name in _CONTROL_CHECKS or name.endswith(_TRAINED)
    )


def _control_check(name: str, entry: Mapping[str, Any]) -> Check:
    if name in _CONTROL_CHECKS:
        title, meaning = _CONTROL_CHECKS[name]
        bound = "at most {limit:percent}"
    else:
        title = f"control {_control(name)}: trained as well as the run"
        meaning = "variance that the control's dictionary explains; one that explains far less than the run's shows nothing"
        bound = "at least {limit:percent}"
    return Check(
        name=title,
        value=entry["found"],
        shown=say("{value:percent}", value=entry["found"]),
        threshold=say(bound, limit=entry["limit"]),
        verdict=verdict_of(entry),
        meaning=meaning,
    )


def _control(name: str) -> str:
    return name.removesuffix(_TRAINED)


def found_by(name: str, entry: Mapping[str, Any], summary: Mapping[str, Any]) -> Sentence:
    """Return what a condition found, and what it asks for."""
    found, limit = entry["found"], entry["limit"]
    numbers: dict[str, Number | None] = {"found": found, "limit": limit}
    match name:
        case "fve_reference" | "fve_intervened":
            model = "reference" if name == "fve_reference" else "intervened model"
            return say(
                f"the dictionary explains {{found:percent}} of the variance of the {model} (at least {{limit:percent}} asked for)",
                **numbers,
            )
        case "l0":
            return say(
                "{l0:.1f} latents fire on a held-out token, {target:g} were asked for (within {limit:percent})",
                l0=summary.get("l0"),
                target=summary.get("l0_target"),
                limit=limit,
            )
        case "identity_unchanged":
            return say(
                "when the reference is compared with itself, {found:percent} of the latents are called changed (at most {limit:percent} allowed)",
                **numbers,
            )
        case "shuffled_parted":
            return say(
                "of pairs of unrelated tokens, which share nothing, {found:percent} of the latents are called shared (at most {limit:percent} allowed)",
                **numbers,
            )
        case _ if name.endswith(_TRAINED):
            return say(
                "the control {control} explains {found:percent} of the variance (at least {limit:percent} asked for, near what the run explains)",
                control=named(_control(name)),
                **numbers,
            )
        case _:
            return say("{check}: {found:.4g} (limit {limit:.4g})", check=named(name), **numbers)


def what_to_change(name: str) -> str:
    """Return what to change if a condition failed."""
    match name:
        case "fve_reference" | "fve_intervened":
            return f"{_LONGER}, or raise k or crosscoder.n_latents"
        case "l0":
            return f"{_LONGER}, or give more text"
        case _:
            return _LONGER


def withheld_sentence(summary: Mapping[str, Any]) -> Sentence:
    """Return that nothing is labeled, why, and what to change."""
    failed = {name: entry for name, entry in conditions_of(summary).items() if entry["passed"] is False}
    if not failed:
        return say("Nothing is labeled: {why}.", why=named(summary.get("withheld")))
    reasons = {
        f"reason{place}": found_by(name, entry, summary).under(name)
        for place, (name, entry) in enumerate(failed.items())
    }
    advice = dict.fromkeys(what_to_change(name) for name in failed)
    return say(
        f"Nothing is labeled: {'; '.join(f'{{{place}}}' for place in reasons)}. What to change: {{advice}}.",
        advice=_joined_advice(list(advice)),
        **reasons,
    )


def _joined_advice(advice: list[str]) -> str:
    """Return one line of advice; what several conditions ask for is said once."""
    shown = [one for one in advice if one != _LONGER or len(advice) == 1]
    return "; ".join(shown)
