"""The conditions for comparing the two models, each with its value, threshold and verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crosscoder.config.pair import MIN_ALIGNMENT_RATE, MIN_MAP_COSINE, MIN_MAP_EXPLAINED_VARIANCE

from ..tables.analysis_files import AnalysisResults
from .label_conditions import conditions_of, control_checks
from .phrases import NOT_MEASURED, Number, present
from .schema import Check
from .wording import named, say


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the conditions, stated with every verdict: those of the settings where there are any, otherwise conventions of this
    report."""

    fve: float = 0.70
    fve_gap: float = 0.05
    fve_difference: float = 0.50
    cosine: float = 0.50
    recovered: float = 0.80
    l0_deviation: float = 0.05
    dead_share: float = 0.20


def comparability(results: AnalysisResults, thresholds: Thresholds | None = None) -> tuple[Check, ...]:
    """Return all conditions, in the order of the report."""
    limits = thresholds or Thresholds()
    summary = results.summary
    asked = conditions_of(summary)
    return (
        _tokenizer(results.manifest),
        _same_tokens(results),
        *_outside(results.manifest),
        *_fve(summary.get("fve") or {}, asked, limits),
        _difference(summary.get("relative_difference")),
        *_common_space(summary, limits),
        *_recovered(summary.get("ce") or {}, limits),
        _l0(summary.get("l0"), summary.get("l0_target"), asked, limits),
        _at_most(
            "dead latents", summary.get("dead_share"), limits.dead_share,
            "share of latents that fired on no held-out token",
        ),
        *control_checks(summary),
    )  # fmt: skip


def _tokenizer(manifest: dict[str, Any]) -> Check:
    aligned = (manifest.get("data") or {}).get("alignment")
    if aligned:
        return _alignment(aligned)
    digest = (manifest.get("pair") or {}).get("tokenizer")
    return Check(
        name="one tokenizer",
        value=digest,
        shown=say("digest {digest}", digest=named(digest)) if digest else say(NOT_MEASURED),
        threshold=say("equal"),
        verdict="pass" if digest else NOT_MEASURED,
        meaning="both models split text into the same tokens; a pair whose tokenizers differ is refused unless its tokens are to be aligned"
        if digest
        else "the activations came from files, without a tokenizer",
    )


def _alignment(aligned: dict[str, Any]) -> Check:
    """Return the rate of aligned tokens of two tokenizers; a pair below the limit was refused before the harvest."""
    rates = {side: aligned[side]["rate"] for side in ("reference", "intervened")}
    return Check(
        name="tokens aligned",
        value=min(rates.values()),
        shown=say("{reference:percent} and {intervened:percent}", **rates),
        threshold=say("at least {limit:percent}", limit=MIN_ALIGNMENT_RATE),
        verdict="pass",
        meaning="the tokenizers differ; share of each model's tokens (reference, intervened) that end at the same character as a token of the "
        "other model: only these are compared",
    )


def _same_tokens(results: AnalysisResults) -> Check:
    paired = bool(results.manifest.get("pair"))
    aligned = (results.manifest.get("data") or {}).get("alignment")
    count = results.summary.get("n_tokens")
    meaning = (
        "the same token ids went into both models"
        if paired
        else "each row of the two files is assumed to be the same token"
    )
    return Check(
        name="the same text" if aligned else "the same tokens",
        value=count,
        shown=say("{value:whole} held-out tokens", value=count),
        threshold=say("all"),
        verdict="pass" if paired else NOT_MEASURED,
        meaning="both models read the same text, each in its own tokens; the number counts the reference's"
        if aligned
        else meaning,
    )


def _outside(manifest: dict[str, Any]) -> list[Check]:
    """Return how activations that another program computed compare with the models' own pass; nothing if the models computed them. Those that are
    not of the models at all were refused before the harvest."""
    outside = ((manifest.get("stages") or {}).get("harvest") or {}).get("outside")
    if not outside:
        return []
    fidelity = outside["fidelity"]
    error = max(one["relative_error"] for one in fidelity["models"].values())
    limit = fidelity["largest_error"]
    verdict = NOT_MEASURED if limit is None else "pass" if error <= limit else "fail"
    return [
        Check(
            name="activations from another program",
            value=error,
            shown=say("{value:percent}", value=error),
            threshold=say(NOT_MEASURED) if limit is None else say("at most {limit:percent}", limit=limit),
            verdict=verdict,
            meaning="error relative to the models' own forward pass, on a sample of documents; the threshold is half of what the models differ by: "
            "above it, part of the difference may be how the activations were computed",
        )
    ]


def _limit(asked: Mapping[str, Any], name: str, otherwise: float) -> float:
    """Return the limit that the settings ask for (`analysis.conditions`), as the analysis recorded it."""
    return asked[name]["limit"] if name in asked else otherwise


def _fve(fve: dict[str, Number | None], asked: Mapping[str, Any], limits: Thresholds) -> list[Check]:
    checks = [
        _at_least(
            f"variance explained ({side})", fve.get(side), _limit(asked, f"fve_{side}", limits.fve), "percent",
            f"share of the {side} model's activation variance that the dictionary reconstructs (FVE)",
        )
        for side in ("reference", "intervened")
    ]  # fmt: skip
    ends = [fve.get(side) for side in ("reference", "intervened")]
    gap = abs(ends[0] - ends[1]) if present(ends[0]) and present(ends[1]) else None  # pyright: ignore[reportOperatorIssue]
    checks.append(
        _at_most(
            "gap in variance explained",
            gap,
            limits.fve_gap,
            "between the two models; a dictionary that reconstructs one of them worse shows differences that neither has",
        )
    )
    checks.append(
        _at_least(
            "variance explained (difference)", fve.get("difference"), limits.fve_difference, "percent",
            "share of the variance of intervened − reference that the dictionary reconstructs; labels describe that share only",
        )
    )  # fmt: skip
    return checks


def _difference(value: Number | None) -> Check:
    verdict = ("pass" if value > 0 else "fail") if value is not None else NOT_MEASURED
    return Check(
        name="there is a difference",
        value=value,
        shown=say("{value:percent}", value=value),
        threshold=say("above {limit}", limit=0),
        verdict=verdict,
        meaning="squared difference of the activations, as a share of the reference's variance"
        if value != 0
        else "both models computed identical activations",
    )


def _common_space(summary: dict[str, Any], limits: Thresholds) -> tuple[Check, ...]:
    """Return how well a direction of one model can be looked up in the other."""
    frame = summary.get("frame")
    if frame:
        return (
            _at_least(
                "linear map between the two models", min(frame["reference"], frame["intervened"]), MIN_MAP_EXPLAINED_VARIANCE, "percent",
                "the models share no activation space, so a linear map between their activations takes directions of one to the other; share "
                "of the variance that it explains, in the model where that is lower",
            ),
            _at_least(
                "directions carried by the linear map", frame["agreement"], MIN_MAP_COSINE, ".2f",
                "median cosine of a mapped direction to the actual one, over latents that write into both models; latent scaling is divided by it",
            ),
        )  # fmt: skip
    return (
        _at_least(
            "cosine of the two models' activations", summary.get("cosine"), limits.cosine, ".2f",
            "mean over tokens; if it is low, the models have too little in common for a comparison latent by latent",
        ),
    )  # fmt: skip


def _recovered(ce: dict[str, dict[str, Number]], limits: Thresholds) -> list[Check]:
    return [
        _at_least(
            f"loss recovered ({side})", (ce.get(side) or {}).get("recovered"), limits.recovered, "percent",
            "share of the cross-entropy that is lost with mean activations and recovered with reconstructions",
        )
        for side in ("reference", "intervened")
    ]  # fmt: skip


def _l0(value: Number | None, target: Number | None, asked: Mapping[str, Any], limits: Thresholds) -> Check:
    limit = _limit(asked, "l0", limits.l0_deviation)
    off = abs(value / target - 1) if value is not None and target else None
    return Check(
        name="latents per token (L0)",
        value=value,
        shown=say("{value:.1f}", value=value),
        threshold=say("within {limit:percent} of {target:g}", limit=limit, target=target)
        if target
        else say("no target"),
        verdict=NOT_MEASURED if off is None else "pass" if off <= limit else "fail",
        meaning="mean number of latents that fire on a held-out token, at inference",
    )


def _at_least(name: str, value: Number | None, limit: Number, form: str, meaning: str) -> Check:
    verdict = NOT_MEASURED if value is None else "pass" if value >= limit else "fail"
    return Check(
        name=name,
        value=value,
        shown=say(f"{{value:{form}}}", value=value),
        threshold=say(f"at least {{limit:{form}}}", limit=limit),
        verdict=verdict,
        meaning=meaning,
    )


def _at_most(name: str, value: Number | None, limit: Number, meaning: str) -> Check:
    verdict = NOT_MEASURED if value is None else "pass" if value <= limit else "fail"
    return Check(
        name=name,
        value=value,
        shown=say("{value:percent}", value=value),
        threshold=say("at most {limit:percent}", limit=limit),
        verdict=verdict,
        meaning=meaning,
    )
