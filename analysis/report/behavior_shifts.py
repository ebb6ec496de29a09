"""Behaviors in the report: how they shifted, which latents carry the shift, and what is left over, worded within the evidence."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from ..behaviors.behavior_files import MIN_SHARE, BehaviorResults
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
from .phrases import unit_format
from .wording import Part, Sentence, listed, say

_HALF, _ALL = 0.5, 0.95
"""Shares of the shift: the first layers with at least this much are named."""

_STEP = 0.005
"""Share of the shift: layers that change it by less are omitted."""

_ORIGINS = (
    ("latents", "all latents together, at the hookpoint"),
    ("bias", "a constant offset between the models, at the hookpoint"),
    ("error", "what the dictionary does not reconstruct, at the hookpoint"),
    ("tokens left out", "tokens that the dictionary does not read, at the hookpoint"),
    ("integration", "what the attributions miss: the error of the integration"),
    ("above the hookpoint", "added by the layers after it, or bypassing it"),
)

_ORIGINS_WITHIN = (
    ("latents", "all latents together: their effect in the intervened model minus that in the reference"),
    ("error", "what the dictionary does not reconstruct: intervened model minus reference"),
    ("tokens left out", "tokens without a counterpart in the other model"),
    ("baseline", "present with every token at its mean activation: intervened model minus reference"),
    ("integration", "what the attributions miss: the error of the integration"),
)

_LEVELS = {
    "causal": say(
        "As far as these checks go, these latents cause some of it: in at least one check the interval lies above {least:percent}, and "
        "random latents do not reach it.",
        least=MIN_SHARE,
    ),
    "associated": "The latents are associated with the shift; that they cause it is not shown.",
    "observed": "On held-out prompts, these latents are not shown to be related to the shift.",
}

_REASONS = {
    "no difference": "No shift established: both models have the same value on every prompt.",
    "below the noise floor": "No shift established: the difference is below its noise floor.",
    "smaller than asked": "No shift established: the difference is smaller than its settings ask for.",
}


def behavior_shifts(behaviors: tuple[BehaviorResults, ...]) -> tuple[BehaviorShift, ...]:
    """Return every behavior that was measured, in words and numbers."""
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
    shares, answers, sufficiency = results.shares, causal["answers"], causal["together"]["sufficiency"]
    return Explanation(
        origins=tuple(_origins(attribution["held_out"])),
        level=causal["level"],
        latents=tuple(
            CarryingLatent(
                latent=entry["latent"],
                evidence=entry["evidence"],
                attribution=shares.get(entry["latent"]),
                necessity=_check(entry["necessity"]),
                sufficiency=entry["sufficiency"] and _check(entry["sufficiency"]),
                link=f"{PAGE}#latent={entry['latent']}",
            )
            for entry in causal["latents"]
        ),
        necessity=_check(causal["together"]["necessity"]),
        sufficiency=sufficiency and _check(sufficiency),
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
            for row in _changing_layers(attribution["layers"] or ())
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


def _changing_layers(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the layers next to a change of the share, the hookpoint, and the last."""
    shares = [row["represented"]["value"] or 0.0 for row in layers]
    steps = [abs(after - before) > _STEP for before, after in pairwise(shares)]
    return [
        row
        for place, row in enumerate(layers)
        if row["hookpoint"] or place == len(layers) - 1 or any(steps[max(0, place - 1) : place + 1])
    ]


def _origins(parts: dict[str, Any]) -> Iterator[Origin]:
    """Yield the parts of the shift; without attributions only those at and above the hookpoint."""
    found = parts["parts"]
    if parts["represented"] is None:
        yield from _origins_within(parts)
        return
    named = {"above the hookpoint": parts["above"]["share"]}
    if found is None:
        named = {"at the hookpoint": parts["represented"]["share"]} | named
        meanings = {"at the hookpoint": "in the activations that the dictionary reads", **dict(_ORIGINS)}
    else:
        named |= {
            "latents": found["latents"]["share"],
            "bias": found["bias"]["share"],
            "error": found["error"]["share"],
            "tokens left out": found["left_out"]["share"],
            "integration": {"value": parts["residual_share"], "low": None, "high": None},
        }
        meanings = dict(_ORIGINS)
    for name, meaning in meanings.items():
        if name in named:
            yield Origin(name=name, share=Estimate(**named[name]), meaning=meaning)


def _origins_within(parts: dict[str, Any]) -> Iterator[Origin]:
    """Yield the parts of the shift between models that share no space: each is a difference of effects within the two."""
    found = parts["parts"]
    named = {
        "latents": found["latents"]["share"],
        "error": found["error"]["share"],
        "tokens left out": found["left_out"]["share"],
        "baseline": parts["baseline"]["share"],
        "integration": {"value": parts["residual_share"], "low": None, "high": None},
    }
    for name, meaning in _ORIGINS_WITHIN:
        yield Origin(name=name, share=Estimate(**named[name]), meaning=meaning)


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
    yield _shift_sentence(results)
    shift, causal = results.shift, results.causal
    if not shift["shift"]["established"]:
        yield say(_REASONS[shift["shift"]["verdict"]] + " Nothing is attributed to latents.")
        return
    if causal is None or results.attribution is None:
        yield say(
            "The shift is not attributed to latents: {why}.",
            why=shift["why_not"] or "no attribution was made",
        )
        return
    if shift["stand_in"] is not None:
        yield say(
            "Latents were found, and their shares measured, with a stand-in metric, which has a gradient; it shifts by {stand_in} {unit}.",
            stand_in=_with_interval(
                "stand_in", shift["stand_in"]["size"], unit_format(shift["stand_in"]["unit"])
            ),
            unit=shift["stand_in"]["unit"],
        )
    if results.attribution["held_out"]["represented"] is None:
        yield from _within_each_model(results, results.attribution["held_out"], causal)
        return
    yield from _layer_sentence(results.attribution["layers"] or ())
    yield _origin_sentence(results)
    yield _causal_sentence(causal)
    if causal["answers"] is not None:
        yield _answer_sentence(causal["answers"], len(causal["named"]))
    yield _cost(causal)
    yield say(
        "Replacing the intervened model's activations by their reconstruction, with no latent removed, moves its behavior by {rebuilding} of the shift.",
        rebuilding=_with_interval("rebuilding", causal["rebuilding"]["intervened"]),
    )


def _within_each_model(
    results: BehaviorResults, parts: dict[str, Any], causal: dict[str, Any]
) -> Iterator[Sentence]:
    """Yield the sentences about two models that share no space."""
    named = [results.shares[latent] for latent in causal["named"]]
    yield say(
        "The models share no activation space, so each model's behavior is attributed within it, starting from its mean activation on "
        "held-out text. The effect of latents in the intervened model minus that in the reference is {latents} of the shift "
        "({named:percent} for the {n_named:counted latent} named below). The dictionary's error carries {error}, tokens without a "
        "counterpart {left_out}, and {baseline} is already present at the means. The attributions miss {residual:percent}.",
        latents=_with_interval("latents", parts["parts"]["latents"]["share"]),
        n_named=len(named),
        named=sum(named),
        error=_with_interval("error", parts["parts"]["error"]["share"]),
        left_out=_with_interval("left_out", parts["parts"]["left_out"]["share"]),
        baseline=_with_interval("baseline", parts["baseline"]["share"]),
        residual=abs(parts["residual_share"]),
    )
    necessity = causal["together"]["necessity"]
    yield say(
        "Setting {n_named:counted latent} together to their mean in the intervened model undoes {necessity} of what it does beyond its "
        "mean activation{random_necessity}. Whether they would produce it in the reference is undefined. {level}",
        n_named=len(named),
        necessity=_with_interval("necessity", necessity),
        random_necessity=_random_latents("necessity", necessity),
        level=_LEVELS[causal["level"]],
    )
    yield _cost(causal)
    yield say(
        "Replacing the intervened model's activations by their reconstruction, with no latent removed, moves its behavior by {rebuilding} of what it "
        "does beyond its mean activation.",
        rebuilding=_with_interval("rebuilding", causal["rebuilding"]["intervened"]),
    )


def _shift_sentence(results: BehaviorResults) -> Sentence:
    shift, form = results.shift["shift"], unit_format(results.shift["unit"])
    return say(
        "On {n_held_out:whole} held-out prompts: {reference} in the reference and {intervened} in the intervened model ({unit}), a "
        "difference of {shift}.{noise_floor}",
        n_held_out=results.shift["n_held_out"],
        unit=results.shift["unit"],
        reference=say(f"{{reference:{form}}}", reference=shift["reference"]["value"]),
        intervened=say(f"{{intervened:{form}}}", intervened=shift["intervened"]["value"]),
        shift=_with_interval("shift", shift["size"], form),
        noise_floor=say(
            f" The noise floor is {{floor:{form}}}: what chance reaches if the models are exchanged prompt by prompt (p = {{p_value:.4f}}).",
            floor=shift["floor"],
            p_value=shift["p_value"],
        )
        if shift["floor"]
        else "",
    )


def _layer_sentence(layers: Any) -> Iterator[Sentence]:
    reached: dict[str, Part] = {}
    for name, share in (("half", _HALF), ("all", _ALL)):
        first = next((row for row in layers if (row["represented"]["value"] or 0) >= share), None)
        if first is None:
            return
        reached |= {f"{name}_layer": first["layer"], f"{name}_share": share}
    yield say(
        "The share of the shift that is present in the activations reaches {half_share:percent} after layer {half_layer:whole} and "
        "{all_share:percent} after layer {all_layer:whole} (found by exchanging the models' activations, layer by layer).",
        **reached,
    )


def _origin_sentence(results: BehaviorResults) -> Sentence:
    assert results.attribution is not None and results.causal is not None
    parts = results.attribution["held_out"]
    if parts["parts"] is None:
        return say(
            "{represented} of the shift is present at the hookpoint; the layers above add the rest.",
            represented=_with_interval("represented", parts["represented"]["share"]),
        )
    named = [results.shares[latent] for latent in results.causal["named"]]
    return say(
        "Latents carry {latents} of the shift ({named:percent} for the {n_named:counted latent} named below). The dictionary's error carries "
        "{error}, its bias {bias:percent}, and the layers after the hookpoint {above}. The attributions miss {residual:percent}.",
        latents=_with_interval("latents", parts["parts"]["latents"]["share"]),
        n_named=len(named),
        named=sum(named),
        error=_with_interval("error", parts["parts"]["error"]["share"]),
        bias=parts["parts"]["bias"]["share"]["value"],
        above=_with_interval("above", parts["above"]["share"]),
        residual=abs(parts["residual_share"]),
    )


def _causal_sentence(causal: dict[str, Any]) -> Sentence:
    necessity, sufficiency = causal["together"]["necessity"], causal["together"]["sufficiency"]
    return say(
        "Removing {n_named:counted latent} together from the intervened model undoes {necessity} of the shift{random_necessity}. Adding them to "
        "the reference's activations, on which the intervened model's later layers then run, produces {sufficiency} of "
        "it{random_sufficiency}. {level}",
        n_named=len(causal["named"]),
        necessity=_with_interval("necessity", necessity),
        random_necessity=_random_latents("necessity", necessity),
        sufficiency=_with_interval("sufficiency", sufficiency),
        random_sufficiency=_random_latents("sufficiency", sufficiency),
        level=_LEVELS[causal["level"]],
    )


def _random_latents(name: str, check: dict[str, Any]) -> Part:
    if not check["random"]:
        return " (not compared with random latents)"
    return say(
        " (random latents at most {largest:percent} in {draws:counted draw})",
        largest=check["random_largest"],
        draws=len(check["random"]),
    ).under(name)


def _answer_sentence(answers: dict[str, Any], n_named: int) -> Sentence:
    more = [
        (
            f"first_{point['n']}",
            say(
                "; removing the {n:whole} strongest latents undoes {necessity}, and adding them produces {sufficiency}",
                n=point["n"],
                necessity=_with_interval("necessity", point["necessity"]),
                sufficiency=_with_interval("sufficiency", point["sufficiency"]),
            ),
        )
        for point in answers["curve"]
    ]
    necessity, sufficiency = answers["together"]["necessity"], answers["together"]["sufficiency"]
    return say(
        "In generated answers, removing the {n_named:counted latent} undoes {necessity} of the shift{random_necessity}, and adding them "
        "produces {sufficiency} of it{random_sufficiency}{more}.",
        n_named=n_named,
        necessity=_with_interval("necessity", necessity),
        random_necessity=_random_latents("necessity", necessity),
        sufficiency=_with_interval("sufficiency", sufficiency),
        random_sufficiency=_random_latents("sufficiency", sufficiency),
        more=listed(more, separator="") if more else "",
    )


def _cost(causal: dict[str, Any]) -> Sentence:
    cost = causal["removal_cost"]
    return say(
        "On unrelated text, removing these latents changes the intervened model's next-token prediction by {kl:.5f} nats (KL), and its "
        "perplexity from {perplexity:.2f} to {perplexity_changed:.2f}.",
        kl=cost["kl"]["value"],
        perplexity=cost["perplexity"],
        perplexity_changed=cost["perplexity_changed"],
    )


def _with_interval(name: str, estimate: dict[str, Any], form: str = "percent") -> Sentence:
    """Return a number with its interval, if it has one."""
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
