"""A latent's rule for where it fires, with how well it tells on documents that it was not learnt on."""

from ..explanations.results import FAMILY_NAMES, RuleScore
from .wording import Sentence, say, tokens

CHANCE = 0.5
"""The AUROC of a score that knows nothing."""


def rule_sentence(rule: RuleScore) -> Sentence:
    """The rule and its score, or why there is none; a bad score is said as a good one is."""
    if rule.family is None:
        return say(
            "No rule for where it fires: undetermined. It fires on {n_firings:counted token} of {n_tokens:whole}, in "
            "{n_documents:counted document}, of the half that rules are scored on, and in {n_documents_found_on:counted document} of the "
            "half that they are learnt on.",
            n_firings=rule.n_firings,
            n_tokens=rule.n_tokens,
            n_documents=rule.n_documents,
            n_documents_found_on=rule.n_documents_found_on,
        )
    return say(
        "Rule for where it fires: {family} {negated}in {items}; AUROC {rule_auroc:.2f}{range} on {n_firings:counted firing} in "
        "{n_documents:counted document} that it was not learnt on ({chance} is chance){pays}.",
        family=FAMILY_NAMES[rule.family],
        negated="not " if rule.negated else "",
        items=tokens(rule.items, "item"),
        rule_auroc=rule.auroc,
        range=" (interval not measured)"
        if rule.auroc_low is None or rule.auroc_high is None
        else say(
            " ({rule_auroc_low:.2f} to {rule_auroc_high:.2f})",
            rule_auroc_low=rule.auroc_low,
            rule_auroc_high=rule.auroc_high,
        ),
        n_firings=rule.n_firings,
        n_documents=rule.n_documents,
        chance=CHANCE,
        pays=""
        if rule.bits_saved is not None and rule.bits_saved > 0
        else "; it does not pay for the words it takes",
    )
