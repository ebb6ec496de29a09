"""What follows from a report: side effects, levers with their cost, when to measure again, and the scope of its claims."""

from collections.abc import Iterator

from ..behaviors.behavior_files import BehaviorResults
from ..tables.analysis_files import AnalysisResults
from .levers import levers_of
from .phrases import NOT_MEASURED
from .schema import Outlook, Statement
from .shortages import not_established
from .wording import listed, named, say


def outlook(results: AnalysisResults, behaviors: tuple[BehaviorResults, ...]) -> Outlook:
    """Return all four parts."""
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
            text=say(
                f"{NOT_MEASURED}: no behavior was marked as unrelated, that is, as one that should not shift"
            ),
            verdict=NOT_MEASURED,
        )
    for behavior in unrelated:
        shift = behavior.shift["shift"]
        yield Statement(
            name="unintended shift"
            if shift["established"]
            else "not known: too few prompts"
            if shift["verdict"] == "not enough prompts"
            else "no unintended shift established",
            text=say(
                "{behavior}: the intervened model differs from the reference by {size:.4g} ({low:.4g} to {high:.4g}; {unit}){why}",
                behavior=named(behavior.name),
                size=shift["size"]["value"],
                low=shift["size"]["low"],
                high=shift["size"]["high"],
                unit=behavior.shift["unit"],
                why=""
                if shift["established"]
                else say(". {why}", why=not_established(shift, behavior.shift["unit"])),
            ),
            value=shift["size"]["value"],
        )


def _levers(behaviors: tuple[BehaviorResults, ...]) -> Iterator[Statement]:
    for behavior in behaviors:
        if behavior.causal is None:
            continue
        levers = list(levers_of(behavior.causal))
        lever = max(levers, key=lambda one: (one.proven and one.within_cost, one.proven, one.share))
        yield Statement(
            name="no lever established"
            if not lever.proven
            else "best lever"
            if lever.within_cost
            else "best lever, above the cost limit",
            text=say(
                "{behavior}: {lever} undoes {share:percent} of the shift{random}, at a cost of {kl:.2g} nats (KL) on unrelated text",
                behavior=named(behavior.name),
                lever=lever.name,
                share=lever.share,
                random=lever.compared(),
                kl=lever.kl,
            ),
            value=lever.share,
        )
    if all(behavior.causal is None for behavior in behaviors):
        yield Statement(
            name="levers",
            text=say(f"{NOT_MEASURED}: no behavior with an established shift was attributed"),
            verdict=NOT_MEASURED,
        )


def _monitoring(results: AnalysisResults, behaviors: tuple[BehaviorResults, ...]) -> Iterator[Statement]:
    yield Statement(
        name="compare again",
        text=say("if a digest of the weights, tokenizer or chat template differs from the one of this run"),
    )
    for behavior in behaviors:
        shift = behavior.shift["shift"]
        yield Statement(
            name="measure again",
            text=say(
                "{behavior}, on the same prompts: it is {intervened:.4g} ({unit}) in the intervened model now{floor}",
                behavior=named(behavior.name),
                intervened=shift["intervened"]["value"],
                unit=behavior.shift["unit"],
                # If no prompt differs, exchanging the models gives no noise floor.
                floor=say(
                    "; a change of more than {floor:.4g} is above the noise floor", floor=shift["floor"]
                )
                if shift["floor"]
                else "",
            ),
            value=shift["floor"],
        )
    explained = (results.summary.get("fve") or {}).get("difference")
    if explained is not None:
        yield Statement(
            name="watch the unexplained part",
            text=say(
                "{unexplained:percent} of the variance of the difference between the models is in no latent; if this share grows at a later "
                "checkpoint, that checkpoint has changed in a way that this dictionary does not represent",
                unexplained=1 - explained,
            ),
            value=1 - explained,
        )
    alarms = [
        checkpoint
        for checkpoint in ((results.summary.get("monitoring") or {}).get("alarm") or {}).get("checkpoints")
        or []
        if checkpoint["rings"]
    ]
    if alarms:
        yield Statement(
            name="drift alarm",
            text=say(
                "it rang at {checkpoints}: more changed there than noise explains, in {latents:counted latent} at the first of these checkpoints",
                checkpoints=listed(
                    (f"checkpoint_{place}", say("{name}", name=named(checkpoint["name"])))
                    for place, checkpoint in enumerate(alarms)
                ),
                latents=alarms[0]["n_latents"],
            ),
        )


def _reach(results: AnalysisResults, behaviors: tuple[BehaviorResults, ...]) -> Iterator[Statement]:
    summary = results.summary
    yield Statement(
        name="text",
        text=say(
            "latents and labels were measured on {n_tokens:whole} held-out tokens of the sources of this run; on other text, other latents may fire",
            n_tokens=summary.get("n_tokens"),
        ),
    )
    yield Statement(
        name="place",
        text=say("latents describe the activations at the hookpoint; the dictionary reads no other layer"),
    )
    seeds = (summary.get("controls") or {}).get("seeds") or 0
    yield Statement(
        name="dictionary",
        text=say(
            "one dictionary; {seeds:counted other training} with another seed, on half of the training documents, for comparison",
            seeds=seeds,
        ),
    )
    prompts = sum(behavior.shift["n_held_out"] for behavior in behaviors)
    yield Statement(
        name="behavior",
        text=say(
            "{behaviors:counted behavior} measured, on {prompts:counted held-out prompt}; any other behavior may have shifted",
            behaviors=len(behaviors),
            prompts=prompts,
        ),
    )
