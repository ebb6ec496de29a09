"""What behaviors and the rule say of a latent, as sentences: the part of its explanation that follows every `attribute`.

The level is that of the column `evidence`, and beside it stands why no more is claimed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..behaviors.behavior_files import LEVELS, BehaviorResults
from ..labels.rule import CLAIMED
from .explanation_files import RuleScore
from .sentences import share_text

_MOSTLY_TEMPLATE = 0.5
_FOUND_AGAIN = 0.5


def evidence_sentence(latent: int, behaviors: Sequence[BehaviorResults]) -> str:
    """How strong the evidence is, and why it is no stronger."""
    told = [(found, entry) for found in behaviors if (entry := _checked(found, latent)) is not None]
    level = max((entry["evidence"] for _, entry in told), key=LEVELS.index, default="observed")
    if level == "observed":
        return f"Evidence: observed in activations; {_why_only_observed(told, behaviors)}."
    parts = [
        f"{found.name} ({_attributed(found, latent)}{_checks(entry)})"
        for found, entry in told
        if entry["evidence"] == level
    ]
    of = " and ".join(parts)
    if level == "causal":
        return f"Evidence: causal for the shift of {of}, on held-out prompts."
    return (
        f"Evidence: associated with the shift of {of}, on held-out prompts; that it is a cause is not shown, because neither check of "
        "it alone is passed."
    )


def rule_sentence(rule: RuleScore | None) -> str:
    """Where it fires by a rule, and how well that holds on documents that it was not learnt on; nothing where none was looked for."""
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
        f"Rule for where it fires, learnt on other documents: {rule.text}, AUROC {score} ({ends}; chance is 0.5; {rule.n_firings} firings "
        f"in {rule.n_documents} documents)."
    )


def doubt_sentence(row: Mapping[str, Any], without_tokens: bool) -> str:
    """What else keeps a claimed latent from being sure; nothing for one that claims nothing."""
    doubts = []
    template = row.get("template_share")
    if template is not None and template > _MOSTLY_TEMPLATE:
        doubts.append(
            "most of its firings are on the chat template, so it may follow that and not what is said"
        )
    if row["label"] in CLAIMED:
        if row.get("q_value") is None:
            doubts.append("how many such latents come from nothing is not measured, for want of a null")
        stability = row.get("seed_stability")
        if stability is None:
            doubts.append("whether another seed finds it again is not measured")
        elif stability < _FOUND_AGAIN:
            doubts.append(f"it is found again in {share_text(stability)} of the other seeds only")
        if without_tokens:
            doubts.append(
                "there is no rule for where it fires, because the activations came without their tokens"
            )
    return f"Doubt: {'; '.join(doubts)}." if doubts else ""


def _checked(found: BehaviorResults, latent: int) -> dict[str, Any] | None:
    """What the causal checks say of a latent, where it was among those checked."""
    if found.causal is None:
        return None
    return next((entry for entry in found.causal["latents"] if entry["latent"] == latent), None)


def _why_only_observed(
    told: Sequence[tuple[BehaviorResults, Mapping[str, Any]]], behaviors: Sequence[BehaviorResults]
) -> str:
    if told:
        names = " and ".join(found.name for found, _ in told)
        return f"that it goes with the shift of {names} is not shown on held-out prompts"
    explained = [found.name for found in behaviors if found.causal is not None]
    if explained:
        return f"it is not among the latents that were checked for the shift of {' and '.join(explained)}"
    if behaviors:
        return "no shift of a behavior was explained, so what it does is not shown"
    return "no behavior was attributed, so what it does is not shown"


def _attributed(found: BehaviorResults, latent: int) -> str:
    share = found.shares.get(latent)
    return "" if share is None else f"{share_text(share)} of it attributed; "


def _checks(entry: Mapping[str, Any]) -> str:
    parts = []
    for kind, done in (("necessity", "taken out alone it undoes"), ("sufficiency", "put in alone it brings")):
        check = entry[kind]
        # Undefined between two models that share no space.
        if check is not None:
            beside = (
                f", random latents at most {share_text(check['random_largest'])}" if check["random"] else ""
            )
            passed = "" if check["passed"] else ", not passed"
            parts.append(f"{done} {share_text(check['value'])}{beside}{passed}")
    return "; ".join(parts)
