"""What the page holds of behaviors: the report's own words and numbers, every latent's share, and where named latents carry it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from ..behaviors.behavior_files import (
    LEVELS,
    BehaviorFolder,
    BehaviorResults,
    behavior_places,
    load_behaviors,
)
from ..report.behavior_schema import BehaviorShift, Explanation
from ..report.behavior_shifts import form_of
from ..report.desiderata import COST
from ..report.outlook import outlook
from ..tables.analysis_files import AnalysisResults
from ..tables.read_columns import read_columns
from .attributed_tokens import attributed_tokens
from .report_section import pieces
from .section import Section

_SHARES = ("share_find", "share_held_out", "share_held_out_low", "share_held_out_high", "rank")
_CHECKS = ("necessity", "sufficiency")


def behavior_section(folder: RunFolder, results: AnalysisResults, shifts: Sequence[BehaviorShift]) -> Section:
    """All behaviors of a run, with what the report says of how each shifted; nothing for a run without any.

    Raises `FormatError` where a file of a behavior is damaged.
    """
    behaviors = load_behaviors(folder)
    if not behaviors:
        return Section()
    n_latents = len(results.features)
    told, arrays, per_latent, carried = [], {}, {}, {}
    levers = _levers(results, behaviors)
    told_of = zip(behavior_places(folder), behaviors, shifts, strict=True)
    for index, (place, found, shift) in enumerate(told_of):
        shares = _shares(place.latents, n_latents) if shift.explanation else {}
        told.append(_told(found, shift, shares, levers.get(found.name, [])))
        if shares:
            arrays[f"column:attributed/{found.name}"] = shares.pop("share_held_out").astype(np.float32)
            per_latent |= {
                f"behavior_{index}_{name}": values.astype(np.float32) for name, values in shares.items()
            }
        for latent, prompts in _carried(place, found).items():
            carried.setdefault(latent, {})[str(index)] = prompts
    return Section({"behaviors": told, "cost": COST}, arrays, per_latent, {"carried": carried})


def evidence_section(results: AnalysisResults) -> Section:
    """What may be said of each latent, to filter by; nothing where everything was merely observed."""
    found = results.features["evidence"].tolist()
    if set(found) <= {"observed"}:
        return Section()
    codes = np.asarray([LEVELS.index(level) for level in found], dtype=np.uint8)
    return Section({"levels": LEVELS}, {"evidence": codes})


def _levers(
    results: AnalysisResults, behaviors: tuple[BehaviorResults, ...]
) -> dict[str, list[dict[str, Any]]]:
    """What the report says of each behavior's levers, by the behavior's name."""
    return {
        behavior.name: [
            {"name": statement.name, "text": pieces(statement.text)}
            for statement in outlook(results, (behavior,)).levers
        ]
        for behavior in behaviors
        if behavior.causal is not None
    }


def _told(
    results: BehaviorResults,
    shift: BehaviorShift,
    shares: dict[str, Float64[np.ndarray, " latent"]],
    levers: list[dict[str, Any]],
) -> dict[str, Any]:
    told = shift.model_dump(mode="json", exclude={"sentences", "explanation"})
    return told | {
        "percent": form_of(shift.unit) == "percent",
        "stands_in": results.shift["stand_in"] is not None,
        "said": [pieces(sentence) for sentence in shift.sentences],
        "explanation": shift.explanation
        and _explained(results, shift.explanation, shares) | {"levers": levers},
    }


def _explained(
    results: BehaviorResults, explanation: Explanation, shares: dict[str, Float64[np.ndarray, " latent"]]
) -> dict[str, Any]:
    """What the report says, with every layer, and beside each check what became of each random draw."""
    attribution, causal = results.attribution, results.causal
    assert attribution is not None and causal is not None
    told = explanation.model_dump(
        mode="json", include={"origins", "level", "latents", "curve", "necessity", "sufficiency", "doses"}
    )
    for latent, entry in zip(told["latents"], causal["latents"], strict=True):
        del latent["link"]
        latent["attribution"] = {
            "value": latent["attribution"],
            **{end: _at(shares.get(f"share_held_out_{end}"), latent["latent"]) for end in ("low", "high")},
        }
        for kind in _CHECKS:
            # Undefined between two models that share no space.
            if latent[kind] is not None:
                latent[kind]["random"] = entry[kind]["random"]
    return told | {
        "unit": attribution["unit"],
        "n_prompts": causal["n_prompts"],
        "answers": _in_answers(explanation, causal),
        "layers": [
            {"layer": row["layer"], "hookpoint": row["hookpoint"], "represented": row["represented"]}
            for row in attribution["layers"] or ()
        ],
    }


def _in_answers(explanation: Explanation, causal: dict[str, Any]) -> dict[str, Any] | None:
    """The checks in generated answers, of the named latents and of more of the ranking; None where the metric is not of answers."""
    answers = causal["answers"]
    if answers is None:
        return None
    checks = {"necessity": explanation.answers_necessity, "sufficiency": explanation.answers_sufficiency}
    told = {kind: check and check.model_dump(mode="json") for kind, check in checks.items()}
    for kind, check in told.items():
        if check is not None:
            check["random"] = answers["together"][kind]["random"]
    n_named = len(causal["named"])
    first = {kind: check and check["share"] for kind, check in told.items()}
    more = [{"latents": point["n"], **{kind: point[kind] for kind in _CHECKS}} for point in answers["curve"]]
    return told | {
        "n_prompts": answers["n_prompts"],
        "n_named": n_named,
        "confidence": causal["confidence"],
        "curve": sorted([{"latents": n_named, **first}, *more], key=lambda point: point["latents"]),
    }


def _at(values: Float64[np.ndarray, " latent"] | None, latent: int) -> float | None:
    return None if values is None else float(values[latent])


def _shares(path: Path, n_latents: int) -> dict[str, Float64[np.ndarray, " latent"]]:
    """Columns of attribution.parquet, NaN where a latent has no such number; empty without any."""
    if not path.is_file():
        return {}
    columns = read_columns(path, ("latent",), "attribute", _SHARES)
    latents = columns.pop("latent")
    if len(latents) and latents.max() >= n_latents:
        raise FormatError(
            f"{path}: holds latent {latents.max()}, but the dictionary has {n_latents}; run crosscoder attribute again"
        )
    shares = {}
    for name, values in columns.items():
        shares[name] = np.full(n_latents, np.nan)
        shares[name][latents] = values
    return shares if "share_held_out" in shares else {}


def _carried(place: BehaviorFolder, results: BehaviorResults) -> dict[int, list[dict[str, Any]]]:
    attribution, causal = results.attribution, results.causal
    if attribution is None or causal is None or not place.tokens.is_file():
        return {}
    direction = float(np.sign(attribution["held_out"]["total"]["value"]))
    return attributed_tokens(place, causal["named"], direction)
