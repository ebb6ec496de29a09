"""Behaviors in the report, as data: how they shifted, which latents carry the shift, what opposes it, and what is left over."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..behaviors.behavior_files import BehaviorResults
from .behavior_schema import (
    BehaviorShift,
    CarryingLatent,
    CausalCheck,
    CurvePoint,
    Dose,
    Estimate,
    Explanation,
    LayerShare,
    Opposing,
    Origin,
    Stability,
)
from .behavior_sentences import behavior_sentences
from .claims import PAGE
from .shortages import check_lacks

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
        verdict=shift["verdict"],
        sentences=tuple(behavior_sentences(results)),
        explanation=_explanation(results),
        unrelated=results.shift["unrelated"],
        **{
            key: shift[key] for key in ("n_prompts", "prompts_needed", "detectable", "detectable_when_enough")
        },
    )


def _explanation(results: BehaviorResults) -> Explanation | None:
    attribution, causal = results.attribution, results.causal
    if attribution is None or causal is None:
        return None
    answers = causal["answers"]
    return Explanation(
        origins=tuple(_origins(attribution["held_out"])),
        level=causal["level"],
        latents=_latents(causal, causal["n_prompts"], results.shares),
        necessity=_check(causal["together"]["necessity"], causal["n_prompts"]),
        sufficiency=_optional(causal["together"]["sufficiency"], causal["n_prompts"]),
        unit=causal["unit"],
        stability=Stability(**{key: causal["stability"][key] for key in ("trainings", "causal", "why_not")}),
        against=_opposing(causal, results.shares),
        answers_necessity=_optional(answers["together"]["necessity"], answers["n_prompts"])
        if answers
        else None,
        answers_sufficiency=_optional(answers["together"]["sufficiency"], answers["n_prompts"])
        if answers
        else None,
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


def _latents(end: dict[str, Any], n_prompts: int, shares: Mapping[int, float]) -> tuple[CarryingLatent, ...]:
    """Return the latents at one end of the ranking, each with its own checks."""
    return tuple(
        CarryingLatent(
            latent=entry["latent"],
            evidence=entry["evidence"],
            attribution=shares.get(entry["latent"]),
            necessity=_optional(entry["necessity"], n_prompts),
            sufficiency=_optional(entry["sufficiency"], n_prompts),
            link=f"{PAGE}#latent={entry['latent']}",
        )
        for entry in end["latents"]
    )


def _opposing(causal: dict[str, Any], shares: Mapping[int, float]) -> Opposing | None:
    against, n_prompts = causal["against"], causal["n_prompts"]
    if not against["named"]:
        return None
    return Opposing(
        latents=_latents(against, n_prompts, shares),
        level=against["level"],
        necessity=_check(against["together"]["necessity"], n_prompts),
        sufficiency=_optional(against["together"]["sufficiency"], n_prompts),
    )


def _optional(entry: dict[str, Any] | None, n_prompts: int) -> CausalCheck | None:
    """Return a check; None if it is undefined."""
    return None if entry is None else _check(entry, n_prompts)


def _check(entry: dict[str, Any], n_prompts: int) -> CausalCheck:
    return CausalCheck(
        share=Estimate(**{key: entry[key] for key in ("value", "low", "high")}),
        made=entry["made"],
        why_not=check_lacks(entry, n_prompts),
        at_norm=entry["at_norm"],
        random_mean=entry["random_mean"],
        random_largest=entry["random_largest"],
        n_random=len(entry["random"]),
        excess=None if entry["excess"] is None else Estimate(**entry["excess"]),
        p_value=entry["p_value"],
        p_adjusted=entry["p_adjusted"],
        passed=entry["passed"],
    )
