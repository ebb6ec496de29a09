"""The report as data: every section, from the files of the analysis and the manifest alone."""

import re
from collections import Counter
from typing import Any, Literal

from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import read_json

from ..behaviors.behavior_files import load_behaviors
from ..discovery.findings_file import read_discovery
from ..explanations.explanation_files import read_rules
from ..labels.rule import ROTATED_RATIO
from ..tables.analysis_files import LABELS, AnalysisResults
from .before_dictionary import before_dictionary
from .behavior_shifts import behavior_shifts
from .certainty import certainty
from .change_headlines import change_statements
from .claims import LABEL_MEANINGS, PAGE, claim_groups
from .comparability import comparability
from .desiderata import desiderata
from .discovery_content import discovery_section
from .grounds import grounds_of
from .headlines import headlines, shared_meaning
from .label_conditions import is_withheld
from .label_rule import rule_statements
from .limit_curves import limit_curves
from .loaded_source import loaded_from
from .outlook import outlook
from .phrases import NOT_MEASURED, Number, present, visible
from .schema import (
    SCHEMA_VERSION,
    Fact,
    LabelCount,
    Model,
    Reason,
    Recorded,
    Report,
    Stage,
    Statement,
)
from .wording import Sentence, listed, named, plain, say

_READS = {
    "paired": "a crosscoder: latents that both models share, each with a decoder direction per model",
    "pooled": "a shared-dictionary SAE: one dictionary that encodes each model's activations separately",
    "difference": "a diff-SAE: a dictionary of the difference intervened − reference",
}
_REASONS_SHOWN = 4
_COUNTED = ("low", "high", "candidates", "expected_false", "expected_false_high")
# Columns that identify a latent and measure nothing.
_IDENTIFIERS = ("latent", "twin", "difference_latent")


def build_report(results: AnalysisResults, folder: RunFolder) -> Report:
    """Return the whole report.

    Raises:
        FormatError: A behavior or findings.json is damaged or has another version.
    """
    summary = results.summary
    models = _model("reference", summary), _model("intervened", summary)
    checks, requirements = comparability(results), desiderata(results, folder)
    counts = counts_by_label(results)
    measured = load_behaviors(folder)
    behaviors = behavior_shifts(measured)
    discovered = read_discovery(folder.findings)
    grounds = grounds_of(results, behaviors, discovered)
    # Both have to hold: a difference that is too small for an FVE is still a difference.
    identical = (
        summary.get("relative_difference") == 0 and (summary.get("fve") or {}).get("difference") is None
    )
    return Report(
        schema_version=SCHEMA_VERSION,
        title=f"{models[0].name} → {models[1].name}",
        summary=headlines(results, counts, checks, requirements, behaviors, discovered, grounds, identical),
        grounds=tuple(grounds.by_name.values()),
        withheld=is_withheld(summary),
        identical=identical,
        models=models,
        discovery=discovery_section(discovered, behaviors, grounds),
        compared=_compared(results, folder),
        checks=checks,
        before=before_dictionary(folder, summary),
        counts=counts,
        groups=claim_groups(results, read_rules(folder)),
        behaviors=behaviors,
        rule=rule_statements(summary.get("rule") or {}),
        limits=limit_curves(summary.get("limits") or []),
        certainty=certainty(results),
        change=change_statements(summary),
        unexplained=_unexplained(summary, counts),
        desiderata=requirements,
        outlook=outlook(results, measured),
        undetermined=_undetermined(results),
        stages=_stages(results.manifest),
        versions=tuple(
            Recorded(name=name, value=str(version))
            for name, version in (results.manifest.get("versions") or {}).items()
        ),
        seed=folder.read_config().seed if folder.config.is_file() else None,
        page=PAGE,
    )


def short_names(summary: dict[str, Any]) -> tuple[str, str]:
    """Return the names of the reference and the intervened model, as in the report's title."""
    return _model("reference", summary).name, _model("intervened", summary).name


def _model(side: Literal["reference", "intervened"], summary: dict[str, Any]) -> Model:
    known = (summary.get("models") or {}).get(side) or {}
    name = _basename(known.get("model") or known.get("name") or known.get("path") or side)
    if known.get("adapter"):
        name = f"{name} + {_basename(known['adapter'])}"
    if known.get("context"):
        name = f"{name} after a context"
    facts = [
        Recorded(
            name=key if key == "d_model" else key.replace("_", " "),
            value=value
            if isinstance(value, int | float) and not isinstance(value, bool)
            else visible(str(value)),
        )
        for key, value in known.items()
        if value is not None and not isinstance(value, dict | list)
    ]
    if "revision" in known and known["revision"] is None:
        facts.append(Recorded(name="revision", value="not named; the digests identify the weights"))
    return Model(side=side, name=visible(name), facts=tuple(facts))


def _basename(path: str) -> str:
    return str(path).rstrip("/").rsplit("/", 1)[-1]


def _compared(results: AnalysisResults, folder: RunFolder) -> tuple[Fact, ...]:
    summary = results.summary
    pair, data = results.manifest.get("pair") or {}, results.manifest.get("data") or {}
    sources = [
        (
            name,
            say(
                "{source}: {tokens:whole} tokens of {documents:counted document}",
                source=named(name),
                tokens=source.get("tokens"),
                documents=source.get("documents") or 0,
            ),
        )
        for name, source in (summary.get("sources") or {}).items()
    ]
    hookpoint, reads = summary.get("hookpoint"), str(summary.get("reads"))
    loaded = results.manifest.get("loaded")
    text = say(
        "{n_tokens:whole} held-out tokens of {n_documents:whole} documents, {unseen}",
        unseen="which the loaded dictionary may have been trained on" if loaded else "not used in training",
        n_tokens=summary.get("n_tokens"),
        n_documents=summary.get("n_documents"),
    )
    facts = [
        ("intervention", _intervention(pair)),
        (
            "hookpoint",
            say("{path}", path=named(hookpoint) if hookpoint else "none: activations came from files"),
        ),
        ("text", text),
        ("sources", listed(sources, "; ") if sources else say("not named")),
        (
            "dictionary",
            say(
                "{n_latents:whole} latents; {reads}",
                n_latents=summary.get("n_latents"),
                reads=_READS.get(reads) or named(reads),
            ),
        ),
        ("latents that fire", _choice_of_k(folder, summary)),
    ]
    if loaded:
        facts.append(("loaded from", loaded_from(loaded)))
    if aligned := data.get("alignment"):
        facts.append(("tokens", _aligned(aligned)))
    policy = [(key, _setting(key, value)) for key, value in (data.get("policy") or {}).items()]
    fingerprint, template = data.get("fingerprint"), pair.get("chat_template")
    if policy:
        facts.append(("token policy", listed(policy)))
    if fingerprint:
        facts.append(("text digest", say("{digest}", digest=named(fingerprint))))
    if template:
        facts.append(("chat template", say("digest {digest}", digest=named(template))))
    return tuple(Fact(name=name, value=value) for name, value in facts)


def _intervention(pair: dict[str, Any]) -> Sentence:
    """Return how the intervened model differs from the reference, as far as the manifest records it."""
    reference, intervened = pair.get("reference") or {}, pair.get("intervened") or {}
    if not pair:
        return say("not known: activations came from files")
    if intervened.get("adapter"):
        return say(
            "an adapter, {adapter}, on the reference's weights",
            adapter=named(_basename(intervened["adapter"])),
        )
    if intervened.get("context"):
        return say("a context before the same tokens; the weights are the reference's")
    if reference.get("weights") == intervened.get("weights"):
        return say("none: both models have the same weights")
    return say("other weights (another checkpoint)")


def _aligned(aligned: dict[str, Any]) -> Sentence:
    """Return where the tokens of two tokenizers are aligned."""
    return say(
        "the tokenizers differ, so each model reads the text in its own tokens. The models are compared at {places:whole} places where a token "
        "of each ends at the same character: {reference:percent} of the reference's {reference_tokens:whole} tokens and "
        "{intervened:percent} of the intervened model's {intervened_tokens:whole}. The tokens shown are the reference's",
        places=aligned["places"],
        reference=aligned["reference"]["rate"],
        reference_tokens=aligned["reference"]["tokens"],
        intervened=aligned["intervened"]["rate"],
        intervened_tokens=aligned["intervened"]["tokens"],
    )


def _setting(key: str, value: object) -> Sentence:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return say("{key} {value}", key=named(key), value=plain(value) if is_number else named(value))


def _choice_of_k(folder: RunFolder, summary: dict[str, Any]) -> Sentence:
    """Return how many latents may fire on a token, with the curve of the sweep if there was one."""
    target = summary.get("l0_target")
    if "loaded" in folder.read_manifest():
        given = say("{k:.0f} per token", k=target) if target else say("no target is known")
        return say("{given}, as the loaded dictionary has it", given=given)
    path = folder.sweep / "sweep.json"
    if not path.is_file():
        return say("{k:.0f} per token, as configured; no sweep was made", k=target)
    swept = read_json(path, "run crosscoder sweep again")
    chosen, measure = swept["chosen"], swept["measure"]
    as_chosen = (chosen["n_latents"], chosen["k"]) == (summary.get("n_latents"), target)
    several = len({point["n_latents"] for point in swept["curve"]}) > 1
    of = " of {n_latents:whole}" if several else ""
    curve = listed(
        (
            f"point_{place}",
            say(
                "k {k}" + of + ": {fve:percent}",
                k=point["k"],
                n_latents=point["n_latents"],
                fve=point[measure],
            ),
        )
        for place, point in enumerate(swept["curve"])
    )
    choice = (
        "as a sweep chose"
        if as_chosen
        else say(
            "although a sweep chose {chosen_k} of {chosen_n_latents:whole} latents",
            chosen_k=chosen["k"],
            chosen_n_latents=chosen["n_latents"],
        )
    )
    return say(
        "{k:.0f} per token, {choice}; variance of the difference explained in the sweep: {curve}",
        k=target,
        choice=choice,
        curve=curve,
    )


def counts_by_label(results: AnalysisResults) -> tuple[LabelCount, ...]:
    """Return the number of latents with each label, whether the report states it or withholds it."""
    found = Counter(results.features["label"].tolist())
    known = results.summary.get("counts") or {}
    labels = [*LABELS, *(label for label in found if label not in LABELS)]
    return tuple(
        LabelCount(
            label=label,
            meaning=shared_meaning(results) if label == "shared" else say(LABEL_MEANINGS.get(label, "")),
            count=found[label],
            **{key: (known.get(label) or {}).get(key) for key in _COUNTED},
        )
        for label in labels
    )


def _unexplained(summary: dict[str, Any], counts: tuple[LabelCount, ...]) -> tuple[Statement, ...]:
    fve = (summary.get("fve") or {}).get("difference")
    shift = summary.get("shift") or {}
    number = {count.label: count.count for count in counts}
    missing = 1 - fve if fve is not None else None
    shares = (
        (
            "variance of the difference that the dictionary does not explain",
            missing,
            "the rest is the variance of the difference that it explains",
        ),
        (
            "activation shift explained by latents",
            shift.get("latents"),
            "sum over all latents; with the two shares below it adds up to the whole activation shift E‖intervened − reference‖²",
        ),
        (
            "activation shift in the bias",
            shift.get("bias"),
            "a constant offset between the models",
        ),
        ("activation shift in the error", shift.get("error"), "in neither latents nor bias"),
        (
            "dead latents",
            summary.get("dead_share"),
            say(
                "{dead:,} of {n_latents:whole} fired on no held-out token",
                dead=number["dead"],
                n_latents=summary.get("n_latents"),
            ),
        ),
    )
    return tuple(
        Statement(
            name=name,
            text=say("{share:percent} ({meaning})", share=value, meaning=meaning),
            value=plain(value),
            verdict="measured" if present(value) else NOT_MEASURED,
        )
        for name, value, meaning in shares
    )


def _undetermined(results: AnalysisResults) -> tuple[Reason, ...]:
    """Return the most common reasons; reasons that differ only in their numbers are counted as one."""
    rows = results.features.loc[results.features["label"] == "undetermined", "reason"].dropna()
    kinds = Counter(_without_numbers(reason) for reason in rows)
    first = {
        _without_numbers(reason): (int(str(latent)), str(reason))
        for latent, reason in reversed(list(rows.items()))
    }
    return tuple(
        Reason(
            count=count,
            latent=first[kind][0],
            example=visible(first[kind][1]),
            numbers=_numbers_of_reason(results, first[kind][0]),
        )
        for kind, count in kinds.most_common(_REASONS_SHOWN)
    )


def _without_numbers(reason: object) -> str:
    return re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "0", str(reason))


def _numbers_of_reason(results: AnalysisResults, latent: int) -> dict[str, Number]:
    """Return the numbers that a reason can contain: the latent's evidence, and the limits of the rule."""
    row = results.features.iloc[latent]
    numbers = {str(column): plain(value) for column, value in row.items() if column not in _IDENTIFIERS}
    norms = {side: numbers.get(f"norm_{side}") or 0.0 for side in ("reference", "intervened")}
    larger = max(norms.values())
    numbers |= {f"norm_share_{side}": norm / larger if larger else 0.0 for side, norm in norms.items()}
    for name in ("nu_error", "nu_reconstruction"):
        low, high = numbers.get(f"{name}_low"), numbers.get(f"{name}_high")
        numbers[f"{name}_largest"] = None if low is None or high is None else max(abs(low), abs(high))
    numbers["rotated_ratio"] = ROTATED_RATIO
    numbers |= {f"rule.{name}": plain(value) for name, value in (results.summary.get("rule") or {}).items()}
    return {name: value for name, value in numbers.items() if value is not None}


def _total(tokens: int | dict[str, int] | None) -> int | None:
    """Return the tokens of a stage; the harvest counts training and held-out documents separately."""
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
