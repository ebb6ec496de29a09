"""Sentences about single latents, made from evidence fields and worded no stronger than the evidence level.

`observed` means: seen in activations. So a claim says where a latent fires, in which model its direction is, and what
that direction points at through the logit lens; it does not say that the latent causes anything.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..results import UNKNOWN_TOKEN, AnalysisResults
from .phrases import Number, counted, fixed, interval, percent, token, visible
from .schema import NOT_MEASURED, Claim, ClaimGroup, Fact, Span

PAGE = "../browser/index.html"
LABEL_MEANINGS = {
    "new": "only in the intervened model",
    "lost": "only in the reference",
    "rotated": "in both models, in different directions",
    "rescaled": "in both models, in the same direction, at a different size",
    "reweighted": "in both models, but firing at a different rate",
    "shared": "the same in both models",
    "undetermined": "too little evidence, or the measures disagree",
    "dead": "fired on no held-out token",
}

_NUMBERS = (
    "relative_norm", "decoder_cosine", "nu_error", "nu_error_low", "nu_error_high", "nu_reconstruction",
    "nu_reconstruction_low", "nu_reconstruction_high", "shift_share", "shift_share_low", "shift_share_high", "density",
    "template_share", "n_tokens", "n_documents", "q_value", "seed_stability",
)  # fmt: skip
_PEAKS, _LENS_TOKENS = 4, 5
_BEFORE, _AFTER = 9, 5
_MOSTLY_TEMPLATE = 0.5


class _Kind(NamedTuple):
    name: str
    title: str
    limit: int


_KINDS = (
    _Kind("new", "New: only in the intervened model", 12),
    _Kind("lost", "Lost: only in the reference", 12),
    _Kind("shift", "Largest share of the shift, whatever the label", 8),
    _Kind("rotated", "Rotated: in both models, in different directions", 6),
    _Kind("rescaled", "Rescaled: in both models, at a different size", 6),
    _Kind("reweighted", "Reweighted: in both models, firing at a different rate", 6),
)


def claim_groups(results: AnalysisResults) -> tuple[ClaimGroup, ...]:
    """New, lost, the largest shares of the shift, rotated, rescaled; a latent is written out once.

    New and lost are always there: where there is none, the group says so. Other groups that are empty are left out, and
    so are new and lost where the dictionary has no decoder norm for each model.
    """
    labels = results.features["label"].tolist()
    shares = results.features["shift_share"].to_numpy(np.float64)
    by_size = np.argsort(-np.nan_to_num(np.abs(shares), nan=-1), kind="stable").tolist()
    chosen: dict[str, tuple[int, list[int]]] = {}
    told: set[int] = set()
    for kind in _KINDS:
        if kind.name == "shift":
            members = [latent for latent in by_size if shares[latent] > 0]
        else:
            members = [latent for latent in by_size if labels[latent] == kind.name]
        latents = [latent for latent in members if latent not in told][: kind.limit]
        told.update(latents)
        chosen[kind.name] = len(members), latents
    evidence = _Evidence(results, told)
    return tuple(
        _group(kind, *chosen[kind.name], evidence)
        for kind in _KINDS
        if chosen[kind.name][1] or (kind.name in ("new", "lost") and results.has_norms)
    )


def _group(kind: _Kind, total: int, latents: list[int], evidence: "_Evidence") -> ClaimGroup:
    statement = None
    if kind.name in ("new", "lost") and not total:
        statement = f"No latent is {kind.name}: by the rule below, none is {LABEL_MEANINGS[kind.name]}."
    elif kind.name == "shift":
        statement = "By how much of the squared activation difference each explains; those already told above are left out."
    elif total > len(latents):
        told = "" if kind.name in ("new", "lost") else " that are not told above"
        statement = (
            f"Of {total:,}, the {counted(len(latents), 'latent')} with the largest share of the shift{told}."
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
    """Rows, examples and logit tables of the latents that are written out."""

    def __init__(self, results: AnalysisResults, latents: Iterable[int]) -> None:
        wanted = sorted(latents)
        self.features = results.features
        self.examples = _by_latent(results.examples(wanted)) if wanted else {}
        self.logits = _by_latent(results.logits(wanted)) if wanted else {}

    def claim(self, latent: int) -> Claim:
        row = {key: value for key, value in self.features.iloc[latent].items() if isinstance(key, str)}
        numbers = {name: _number(row.get(name)) for name in _NUMBERS}
        numbers |= {
            name: _number(value)
            for name, value in row.items()
            if name.startswith(("density/", "density_", "beta_"))
        }
        spans = _fires_on(self.examples.get(latent, [])) + _where(row["label"], numbers)
        if self.logits:
            spans += _lens(row["label"], self.logits.get(latent, []))
        template = numbers["template_share"]
        doubt = None
        if template is not None and template > _MOSTLY_TEMPLATE:
            doubt = "More than half of its firings are on chat-template tokens: it may follow the template, not what is said."
        return Claim(
            latent=latent,
            label=row["label"],
            evidence=row["evidence"],
            sentence="".join(f"“{span.text}”" if span.kind != "text" else span.text for span in spans),
            spans=tuple(spans),
            numbers=numbers,
            facts=_facts(numbers),
            doubt=doubt,
            link=f"{PAGE}#latent={latent}",
        )


def _by_latent(table: pa.Table) -> dict[int, list[dict[str, Any]]]:
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        rows.setdefault(row["latent"], []).append(row)
    return rows


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float | np.number) and np.isfinite(value) else None


def _text(text: str) -> Span:
    return Span(kind="text", text=text)


def _listed(tokens: Iterable[str]) -> list[Span]:
    spans: list[Span] = []
    for word in tokens:
        spans += [_text(", "), Span(kind="token", text=word)] if spans else [Span(kind="token", text=word)]
    return spans


def _fires_on(examples: list[dict[str, Any]]) -> list[Span]:
    """The tokens its strongest examples peak on, and the strongest one in its surroundings."""
    top = sorted((row for row in examples if row["quantile"] is None), key=lambda row: row["rank"])
    if not top:
        return [_text("No example of it was kept.")]
    peaks = dict.fromkeys(token(row["tokens"][row["position"] - row["start"]]) for row in top)
    first, at = top[0], top[0]["position"] - top[0]["start"]
    if first["token_ids"][at] == UNKNOWN_TOKEN:
        return [
            _text("Fires most strongly on row "),
            *_listed(list(peaks)[:_PEAKS]),
            _text(" of the given activations. "),
        ]
    before = visible("".join(first["tokens"][max(0, at - _BEFORE) : at])).lstrip(" ")
    after = visible("".join(first["tokens"][at + 1 : at + 1 + _AFTER])).rstrip(" ")
    peak = visible(first["tokens"][at])
    left = "… " if at > _BEFORE else ""
    right = " …" if at + 1 + _AFTER < len(first["tokens"]) else ""
    return [
        _text("Fires most strongly on "),
        *_listed(list(peaks)[:_PEAKS]),
        _text(f", as in {left}"),
        *([Span(kind="token", text=before)] if before.strip() else []),
        Span(kind="peak", text=peak),
        *([Span(kind="token", text=after)] if after.strip() else []),
        _text(f"{right}. "),
    ]


def _where(label: str, numbers: Mapping[str, Number | None]) -> list[Span]:
    relative, cosine = numbers["relative_norm"], numbers["decoder_cosine"]
    if relative is None:
        rates = numbers.get("density_reference"), numbers.get("density_intervened")
        if None in rates:
            return [_text("It stands for a part of intervened − reference. ")]
        text = f"It fires on {percent(rates[0])} of the reference's tokens and {percent(rates[1])} of the intervened model's. "
        return [_text(text)]
    weaker, stronger = (
        ("reference", "intervened model") if relative >= 0.5 else ("intervened model", "reference")
    )
    ratio = min(relative, 1 - relative) / max(relative, 1 - relative)
    turned = "" if cosine is None else f", cosine {fixed(cosine)}"
    match label:
        case "new" | "lost":
            text = (
                f"Its direction is in the {stronger} only: the norm in the {weaker} is {percent(ratio)} of that in the "
                f"{stronger}, and latent scaling finds little of it there. "
            )
        case "rotated":
            text = f"Both models have it, in different directions (cosine {fixed(cosine)}). "
        case "rescaled":
            text = f"Both models have it in the same direction{turned}; in the {weaker} it is {percent(ratio)} as large as in the {stronger}. "
        case _:
            text = f"Both models have a direction for it; in the {weaker} its norm is {percent(ratio)} of that in the {stronger}{turned}. "
    return [_text(text)]


def _lens(label: str, logits: list[dict[str, Any]]) -> list[Span]:
    """What the direction points at: of the model that has it, or the difference of the two where both do."""
    side = {"new": "intervened", "lost": "reference"}.get(label, "difference")
    rows = [row for row in logits if row["model"] == side and row["side"] == "top"]
    if not rows:
        return [_text("What its direction points at is not measured.")]
    tokens = [token(row["token"]) for row in sorted(rows, key=lambda row: row["rank"])]
    whose = (
        "what differs between its two directions" if side == "difference" else f"its direction in the {side}"
    )
    whose += " model" if side == "intervened" else ""
    return [
        _text(f"Through the logit lens, {whose} points at "),
        *_listed(dict.fromkeys(tokens[:_LENS_TOKENS])),
        _text("."),
    ]


def _facts(numbers: Mapping[str, Number | None]) -> tuple[Fact, ...]:
    def ranged(name: str, digits: int | None) -> str:
        value = numbers[name]
        shown = percent(value) if digits is None else fixed(value, digits)
        return shown + interval(numbers[f"{name}_low"], numbers[f"{name}_high"], digits)

    sources = [
        f"{percent(value)} of {visible(name.removeprefix('density/'))}"
        for name, value in numbers.items()
        if name.startswith("density/")
    ]
    fires = f"{percent(numbers['density'])} of tokens" + (
        f" ({', '.join(sources)})" if len(sources) > 1 else ""
    )
    facts = (
        Fact(name="ν error", value=ranged("nu_error", 2)),
        Fact(name="ν reconstruction", value=ranged("nu_reconstruction", 2)),
        Fact(name="share of the shift", value=ranged("shift_share", None)),
        Fact(name="fires on", value=fires),
        Fact(name="on template tokens", value=percent(numbers["template_share"])),
    )
    return tuple(fact for fact in facts if fact.value != NOT_MEASURED)
