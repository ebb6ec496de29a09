"""Sentences on a latent's evidence, rule and caveats: the part of its explanation that every `attribute` renews.

Each states the level of the column `evidence` and why it is not higher.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..behaviors.behavior_files import LEVELS, BehaviorResults
from ..labels.rule import CLAIMED
from .explanation_files import RuleScore
from .sentences import share_text

_MOSTLY_TEMPLATE = 0.5


def evidence_sentence(latent: int, behaviors: Sequence[BehaviorResults]) -> str:
    """Return the level of evidence, and why it is not higher."""
    checked = [(found, entry) for found in behaviors if (entry := _checked(found, latent)) is not None]
    level = max((entry["evidence"] for _, entry in checked), key=LEVELS.index, default="observed")
    if level == "observed":
        return f"Evidence: observed in activations; {_why_only_observed(checked, behaviors)}."
    parts = [
        f"{found.name} ({_attributed(found, latent)}{_checks(entry)})"
        for found, entry in checked
        if entry["evidence"] == level
    ]
    of = " and ".join(parts)
    if level == "causal":
        return f"Evidence: causal for the shift of {of}, on held-out prompts."
    return (
        f"Evidence: associated with the shift of {of}, on held-out prompts; not shown to be a cause, because the latent alone "
        "passes no check."
    )


def rule_sentence(rule: RuleScore | None) -> str:
    """Return the rule for where the latent fires and its score on documents it was not learned on; empty without a rule."""
    if rule is None:
        return ""
    if rule.text is None:
        return f"Rule for where it fires: {rule.reason}."
    ends = (
        "interval not measured"
        if rule.auroc_low is None or rule.auroc_high is None
        else f"{rule.auroc_low:.2f} to {rule.auroc_high:.2f}"
    )
    score = "not measured" if rule.auroc is None else f"{rule.auroc:.2f}"
    return (
        f"Rule for where it fires, learned on other documents: {rule.text}, AUROC {score} ({ends}; chance is 0.5; {rule.n_firings} firings "
        f"in {rule.n_documents} documents)."
    )


def caveat_sentence(row: Mapping[str, Any], without_tokens: bool) -> str:
    """Return other reasons for caution; empty without any."""
    caveats = []
    template = row.get("template_share")
    if template is not None and template > _MOSTLY_TEMPLATE:
        caveats.append(
            "most of its firings are on the chat template, so it may respond to the template and not the content"
        )
    if row["label"] in CLAIMED:
        if row.get("q_value") is None:
            caveats.append("how many such labels to expect by chance is not measured")
        stability = row.get("seed_stability")
        if stability is None:
            caveats.append("whether other trainings find it again is not measured")
        elif stability < 1:
            caveats.append(f"only {share_text(stability)} of the other trainings find it again")
        if without_tokens:
            caveats.append("there is no rule for where it fires, because the activations came without tokens")
    return f"Caveat: {'; '.join(caveats)}." if caveats else ""


def _checked(found: BehaviorResults, latent: int) -> dict[str, Any] | None:
    """Return the causal checks of a latent; None if it was not checked."""
    if found.causal is None:
        return None
    return next((entry for entry in found.causal["latents"] if entry["latent"] == latent), None)


def _why_only_observed(
    checked: Sequence[tuple[BehaviorResults, Mapping[str, Any]]], behaviors: Sequence[BehaviorResults]
) -> str:
    if checked:
        names = " and ".join(found.name for found, _ in checked)
        return f"an association with the shift of {names} is not shown on held-out prompts"
    explained = [found.name for found in behaviors if found.causal is not None]
    if explained:
        return f"it is not among the latents checked for the shift of {' and '.join(explained)}"
    if behaviors:
        return "no shift of a behavior was explained, so its effect is not known"
    return "no behavior was attributed, so its effect is not known"


def _attributed(found: BehaviorResults, latent: int) -> str:
    share = found.shares.get(latent)
    return "" if share is None else f"{share_text(share)} of it attributed; "


def _checks(entry: Mapping[str, Any]) -> str:
    parts = []
    for kind, effect in (
        ("necessity", "removing it alone undoes"),
        ("sufficiency", "inserting it alone brings"),
    ):
        check = entry[kind]
        # None: undefined for two models that share no space.
        if check is not None:
            chance = ""
            if check["random"]:
                at_norm = (
                    ""
                    if check["at_norm"] is None
                    else f", {share_text(check['at_norm'])} at the norm of random latents"
                )
                chance = f"{at_norm}, random latents {share_text(check['random_mean'])} on average"
            passed = (
                "" if check["passed"] else ", not passed" if check["made"] else ", not checked against chance"
            )
            parts.append(f"{effect} {share_text(check['value'])}{chance}{passed}")
    return "; ".join(parts)
