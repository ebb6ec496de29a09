"""Sentences about single latents, made from evidence fields and worded no more strongly than the evidence level.

`observed` means seen in activations. So a claim states where a latent fires, which model has its direction, and the top
tokens of that direction through the logit lens. It does not state that the latent causes anything.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from ..explanations.explanation_files import FAMILY_NAMES, RuleScore
from ..tables.analysis_files import UNKNOWN_TOKEN, AnalysisResults
from .phrases import Number, token, visible
from .schema import Claim, ClaimGroup, Fact
from .wording import Part, Quote, Sentence, listed, named, plain, say, tokens

CHANCE = 0.5
"""AUROC of an uninformative score."""

PAGE = "../browser/index.html"
LABEL_MEANINGS = {
    "new": "only in the intervened model",
    "lost": "only in the reference",
    "replaced": "one direction of the reference gave way to another direction of the intervened model, on the same tokens",
    "rotated": "in both models, in different directions",
    "rescaled": "in both models, in the same direction, with different norms",
    "reweighted": "in both models, firing at different rates",
    "shared": "the same in both models, as far as this dictionary sees",
    "undetermined": "too little evidence, or the measures disagree",
    "dead": "fired on no held-out token",
}

_NUMBERS = (
    "relative_norm", "decoder_cosine", "nu_error", "nu_error_low", "nu_error_high", "nu_reconstruction",
    "nu_reconstruction_low", "nu_reconstruction_high", "shift_share", "shift_share_low", "shift_share_high", "density",
    "template_share", "n_tokens", "n_documents", "q_value", "seed_stability", "label_stability", "nu_unselected", "nu_unselected_low",
    "nu_unselected_high", "partner_jaccard",
)  # fmt: skip
_PEAKS, _LENS_TOKENS = 4, 5
_WHOSE = {
    "reference": "its direction in the reference",
    "intervened": "its direction in the intervened model",
    "difference": "the difference between its two directions",
}
_BEFORE, _AFTER = 9, 5
_MOSTLY_TEMPLATE = 0.5
_ONE_SIDED = 0.5
"""Norm ratio below which a replaced latent writes into one model only; otherwise it writes a direction into each."""


class _Kind(NamedTuple):
    name: str
    title: str
    limit: int


_KINDS = (
    _Kind("new", "New: only in the intervened model", 12),
    _Kind("lost", "Lost: only in the reference", 12),
    _Kind("shift", "Largest share of the activation shift, any label", 8),
    _Kind(
        "replaced", "Replaced: one direction of the reference gave way to another of the intervened model", 12
    ),
    _Kind("rotated", "Rotated: in both models, in different directions", 6),
    _Kind("rescaled", "Rescaled: in both models, in the same direction, with different norms", 6),
    _Kind("reweighted", "Reweighted: in both models, firing at different rates", 6),
)


def claim_groups(
    results: AnalysisResults, rules: Mapping[int, RuleScore] | None = None
) -> tuple[ClaimGroup, ...]:
    """Return the claims of each kind: new, lost, largest share of the activation shift, replaced, rotated, rescaled, reweighted.

    Each latent appears once, with its rule if it has one. Empty groups are omitted, except new and lost, which then state that
    there is none. Those are omitted if the dictionary has no decoder norm for each model.
    """
    labels = results.features["label"].tolist()
    shares = results.features["shift_share"].to_numpy(np.float64)
    by_size = _by_certain_share(results.features)
    chosen: dict[str, tuple[int, list[int]]] = {}
    described: set[int] = set()
    for kind in _KINDS:
        if kind.name == "shift":
            members = [latent for latent in by_size if shares[latent] > 0]
        else:
            members = [latent for latent in by_size if labels[latent] == kind.name]
        latents = [latent for latent in members if latent not in described][: kind.limit]
        described.update(latents)
        chosen[kind.name] = len(members), latents
    evidence = _Evidence(results, described, rules or {})
    return tuple(
        _group(kind, *chosen[kind.name], evidence)
        for kind in _KINDS
        if chosen[kind.name][1]
        or (kind.name in ("new", "lost") and results.has_norms and not results.labels_undefined)
    )


def _by_certain_share(features: pd.DataFrame) -> list[int]:
    """Return all latents, those first whose share of the activation shift is surely large: by the bound of its interval that is nearer to 0.

    The intervals resample documents. A share that rests on one document has an interval that reaches 0, or none where the latent fires in too few;
    these come last, by size.
    """
    share, low, high = (
        features[name].to_numpy(np.float64) if name in features else np.full(len(features), np.nan)
        for name in ("shift_share", "shift_share_low", "shift_share_high")
    )
    certain = np.nan_to_num(np.maximum(np.where(share < 0, -high, low), 0), nan=-1)
    return np.lexsort((-np.nan_to_num(np.abs(share), nan=-1), -certain)).tolist()


def _group(kind: _Kind, total: int, latents: list[int], evidence: "_Evidence") -> ClaimGroup:
    statement = None
    if kind.name in ("new", "lost") and not total:
        statement = say(
            "No latent is called {label} ({meaning}): none meets the rule stated below.",
            label=kind.name,
            meaning=LABEL_MEANINGS[kind.name],
        )
    elif kind.name == "shift":
        statement = say(
            "The latents that explain most of the activation shift E‖intervened − reference‖² (column shift_share), without those "
            "described above; by the lower bounds of their intervals, so that a share that rests on few documents comes last."
        )
    elif total > len(latents):
        statement = say(
            "{told:,} of {total:counted latent} {verb} shown: the largest shares of the activation shift{rest}.",
            total=total,
            told=len(latents),
            verb="is" if len(latents) == 1 else "are",
            rest="" if kind.name in ("new", "lost") else " among those not described above",
        )
    return ClaimGroup(
        name=kind.name,
        title=kind.title,
        total=total,
        claims=tuple(evidence.claim(latent) for latent in latents),
        statement=statement,
        link=PAGE if kind.name == "shift" else f"{PAGE}#label={kind.name}",
    )


class _Evidence:
    """Rows, examples and logit tables of the latents in the claims."""

    def __init__(
        self, results: AnalysisResults, latents: Iterable[int], rules: Mapping[int, RuleScore]
    ) -> None:
        wanted = sorted(latents)
        self.features, self.rules = results.features, rules
        self.examples = _by_latent(results.examples(wanted)) if wanted else {}
        self.logits = _by_latent(results.logits(wanted)) if wanted else {}

    def claim(self, latent: int) -> Claim:
        row = {key: value for key, value in self.features.iloc[latent].items() if isinstance(key, str)}
        numbers = {name: plain(row.get(name)) for name in _NUMBERS}
        numbers |= {
            name: plain(value)
            for name, value in row.items()
            if name.startswith(("density/", "density_", "beta_"))
        }
        sentence = say(
            "{fires_on} {where}{lens}",
            fires_on=_fires_on(self.examples.get(latent, [])),
            where=_where(row["label"], numbers),
            lens=say(" {lens}", lens=_lens(row["label"], self.logits.get(latent, []))) if self.logits else "",
        )
        template = numbers["template_share"]
        doubts = []
        if template is not None and template > _MOSTLY_TEMPLATE:
            doubts.append(
                "More than half of its firings are on chat-template tokens: it may track the template rather than the content."
            )
        low, high = numbers["shift_share_low"], numbers["shift_share_high"]
        if numbers["shift_share"]:
            if low is None or high is None:
                doubts.append("It fires in too few documents for an interval of its share of the shift.")
            elif low <= 0 <= high:
                doubts.append(
                    "Its share of the shift is not established: the interval, over documents, reaches zero."
                )
        return Claim(
            latent=latent,
            label=row["label"],
            evidence=row["evidence"],
            sentence=sentence,
            rule=rule_sentence(self.rules[latent]) if latent in self.rules else None,
            numbers=numbers,
            facts=_facts(numbers),
            doubt=" ".join(doubts) or None,
            link=f"{PAGE}#latent={latent}",
        )


def _by_latent(table: pa.Table) -> dict[int, list[dict[str, Any]]]:
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        rows.setdefault(row["latent"], []).append(row)
    return rows


def _fires_on(examples: list[dict[str, Any]]) -> Sentence:
    """Return the tokens that its strongest examples peak on, and the strongest example in context."""
    top = sorted((row for row in examples if row["quantile"] is None), key=lambda row: row["rank"])
    if not top:
        return say("No example of it was stored.")
    distinct = dict.fromkeys(token(row["tokens"][row["position"] - row["start"]]) for row in top)
    peaks = tokens(list(distinct)[:_PEAKS], "peak")
    first, at = top[0], top[0]["position"] - top[0]["start"]
    if first["token_ids"][at] == UNKNOWN_TOKEN:
        return say("Fires most strongly on row {peaks} of the given activations.", peaks=peaks)
    before = visible("".join(first["tokens"][max(0, at - _BEFORE) : at])).lstrip(" ")
    after = visible("".join(first["tokens"][at + 1 : at + 1 + _AFTER])).rstrip(" ")
    return say(
        "Fires most strongly on {peaks}, as in {left}{before}{peak}{after}{right}.",
        peaks=peaks,
        left="… " if at > _BEFORE else "",
        before=Quote(before) if before.strip() else "",
        peak=Quote(first["tokens"][at], "peak"),
        after=Quote(after) if after.strip() else "",
        right=" …" if at + 1 + _AFTER < len(first["tokens"]) else "",
    )


def _where(label: str, numbers: Mapping[str, Number | None]) -> Sentence:
    relative, cosine = numbers["relative_norm"], numbers["decoder_cosine"]
    if relative is None:
        rates = {name: numbers.get(name) for name in ("density_reference", "density_intervened")}
        if None in rates.values():
            return say("Its direction is a part of the difference intervened − reference.")
        return say(
            "It fires on {density_reference:percent} of the reference's tokens and {density_intervened:percent} of the intervened "
            "model's.",
            **rates,
        )
    weaker, stronger = (
        ("reference", "intervened model") if relative >= 0.5 else ("intervened model", "reference")
    )
    norm_ratio = min(relative, 1 - relative) / max(relative, 1 - relative)
    parts: dict[str, Part] = {
        "weaker": weaker,
        "stronger": stronger,
        "norm_ratio": norm_ratio,
        "decoder_cosine": cosine,
        "turned": "" if cosine is None else say(" (cosine {decoder_cosine:.2f})", decoder_cosine=cosine),
    }
    match label:
        case "new" | "lost":
            text = (
                "Its direction is in the {stronger} only: its decoder norm in the {weaker} is {norm_ratio:percent} of that in the "
                "{stronger}, and latent scaling finds little of it in the {weaker}."
            )
        case "replaced" if norm_ratio < _ONE_SIDED:
            text = (
                "Its direction is in the {stronger} only, and a latent of the {weaker} only, with another direction, fires on the same tokens: one "
                "gave way to the other."
            )
        case "replaced":
            text = (
                "Its direction in the {stronger} is absent from the {weaker}, and the reverse{turned}: on the same tokens, one direction gave way to "
                "another."
            )
        case "shared":
            text = (
                "As far as this dictionary sees, it is the same in both models{turned}; its norm in the {weaker} is {norm_ratio:percent} of that in "
                "the {stronger}."
            )
        case "rotated":
            text = "Both models have it, in different decoder directions (cosine {decoder_cosine:.2f})."
        case "rescaled":
            text = (
                "Both models have it in the same decoder direction{turned}; its norm in the {weaker} is {norm_ratio:percent} of that in the "
                "{stronger}."
            )
        case _:
            text = (
                "Both models have a decoder direction for it{turned}; its norm in the {weaker} is {norm_ratio:percent} of that in the "
                "{stronger}."
            )
    return say(text, **parts)


def _lens(label: str, logits: list[dict[str, Any]]) -> Sentence:
    """Return the tokens of its direction in the model that has it, or of the difference of its directions if both do.

    A list that is no better than those of random directions is not shown. If the difference has no other, its direction in the intervened
    model is read too.
    """
    model = {"new": "intervened", "lost": "reference"}.get(label, "difference")
    if not any(row["model"] == model for row in logits):
        return say("The logit lens of its direction is not measured.")
    if read := _read_tokens(model, logits):
        return say("Through the logit lens, {read}.", read=read)
    also = _read_tokens("intervened", logits) if model == "difference" else None
    return say(
        "Through the logit lens, {whose} does not read as tokens{also}.",
        whose=_WHOSE[model],
        also=say("; {read}", read=also) if also else "",
    )


def _read_tokens(model: str, logits: list[dict[str, Any]]) -> Sentence | None:
    """Return the lists of one table that read as tokens; None if there is none."""
    rows = sorted((row for row in logits if row["model"] == model), key=lambda row: row["rank"])
    found = {}
    for side, called in (("top", "points_at"), ("bottom", "points_away")):
        words = [token(row["token"]) for row in rows if row["side"] == side and row["readable"]]
        if words:
            found[side] = tokens(dict.fromkeys(words[:_LENS_TOKENS]), called)
    if not found:
        return None
    if len(found) == 2:
        return say(
            "the top tokens of {whose} are {top}, and its bottom tokens {bottom}",
            whose=_WHOSE[model],
            **found,
        )
    ((side, words),) = found.items()
    return say("the {side} tokens of {whose} are {words}", side=side, whose=_WHOSE[model], words=words)


def _facts(numbers: Mapping[str, Number | None]) -> tuple[Fact, ...]:
    def ranged(column: str, form: str) -> Sentence:
        low, high = f"{column}_low", f"{column}_high"
        bounds = "" if None in (numbers[low], numbers[high]) else f" ({{{low}:{form}}} to {{{high}:{form}}})"
        return say(f"{{{column}:{form}}}{bounds}", **{name: numbers[name] for name in (column, low, high)})

    sources = [
        (name, say("{density:percent} of {source}", density=value, source=named(name)))
        for key, value in numbers.items()
        if key.startswith("density/") and (name := key.removeprefix("density/"))
    ]
    fires = say(
        "{density:percent} of tokens{sources}",
        density=numbers["density"],
        sources=say(" ({sources})", sources=listed(sources)) if len(sources) > 1 else "",
    )
    template = say("{template_share:percent}", template_share=numbers["template_share"])
    facts = (
        ("nu_error", Fact(name="ν error", value=ranged("nu_error", ".2f"))),
        ("nu_reconstruction", Fact(name="ν reconstruction", value=ranged("nu_reconstruction", ".2f"))),
        (
            "nu_unselected",
            Fact(name="ν on tokens that one model alone chooses", value=ranged("nu_unselected", ".2f")),
        ),
        (
            "label_stability",
            Fact(
                name="other trainings that find it again, with the same label",
                value=say("{label_stability:percent}", label_stability=numbers["label_stability"]),
            ),
        ),
        ("shift_share", Fact(name="share of the activation shift", value=ranged("shift_share", "percent"))),
        ("density", Fact(name="fires on", value=fires)),
        ("template_share", Fact(name="firings on chat-template tokens", value=template)),
    )
    return tuple(fact for column, fact in facts if numbers[column] is not None)


def rule_sentence(rule: RuleScore) -> Sentence:
    """Return the rule and its score, good or bad, or why there is no rule."""
    if rule.family is None:
        return say(
            "No rule for where it fires (undetermined): it fires on {n_firings:counted token} of {n_tokens:whole}, in "
            "{n_documents:counted document}, in the half that rules are scored on, and in {n_documents_found_on:counted document} in the "
            "half that they are learned on.",
            n_firings=rule.n_firings,
            n_tokens=rule.n_tokens,
            n_documents=rule.n_documents,
            n_documents_found_on=rule.n_documents_found_on,
        )
    return say(
        "Rule for where it fires: {family} {negated}in {items}; AUROC {rule_auroc:.2f}{range} on {n_firings:counted firing} in "
        "{n_documents:counted document} that the rule was not learned on ({chance} is chance){pays}.",
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
        else "; stating the rule costs at least as many bits as it saves",
    )
