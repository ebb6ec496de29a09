"""What follows from a report: side effects, levers with their cost, when to look again, and how far what it says reaches."""

from collections.abc import Iterator
from typing import Any

from ..behaviors.behavior_files import BehaviorResults
from ..tables.analysis_files import AnalysisResults
from .desiderata import COST
from .phrases import NOT_MEASURED, Number
from .schema import Outlook, Statement
from .wording import listed, named, say


def outlook(results: AnalysisResults, behaviors: tuple[BehaviorResults, ...]) -> Outlook:
    """All four parts."""
    return Outlook(
        side_effects=tuple(_side_effects(behaviors)),
        levers=tuple(_levers(behaviors)),
        monitoring=tuple(_monitoring(results, behaviors)),
        reach=tuple(_reach(results, behaviors)),
    )


def _side_effects(behaviors: tuple[BehaviorResults, ...]) -> Iterator[Statement]:
    unrelated = [behavior for behavior in behaviors if behavior.shift["unrelated"]]
    if not unrelated:
        yield Statement(
            name="side effects",
            text=say(f"{NOT_MEASURED}: no behavior was named as one that should not have shifted"),
            verdict=NOT_MEASURED,
        )
    for behavior in unrelated:
        shift = behavior.shift["shift"]
        yield Statement(
            name="a shift that was not meant"
            if shift["established"]
            else "no shift established where none was meant",
            text=say(
                "{behavior}: {size:.4g} ({low:.4g} to {high:.4g}) {unit}",
                behavior=named(behavior.name),
                size=shift["size"]["value"],
                low=shift["size"]["low"],
                high=shift["size"]["high"],
                unit=behavior.shift["unit"],
            ),
            value=shift["size"]["value"],
        )


def _levers(behaviors: tuple[BehaviorResults, ...]) -> Iterator[Statement]:
    for behavior in behaviors:
        if behavior.causal is None:
            continue
        name, share, kl = max(_prices(behavior.causal), key=lambda lever: (lever[2] <= COST, lever[1]))
        yield Statement(
            name="the best lever" if kl <= COST else "the best lever, and it costs too much",
            text=say(
                "{behavior}: {lever} undoes {share:percent} of the shift at a cost of {kl:.2g} nats on unrelated text",
                behavior=named(behavior.name),
                lever=name,
                share=share,
                kl=kl,
            ),
            value=share,
        )
    if all(behavior.causal is None for behavior in behaviors):
        yield Statement(
            name="levers",
            text=say(f"{NOT_MEASURED}: no behavior with an established shift was attributed"),
            verdict=NOT_MEASURED,
        )


def _prices(causal: dict[str, Any]) -> Iterator[tuple[str, Number, Number]]:
    """Every lever on the intervened model: what it is, how much of the shift it undoes, and its KL elsewhere."""
    removal = (causal["answers"] or causal)["together"]["necessity"]["value"] or 0.0
    yield (
        "taking the named latents out (the reference reads along)",
        removal,
        causal["removal_cost"]["kl"]["value"],
    )
    for dose in causal["steering"]:
        if dose["model"] == "intervened" and dose["direction"] == "named latents":
            yield (
                "a constant direction of the named latents",
                dose["share"]["value"] or 0.0,
                dose["kl"]["value"],
            )


def _monitoring(results: AnalysisResults, behaviors: tuple[BehaviorResults, ...]) -> Iterator[Statement]:
    yield Statement(
        name="compare anew",
        text=say("when a digest of weights, tokenizer or chat template is no longer the one above"),
    )
    for behavior in behaviors:
        shift = behavior.shift["shift"]
        yield Statement(
            name="measure again",
            text=say(
                "{behavior}, with the same prompts: it is {intervened:.4g} now ({unit}){floor}",
                behavior=named(behavior.name),
                intervened=shift["intervened"]["value"],
                unit=behavior.shift["unit"],
                # Where no prompt differs, exchanging models says nothing of what chance does.
                floor=say("; a move of more than {floor:.4g} is none of chance", floor=shift["floor"])
                if shift["floor"]
                else "",
            ),
            value=shift["floor"],
        )
    explained = (results.summary.get("fve") or {}).get("difference")
    if explained is not None:
        yield Statement(
            name="watch the rest",
            text=say(
                "{unexplained:percent} of the difference is in no latent; more of it at a later checkpoint is a change that this dictionary "
                "does not know",
                unexplained=1 - explained,
            ),
            value=1 - explained,
        )
    rings = [
        checkpoint
        for checkpoint in ((results.summary.get("monitoring") or {}).get("alarm") or {}).get("checkpoints")
        or []
        if checkpoint["rings"]
    ]
    if rings:
        yield Statement(
            name="the alarm rang",
            text=say(
                "at {checkpoints}: more than noise changed there, in {latents:counted latent} at the first of them",
                checkpoints=listed(
                    (f"checkpoint_{place}", say("{name}", name=named(checkpoint["name"])))
                    for place, checkpoint in enumerate(rings)
                ),
                latents=rings[0]["n_latents"],
            ),
        )


def _reach(results: AnalysisResults, behaviors: tuple[BehaviorResults, ...]) -> Iterator[Statement]:
    summary = results.summary
    yield Statement(
        name="text",
        text=say(
            "latents and labels are of {n_tokens:whole} held-out tokens of the sources above; on other text others may fire",
            n_tokens=summary.get("n_tokens"),
        ),
    )
    yield Statement(
        name="place",
        text=say(
            "only what stands at the hookpoint can be in a latent; other layers were not read by a dictionary"
        ),
    )
    seeds = (summary.get("controls") or {}).get("seeds") or 0
    yield Statement(
        name="dictionary",
        text=say("one dictionary of one seed; {seeds:counted other seed} trained beside it", seeds=seeds),
    )
    prompts = sum(behavior.shift["n_held_out"] for behavior in behaviors)
    yield Statement(
        name="behavior",
        text=say(
            "{behaviors:counted behavior} measured, on {prompts:counted held-out prompt}; any other may have shifted",
            behaviors=len(behaviors),
            prompts=prompts,
        ),
    )
