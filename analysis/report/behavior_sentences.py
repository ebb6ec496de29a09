"""Behaviors in words: how they shifted, which latents carry the shift, what pushes against it, and what could not have been seen."""

from collections.abc import Iterator
from typing import Any

from ..behaviors.behavior_files import MIN_SHARE, BehaviorResults
from .phrases import NOT_MEASURED, unit_format
from .shortages import check_lacks, not_established
from .wording import Part, Sentence, listed, say

_HALF, _ALL = 0.5, 0.95
"""Shares of the shift: the first layers with at least this much are named."""

_CANCELS = 0.1
"""Share of the contributions that cancels from which the report says so."""

_LEVELS = {
    "associated": "The latents are associated with the shift; that they cause it is not shown.",
    "observed": "On held-out prompts, these latents are not shown to be related to the shift.",
}

_KINDS = {"necessity": "removing", "sufficiency": "adding"}


def behavior_sentences(results: BehaviorResults) -> Iterator[Sentence]:
    """Yield what was found about a behavior, no stronger than the evidence."""
    yield _shift_sentence(results)
    shift, causal = results.shift, results.causal
    if not shift["shift"]["established"]:
        yield say(
            "{why} Nothing is attributed to latents.", why=not_established(shift["shift"], shift["unit"])
        )
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
    yield from _cancellation(results.attribution["held_out"])
    yield _causal_sentence(causal)
    if causal["answers"] is not None:
        yield _answer_sentence(causal["answers"], len(causal["named"]))
    yield from _against(causal)
    yield stability_sentence(causal["stability"])
    yield _cost(causal)
    yield say(
        "Replacing the intervened model's activations by their reconstruction, with no latent removed, moves its behavior by {rebuilding} of the shift.",
        rebuilding=_with_interval("rebuilding", causal["rebuilding"]["intervened"]),
    )


def stability_sentence(stability: dict[str, Any]) -> Sentence:
    """Return in how many trainings of the dictionary the latents named there pass the check."""
    if not stability["made"]:
        return say(
            f"Whether this holds in other trainings of the dictionary is {NOT_MEASURED}: {{why}}.",
            why=stability["why_not"],
        )
    return say(
        "The latents named together are causal in {causal} of {trainings:counted training} of the dictionary, this one included, each with the "
        "latents that it names itself (measured in {unit}).",
        causal=stability["causal"],
        trainings=stability["trainings"],
        unit=stability["unit"],
    )


def _level_sentence(causal: dict[str, Any], checks: dict[str, Any]) -> Sentence:
    """Return which of the checks of the set are passed, or why none is."""
    passed = [words for kind, words in _KINDS.items() if checks[kind] is not None and checks[kind]["passed"]]
    if passed:
        return say(
            "As far as these checks go, these latents cause some of it: {which} them has an effect above {least:percent} and above that of random "
            "latents, intervals and correction for the number of checks included.",
            which=" and ".join(passed),
            least=MIN_SHARE,
        )
    lacks = [
        (kind, lack)
        for kind in _KINDS
        if checks[kind] is not None and (lack := check_lacks(checks[kind], causal["n_prompts"])) is not None
    ]
    level = _LEVELS["observed" if causal["level"] == "observed" else "associated"]
    return say("{level}{lacks}", level=level, lacks=say(" It was {lack}.", lack=lacks[0][1]) if lacks else "")


def _cancellation(held_out: dict[str, Any]) -> Iterator[Sentence]:
    """Yield how far the contributions of latents cancel, if they do."""
    found = held_out.get("cancellation")
    if not found or not found["ratio"] or found["ratio"] < _CANCELS:
        return
    yield say(
        "Contributions of latents cancel: the {n_along:counted latent} found to carry the shift sum to {along}, and the "
        "{n_against:counted latent} found to push against it to {against}. Neither sum alone describes the shift.",
        n_along=found["along"]["latents"],
        along=_with_interval("along", found["along"]["share"]),
        n_against=found["against"]["latents"],
        against=_with_interval("against", found["against"]["share"]),
    )


def _against(causal: dict[str, Any]) -> Iterator[Sentence]:
    """Yield what the latents that push against the shift do."""
    against = causal["against"]
    if not against["named"]:
        return
    necessity, sufficiency = against["together"]["necessity"], against["together"]["sufficiency"]
    adding: Part = ""
    if sufficiency is not None:
        adding = say(
            ", and adding them to the reference's activations counters it by {sufficiency}{random}",
            sufficiency=_with_interval("against_sufficiency", sufficiency),
            random=_random_latents("against_sufficiency", sufficiency),
        )
    passed = [words for kind, words in _KINDS.items() if (against["together"][kind] or {}).get("passed")]
    yield say(
        "{n_against:counted latent} {was} found to push against the shift: removing them together increases it by {necessity} of its size{random}"
        "{adding}. {level}",
        n_against=len(against["named"]),
        was="was" if len(against["named"]) == 1 else "were",
        necessity=_with_interval("against_necessity", necessity),
        random=_random_latents("against_necessity", necessity),
        adding=adding,
        level=f"They oppose it causally, as far as {' and '.join(passed)} them shows."
        if passed
        else "That they oppose it is not shown by these checks.",
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
        level=_level_sentence(causal, causal["together"]),
    )
    yield from _against(causal)
    yield stability_sentence(causal["stability"])
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
            f" The noise floor is {{floor:{form}}}: what chance reaches if the models are exchanged prompt by prompt (p = {{p_value:.4f}} for a "
            "mean difference of zero).",
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
        "In {unit}: removing {n_named:counted latent} together from the intervened model undoes {necessity} of the shift{random_necessity}. Adding them to "
        "the reference's activations, on which the intervened model's later layers then run, produces {sufficiency} of "
        "it{random_sufficiency}. {level}",
        unit=causal["unit"],
        n_named=len(causal["named"]),
        necessity=_with_interval("necessity", necessity),
        random_necessity=_random_latents("necessity", necessity),
        sufficiency=_with_interval("sufficiency", sufficiency),
        random_sufficiency=_random_latents("sufficiency", sufficiency),
        level=_level_sentence(causal, causal["together"]),
    )


def _random_latents(name: str, check: dict[str, Any]) -> Part:
    """Return what random latents do, beside the share."""
    if not check["random"]:
        return " (not compared with random latents)"
    return say(
        " (random latents {mean:percent} on average and at most {largest:percent}, in {draws:counted draw})",
        mean=check["random_mean"],
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
        "produces {sufficiency} of it{random_sufficiency}{more}. {verdict}",
        n_named=n_named,
        necessity=_with_interval("necessity", necessity),
        random_necessity=_random_latents("necessity", necessity),
        sufficiency=_with_interval("sufficiency", sufficiency),
        random_sufficiency=_random_latents("sufficiency", sufficiency),
        more=listed(more, separator="") if more else "",
        verdict=_answer_verdict(answers),
    )


def _answer_verdict(answers: dict[str, Any]) -> Sentence:
    """Return which of the checks in generated answers are passed: a claim about answers rests on them alone."""
    together = answers["together"]
    passed = [words for kind, words in _KINDS.items() if (together[kind] or {}).get("passed")]
    lacks = next(
        (
            lack
            for kind in _KINDS
            if together[kind] is not None
            and (lack := check_lacks(together[kind], answers["n_prompts"])) is not None
        ),
        None,
    )
    if passed:
        return say("In answers, the check is passed for {which} them.", which=" and ".join(passed))
    return say("In answers, no check is passed{lacks}.", lacks=say(" ({lack})", lack=lacks) if lacks else "")


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
