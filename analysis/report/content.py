"""The report as data: every section from the files of the analysis and the manifest, nothing else."""

import json
import re
from collections import Counter
from typing import Any

from crosscoder.folder import RunFolder

from ..results import LABELS, AnalysisResults
from .before import before_dictionary
from .certainty import certainty
from .checks import comparability
from .claims import LABEL_MEANINGS, PAGE, claim_groups
from .desiderata import desiderata
from .limits import limit_curves
from .phrases import Number, counted, fixed, percent, present, visible, whole
from .schema import (
    NOT_MEASURED,
    SCHEMA_VERSION,
    Check,
    Fact,
    LabelCount,
    Model,
    Reason,
    Report,
    Stage,
    Statement,
)

_READS = {
    "paired": "a crosscoder: one code for both models, a direction in each",
    "pooled": "a shared-dictionary SAE: each model's tokens encoded alone by one dictionary",
    "difference": "a diff-SAE: one dictionary of intervened − reference",
}
_REASONS_SHOWN = 4


def build_report(results: AnalysisResults, folder: RunFolder) -> Report:
    """Everything the report says."""
    summary = results.summary
    models = tuple(_model(side, summary) for side in ("reference", "intervened"))
    checks = comparability(results)
    counts = _counts(results)
    # Both signs have to agree: a difference that is too small for FVE is still a difference.
    identical = (
        summary.get("relative_difference") == 0 and (summary.get("fve") or {}).get("difference") is None
    )
    return Report(
        schema_version=SCHEMA_VERSION,
        title=f"{models[0].name} → {models[1].name}",
        summary=_summary_sentences(results, counts, checks, identical),
        identical=identical,
        models=models,
        compared=_compared(results, folder),
        checks=checks,
        before=before_dictionary(folder, summary),
        counts=counts,
        groups=claim_groups(results),
        rule=_rule(summary.get("rule") or {}),
        limits=limit_curves(summary.get("limits") or []),
        certainty=certainty(results),
        unexplained=_unexplained(summary, counts),
        desiderata=desiderata(results, folder),
        undetermined=_undetermined(results),
        stages=_stages(results.manifest),
        versions=tuple(
            Fact(name=name, value=str(version))
            for name, version in (results.manifest.get("versions") or {}).items()
        ),
        seed=folder.read_config().seed if folder.config.is_file() else None,
        page=PAGE,
    )


def _model(side: str, summary: dict[str, Any]) -> Model:
    known = (summary.get("models") or {}).get(side) or {}
    name = _basename(known.get("model") or known.get("name") or known.get("path") or side)
    if known.get("adapter"):
        name = f"{name} + {_basename(known['adapter'])}"
    if known.get("context"):
        name = f"{name} after a context"
    facts = [
        Fact(name=key if key == "d_model" else key.replace("_", " "), value=visible(str(value)))
        for key, value in known.items()
        if value is not None and not isinstance(value, dict | list)
    ]
    if "revision" in known and known["revision"] is None:
        facts.append(Fact(name="revision", value="not named; the digests say which weights were read"))
    return Model(
        side="reference" if side == "reference" else "intervened", name=visible(name), facts=tuple(facts)
    )


def _basename(path: str) -> str:
    return str(path).rstrip("/").rsplit("/", 1)[-1]


def _compared(results: AnalysisResults, folder: RunFolder) -> tuple[Fact, ...]:
    summary = results.summary
    pair, data = results.manifest.get("pair") or {}, results.manifest.get("data") or {}
    sources = [
        f"{visible(name)}: {whole(source.get('tokens'))} tokens of {counted(source.get('documents') or 0, 'document')}"
        for name, source in (summary.get("sources") or {}).items()
    ]
    reads = summary.get("reads")
    facts = [
        ("hookpoint", visible(str(summary.get("hookpoint") or "none: activations came from files"))),
        (
            "text",
            f"{whole(summary.get('n_tokens'))} held-out tokens of {whole(summary.get('n_documents'))} documents, never trained on",
        ),
        ("sources", "; ".join(sources) or "not named"),
        ("dictionary", f"{whole(summary.get('n_latents'))} latents; {_READS.get(str(reads), str(reads))}"),
        ("latents that fire", _choice_of_k(folder, summary)),
    ]
    recorded = (
        ("token policy", ", ".join(f"{key} {value}" for key, value in (data.get("policy") or {}).items())),
        ("text digest", data.get("fingerprint")),
        ("chat template", f"digest {pair['chat_template']}" if pair.get("chat_template") else None),
    )
    facts += [(name, visible(str(value))) for name, value in recorded if value]
    return tuple(Fact(name=name, value=value) for name, value in facts)


def _choice_of_k(folder: RunFolder, summary: dict[str, Any]) -> str:
    """How many latents may fire on a token, and what a sweep says of it, where there was one."""
    asked = f"{fixed(summary.get('l0_target'), 0)} a token"
    path = folder.sweep / "sweep.json"
    if not path.is_file():
        return f"{asked}, as configured; no sweep was made"
    swept = json.loads(path.read_text(encoding="utf-8"))
    chosen, measure = swept["chosen"], swept["measure"]
    is_it = (chosen["n_latents"], chosen["k"]) == (summary.get("n_latents"), summary.get("l0_target"))
    several = len({point["n_latents"] for point in swept["curve"]}) > 1
    curve = ", ".join(
        f"k {point['k']}"
        + (f" of {whole(point['n_latents'])}" if several else "")
        + f": {percent(point[measure])}"
        for point in swept["curve"]
    )
    choice = (
        "as a sweep chose"
        if is_it
        else f"though a sweep chose {chosen['k']} of {whole(chosen['n_latents'])} latents"
    )
    return f"{asked}, {choice}; variance explained of the difference there: {curve}"


def _counts(results: AnalysisResults) -> tuple[LabelCount, ...]:
    found = Counter(results.features["label"].tolist())
    known = results.summary.get("counts") or {}
    labels = [*LABELS, *(label for label in found if label not in LABELS)]
    return tuple(
        LabelCount(
            label=label,
            meaning=LABEL_MEANINGS.get(label, ""),
            count=found[label],
            **{key: (known.get(label) or {}).get(key) for key in ("low", "high", "expected_false")},
        )
        for label in labels
    )


def _summary_sentences(
    results: AnalysisResults, counts: tuple[LabelCount, ...], checks: tuple[Check, ...], identical: bool
) -> tuple[str, ...]:
    if identical:
        same = "Both sides computed identical activations: there is no difference to explain, and nothing below is one."
        return same, _new_and_lost(results, counts)
    fve = (results.summary.get("fve") or {}).get("difference")
    explained = (
        f"The dictionary explains {percent(fve)} of the difference between the models."
        if fve is not None
        else "How much of the difference the dictionary explains is not measured."
    )
    failed = [check.name for check in checks if check.verdict == "fail"]
    verdicts = f"Not met: {'; '.join(failed)}." if failed else "No condition for a comparison failed."
    unmeasured = [check.name for check in checks if check.verdict == NOT_MEASURED]
    if unmeasured:
        verdicts += f" Not measured: {'; '.join(unmeasured)}."
    return _new_and_lost(results, counts), explained, verdicts


def _new_and_lost(results: AnalysisResults, counts: tuple[LabelCount, ...]) -> str:
    total = len(results.features)
    by_label = {count.label: count for count in counts}
    if not results.has_norms:
        reweighted = by_label["reweighted"].count
        rates = f" {counted(reweighted, 'latent')} fire at another rate." if reweighted else ""
        return (
            "This dictionary has no decoder norm for each model, so it calls no latent new or lost. What it gives is each "
            f"latent's share of the shift, for {counted(total, 'latent')}.{rates}"
        )
    new, lost = by_label["new"], by_label["lost"]
    if not new.count and not lost.count:
        least = (
            ""
            if new.high is None
            else f" With other text it might have been up to {new.high:.0f} new and {lost.high:.0f} lost."
        )
        return (
            f"Of {counted(total, 'latent')}, none is new and none is lost: by the rule below, no latent is in one model only."
            f"{least}{_expected(new, lost)}"
        )
    others = [
        f"{by_label[label].count:,} {label}"
        for label in ("rotated", "rescaled", "reweighted")
        if by_label[label].count
    ]
    rest = f"; {', '.join(others)}" if others else ""
    return (
        f"Of {counted(total, 'latent')}, {new.count:,}{_range(new)} are new (in the intervened model only) and "
        f"{lost.count:,}{_range(lost)} lost (in the reference only){rest}.{_expected(new, lost)}"
    )


def _range(count: LabelCount) -> str:
    return (
        ""
        if count.low is None or count.high is None
        else f" ({count.low:.0f} to {count.high:.0f} with other text)"
    )


def _expected(new: LabelCount, lost: LabelCount) -> str:
    """How many of them to expect from nothing."""
    if new.expected_false is None or lost.expected_false is None:
        return " How many to expect from nothing is not measured."
    return (
        f" A pair that differs as much and in no feature has {fixed(new.expected_false, 1)} new and "
        f"{fixed(lost.expected_false, 1)} lost ones of as much effect."
    )


def _rule(rule: dict[str, Number]) -> tuple[Statement, ...]:
    if not rule:
        return (Statement(name="rule", text=NOT_MEASURED, verdict="not measured"),)
    return (
        Statement(
            name="new, lost",
            text=f"the weaker decoder norm is at most {rule['weak_norm']:g} of the stronger, and the upper bounds of ν error and "
            f"ν reconstruction are at most {rule['nu_error']:g} and {rule['nu_reconstruction']:g} (latent scaling, Minder et al. "
            f"2025), and the q-value is at most {rule['false_discovery_rate']:g}: chance, and what latents of the null explain where they "
            "fire. Norms alone never decide.",
        ),
        Statement(name="rotated", text=f"cosine of the two directions below {rule['rotated_cosine']:g}."),
        Statement(
            name="rescaled, shared",
            text=f"cosine above {rule['shared_cosine']:g}; shared where the weaker norm is at least {rule['shared_ratio']:g} of the "
            "stronger, rescaled where it is below.",
        ),
        Statement(
            name="reweighted",
            text=f"of a shared-dictionary SAE alone: one model fires at least {rule['rate_ratio']:g} times as often, interval "
            "included.",
        ),
        Statement(
            name="undetermined",
            text=f"seen in fewer than {rule['min_documents']:g} held-out documents, or the measures disagree.",
        ),
        Statement(
            name="intervals",
            text=f"{percent(rule['confidence'])} intervals, from resampling whole held-out documents. They say how the numbers would "
            "vary with other text, not with another training run.",
        ),
    )


def _unexplained(summary: dict[str, Any], counts: tuple[LabelCount, ...]) -> tuple[Statement, ...]:
    fve = (summary.get("fve") or {}).get("difference")
    shift = summary.get("shift") or {}
    number = {count.label: count.count for count in counts}
    missing = 1 - fve if fve is not None else None
    shares = (
        (
            "difference that the dictionary does not rebuild",
            missing,
            "1 − variance explained of the difference",
        ),
        (
            "shift explained by latents",
            shift.get("latents"),
            "sum of all shares; with the two below it makes 100 %",
        ),
        ("shift in the bias", shift.get("bias"), "a constant offset between the models"),
        ("shift in the error", shift.get("error"), "neither latents nor bias"),
        (
            "dead latents",
            summary.get("dead_share"),
            f"{number['dead']:,} of {whole(summary.get('n_latents'))} fired on no held-out token",
        ),
    )
    return tuple(
        Statement(
            name=name,
            text=f"{percent(value)} ({meaning})",
            value=value,
            verdict="measured" if present(value) else "not measured",
        )
        for name, value, meaning in shares
    )


def _undetermined(results: AnalysisResults) -> tuple[Reason, ...]:
    """The commonest reasons; reasons that differ only in their numbers are one."""
    rows = results.features.loc[results.features["label"] == "undetermined", "reason"].dropna()
    kinds = Counter(re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "0", str(reason)) for reason in rows)
    examples = {
        re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "0", str(reason)): str(reason)
        for reason in reversed(rows.tolist())
    }
    return tuple(
        Reason(count=count, example=visible(examples[kind]))
        for kind, count in kinds.most_common(_REASONS_SHOWN)
    )


def _total(tokens: int | dict[str, int] | None) -> int | None:
    """Tokens of a stage; the harvest counts those of training and held-out documents apart."""
    return sum(tokens.values()) if isinstance(tokens, dict) else tokens


def _stages(manifest: dict[str, Any]) -> tuple[Stage, ...]:
    return tuple(
        Stage(
            name=name,
            wall_seconds=stage.get("wall_seconds"),
            tokens=_total(stage.get("tokens")),
            command=stage.get("command"),
            finished=stage.get("finished"),
        )
        for name, stage in (manifest.get("stages") or {}).items()
        if isinstance(stage, dict)
    )
