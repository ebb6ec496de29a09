"""Behaviors in the report: how they shifted, which latents carry that, and what is left over, worded no stronger than the evidence."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from ..behaviors.behavior_files import LEAST_SHARE, BehaviorResults
from .behavior_schema import (
    BehaviorShift,
    CarryingLatent,
    CausalCheck,
    CurvePoint,
    Dose,
    Estimate,
    Explanation,
    LayerShare,
    Origin,
)
from .claims import PAGE
from .wording import Part, Sentence, listed, say

_HALF, _ALL = 0.5, 0.95
"""Of the shift: the first layers at which so much stands are told."""

_STEP = 0.005
"""Of the shift: layers that add less are not told."""

_ORIGINS = (
    ("latents", "by all latents together, at the hookpoint"),
    ("bias", "a constant offset between the models, at the hookpoint"),
    ("error", "what the dictionary does not rebuild, at the hookpoint"),
    ("tokens left out", "on tokens that the dictionary does not read, at the hookpoint"),
    ("integration", "what the attributions miss: the error of the integration"),
    ("above the hookpoint", "done by what comes after it, or does not pass through it"),
)

_ORIGINS_APART = (
    (
        "latents",
        "by all latents together: what they do in the intervened model minus what they do in the reference",
    ),
    ("error", "what the dictionary does not rebuild, in the one model minus in the other"),
    ("tokens left out", "on tokens that have no counterpart in the other model"),
    ("baseline", "there already with every token at its mean activation"),
    ("integration", "what the attributions miss: the error of the integration"),
)

_LEVELS = {
    "causal": say(
        "These latents cause some of it, as far as these checks go: the interval lies above {least:percent}, and random latents do not "
        "reach it.",
        least=LEAST_SHARE,
    ),
    "associated": "The latents are associated with the shift; that they cause it is not shown.",
    "observed": "That these latents have to do with the shift is not shown on held-out prompts.",
}

_REASONS = {
    "no difference": "No shift established: both models give the same on every prompt.",
    "below the noise floor": "No shift established: it lies below its noise floor.",
    "smaller than asked": "No shift established: it is smaller than what counts as one in its settings.",
}


def behavior_shifts(behaviors: tuple[BehaviorResults, ...]) -> tuple[BehaviorShift, ...]:
    """Every behavior that was attributed."""
    return tuple(_behavior(results) for results in behaviors)


def _behavior(results: BehaviorResults) -> BehaviorShift:
    shift = results.shift["shift"]
    return BehaviorShift(
        name=results.name,
        description=str(results.shift["description"]),
        unit=results.shift["unit"],
        established=shift["established"],
        reference=Estimate(**shift["reference"]),
        intervened=Estimate(**shift["intervened"]),
        shift=Estimate(**shift["size"]),
        floor=shift["floor"],
        p_value=shift["p_value"],
        sentences=tuple(_sentences(results)),
        explanation=_explanation(results),
    )


def _explanation(results: BehaviorResults) -> Explanation | None:
    attribution, causal = results.attribution, results.causal
    if attribution is None or causal is None:
        return None
    shares, answers = results.shares, causal["answers"]
    return Explanation(
        origins=tuple(_origins(attribution["held_out"])),
        level=causal["level"],
        latents=tuple(
            CarryingLatent(
                latent=entry["latent"],
                evidence=entry["evidence"],
                attribution=shares.get(entry["latent"]),
                necessity=_check(entry["necessity"]),
                sufficiency=_check_if_defined(entry["sufficiency"]),
                link=f"{PAGE}#latent={entry['latent']}",
            )
            for entry in causal["latents"]
        ),
        necessity=_check(causal["together"]["necessity"]),
        sufficiency=_check_if_defined(causal["together"]["sufficiency"]),
        answers_necessity=_check(answers["together"]["necessity"]) if answers else None,
        answers_sufficiency=_check(answers["together"]["sufficiency"]) if answers else None,
        curve=tuple(
            CurvePoint(
                latents=point["n"],
                necessity=Estimate(**point["necessity"]),
                sufficiency=None if point["sufficiency"] is None else Estimate(**point["sufficiency"]),
            )
            for point in causal["curve"]
        ),
        layers=tuple(
            LayerShare(
                layer=row["layer"], represented=Estimate(**row["represented"]), hookpoint=row["hookpoint"]
            )
            for row in _telling(attribution["layers"] or ())
        ),
        doses=tuple(
            Dose(
                share=Estimate(**row["share"]),
                kl=Estimate(**row["kl"]),
                **{
                    key: row[key]
                    for key in ("model", "direction", "dose", "perplexity", "perplexity_changed")
                },
            )
            for row in causal["steering"]
        ),
    )


def _telling(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Layers at which something changes, the one before the first of them, the hookpoint, and the last."""
    shares = [row["represented"]["value"] or 0.0 for row in layers]
    steps = [abs(after - before) > _STEP for before, after in pairwise(shares)]
    return [
        row
        for place, row in enumerate(layers)
        if row["hookpoint"] or place == len(layers) - 1 or any(steps[max(0, place - 1) : place + 1])
    ]


def _origins(parts: dict[str, Any]) -> Iterator[Origin]:
    """The shift taken apart; only at and above the hookpoint where there are no attributions."""
    found = parts["parts"]
    if parts["represented"] is None:
        yield from _origins_apart(parts)
        return
    named = {"above the hookpoint": parts["above"]["share"]}
    if found is None:
        named = {"at the hookpoint": parts["represented"]["share"]} | named
        meanings = {"at the hookpoint": "in the activations that the dictionary reads", **dict(_ORIGINS)}
    else:
        residual = parts["residual_share"]
        named |= {
            "latents": found["latents"]["share"],
            "bias": found["bias"]["share"],
            "error": found["error"]["share"],
            "tokens left out": found["left_out"]["share"],
            "integration": {"value": residual, "low": None, "high": None},
        }
        meanings = dict(_ORIGINS)
    for name, meaning in meanings.items():
        if name in named:
            yield Origin(name=name, share=Estimate(**named[name]), meaning=meaning)


def _origins_apart(parts: dict[str, Any]) -> Iterator[Origin]:
    """The shift between two models that share no space."""
    found = parts["parts"]
    named = {
        "latents": found["latents"]["share"],
        "error": found["error"]["share"],
        "tokens left out": found["left_out"]["share"],
        "baseline": parts["baseline"]["share"],
        "integration": {"value": parts["residual_share"], "low": None, "high": None},
    }
    for name, meaning in _ORIGINS_APART:
        yield Origin(name=name, share=Estimate(**named[name]), meaning=meaning)


def _check_if_defined(entry: dict[str, Any] | None) -> CausalCheck | None:
    return None if entry is None else _check(entry)


def _check(entry: dict[str, Any]) -> CausalCheck:
    return CausalCheck(
        share=Estimate(**{key: entry[key] for key in ("value", "low", "high")}),
        random_largest=entry["random_largest"],
        n_random=len(entry["random"]),
        p_value=entry["p_value"],
        passed=entry["passed"],
    )


# --- in words ---------------------------------------------------------------------------------------------------------


def _sentences(results: BehaviorResults) -> Iterator[Sentence]:
    yield _shifted(results)
    shift, causal = results.shift, results.causal
    if not shift["shift"]["established"]:
        yield say(_REASONS[shift["shift"]["verdict"]] + " Nothing is explained.")
        return
    if causal is None or results.attribution is None:
        yield say("Its parts are not told apart: {why}.", why=shift["why_not"] or "no latent was looked for")
        return
    if shift["stand_in"] is not None:
        yield say(
            "Latents were found, and shares measured, with a metric that has a gradient and stands in for it: a shift of "
            "{stand_in} {unit}.",
            stand_in=_ranged("stand_in", shift["stand_in"]["size"], form_of(shift["stand_in"]["unit"])),
            unit=shift["stand_in"]["unit"],
        )
    if results.attribution["held_out"]["represented"] is None:
        yield from _told_apart(results, results.attribution["held_out"], causal)
        return
    yield from _layers(results.attribution["layers"] or ())
    yield _carried(results)
    yield _checked(causal)
    if causal["answers"] is not None:
        yield _answered(causal["answers"], len(causal["named"]))
    yield _cost(causal)
    yield say(
        "Encoding and decoding alone, with nothing taken out, moves the intervened model by {rebuilding} of the shift.",
        rebuilding=_ranged("rebuilding", causal["rebuilding"]["intervened"]),
    )


def _told_apart(
    results: BehaviorResults, parts: dict[str, Any], causal: dict[str, Any]
) -> Iterator[Sentence]:
    """Of two models that share no space."""
    named = [results.shares[latent] for latent in causal["named"]]
    yield say(
        "The models share no space, so each one's behavior is attributed within itself, from its mean activation on held-out text. "
        "What latents do in the intervened model minus what they do in the reference makes {latents} of the shift, the "
        "{n_named:counted latent} named below {named:percent}; the dictionary's error {error}, tokens without a counterpart {left_out}, "
        "and {baseline} is there at the means already. The attributions miss {residual:percent}.",
        latents=_ranged("latents", parts["parts"]["latents"]["share"]),
        n_named=len(named),
        named=sum(named),
        error=_ranged("error", parts["parts"]["error"]["share"]),
        left_out=_ranged("left_out", parts["parts"]["left_out"]["share"]),
        baseline=_ranged("baseline", parts["baseline"]["share"]),
        residual=abs(parts["residual_share"]),
    )
    necessity = causal["together"]["necessity"]
    yield say(
        "Brought to their mean in the intervened model, {n_named:counted latent} together undo {necessity} of what it does above its "
        "mean activation{random_necessity}. Whether they would bring it about in the reference is undefined. {level}",
        n_named=len(named),
        necessity=_ranged("necessity", necessity),
        random_necessity=_beside("necessity", necessity),
        level=_LEVELS[causal["level"]],
    )
    yield _cost(causal)
    yield say(
        "Encoding and decoding alone, with nothing taken out, moves the intervened model by {rebuilding} of what it does above its mean.",
        rebuilding=_ranged("rebuilding", causal["rebuilding"]["intervened"]),
    )


def _shifted(results: BehaviorResults) -> Sentence:
    shift, form = results.shift["shift"], form_of(results.shift["unit"])
    return say(
        "On {n_held_out:whole} held-out prompts: {reference} in the reference and {intervened} in the intervened model ({unit}), a "
        "difference of {shift}.{chance}",
        n_held_out=results.shift["n_held_out"],
        unit=results.shift["unit"],
        reference=say(f"{{reference:{form}}}", reference=shift["reference"]["value"]),
        intervened=say(f"{{intervened:{form}}}", intervened=shift["intervened"]["value"]),
        shift=_ranged("shift", shift["size"], form),
        chance=say(
            f" Chance reaches {{floor:{form}}} (models exchanged prompt by prompt; p {{p_value:.4f}}).",
            floor=shift["floor"],
            p_value=shift["p_value"],
        )
        if shift["floor"]
        else "",
    )


def _layers(layers: Any) -> Iterator[Sentence]:
    reached: dict[str, Part] = {}
    for name, share in (("half", _HALF), ("all", _ALL)):
        first = next((row for row in layers if (row["represented"]["value"] or 0) >= share), None)
        if first is None:
            return
        reached |= {f"{name}_layer": first["layer"], f"{name}_share": share}
    yield say(
        "By exchanging activations layer by layer: {half_share:percent} of the shift stands after layer {half_layer:whole}, "
        "{all_share:percent} after layer {all_layer:whole}.",
        **reached,
    )


def _carried(results: BehaviorResults) -> Sentence:
    assert results.attribution is not None and results.causal is not None
    parts = results.attribution["held_out"]
    if parts["parts"] is None:
        return say(
            "Of it {represented} stands at the hookpoint; the rest is done above it.",
            represented=_ranged("represented", parts["represented"]["share"]),
        )
    named = [results.shares[latent] for latent in results.causal["named"]]
    return say(
        "Latents carry {latents} of it, the {n_named:counted latent} named below {named:percent}; the dictionary's error carries "
        "{error}, its bias {bias:percent}, and what comes after the hookpoint {above}. The attributions miss {residual:percent}.",
        latents=_ranged("latents", parts["parts"]["latents"]["share"]),
        n_named=len(named),
        named=sum(named),
        error=_ranged("error", parts["parts"]["error"]["share"]),
        bias=parts["parts"]["bias"]["share"]["value"],
        above=_ranged("above", parts["above"]["share"]),
        residual=abs(parts["residual_share"]),
    )


def _checked(causal: dict[str, Any]) -> Sentence:
    necessity, sufficiency = causal["together"]["necessity"], causal["together"]["sufficiency"]
    return say(
        "Taken out of the intervened model, {n_named:counted latent} together undo {necessity} of the shift{random_necessity}; put into the "
        "reference's activations they bring {sufficiency} of it{random_sufficiency}. {level}",
        n_named=len(causal["named"]),
        necessity=_ranged("necessity", necessity),
        random_necessity=_beside("necessity", necessity),
        sufficiency=_ranged("sufficiency", sufficiency),
        random_sufficiency=_beside("sufficiency", sufficiency),
        level=_LEVELS[causal["level"]],
    )


def _beside(name: str, check: dict[str, Any]) -> Part:
    if not check["random"]:
        return " (with no random latents beside them)"
    return say(
        " (random latents at most {largest:percent} in {draws:counted draw})",
        largest=check["random_largest"],
        draws=len(check["random"]),
    ).under(name)


def _answered(answers: dict[str, Any], n_named: int) -> Sentence:
    more = [
        (
            f"first_{point['n']}",
            say(
                "; the first {n:whole} undo {necessity} and bring {sufficiency}",
                n=point["n"],
                necessity=_ranged("necessity", point["necessity"]),
                sufficiency=_ranged("sufficiency", point["sufficiency"]),
            ),
        )
        for point in answers["curve"]
    ]
    necessity, sufficiency = answers["together"]["necessity"], answers["together"]["sufficiency"]
    return say(
        "In generated answers the {n_named:counted latent} undo {necessity} of the shift{random_necessity} and bring {sufficiency} of "
        "it{random_sufficiency}{more}.",
        n_named=n_named,
        necessity=_ranged("necessity", necessity),
        random_necessity=_beside("necessity", necessity),
        sufficiency=_ranged("sufficiency", sufficiency),
        random_sufficiency=_beside("sufficiency", sufficiency),
        more=listed(more, separator="") if more else "",
    )


def _cost(causal: dict[str, Any]) -> Sentence:
    cost = causal["removal_cost"]
    return say(
        "On unrelated text taking them out changes the next-token prediction by {kl:.5f} nats (KL), and perplexity from "
        "{perplexity:.2f} to {perplexity_changed:.2f}.",
        kl=cost["kl"]["value"],
        perplexity=cost["perplexity"],
        perplexity_changed=cost["perplexity_changed"],
    )


def _ranged(name: str, estimate: dict[str, Any], form: str = "percent") -> Sentence:
    """A number and, where there is one, its interval."""
    bounds = (
        ""
        if estimate["low"] is None or estimate["high"] is None
        else f" ({{{name}_low:{form}}} to {{{name}_high:{form}}})"
    )
    numbers = {
        name: estimate["value"],
        f"{name}_low": estimate["low"],
        f"{name}_high": estimate["high"],
    }
    return say(f"{{{name}:{form}}}{bounds}", **numbers)


def form_of(unit: str) -> str:
    """How a number of this unit is shown: the format of a place in a sentence."""
    return "percent" if unit == "share of answers" else ".2f"
