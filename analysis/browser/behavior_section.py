"""The behaviors on the page: the report's sentences and numbers, every latent's share, and the tokens of named latents."""

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
    behavior_folders,
    load_behaviors,
)
from ..report.behavior_schema import BehaviorShift, Explanation
from ..report.levers import COST
from ..report.outlook import outlook
from ..report.phrases import unit_format
from ..tables.analysis_files import AnalysisResults
from ..tables.read_columns import read_columns
from .attributed_tokens import attributed_tokens
from .section import Section
from .sentence_pieces import pieces

_SHARES = ("share_find", "share_held_out", "share_held_out_low", "share_held_out_high", "rank")
_CHECKS = ("necessity", "sufficiency")


def behavior_section(folder: RunFolder, results: AnalysisResults, shifts: Sequence[BehaviorShift]) -> Section:
    """Return all behaviors of a run with the report's statements on each shift; empty for a run without behaviors.

    Raises:
        FormatError: A file of a behavior is damaged.
    """
    behaviors = load_behaviors(folder)
    if not behaviors:
        return Section()
    n_latents = len(results.features)
    records, arrays, latent_arrays, attributed = [], {}, {}, {}
    levers = _levers(results, behaviors)
    inputs = zip(behavior_folders(folder), behaviors, shifts, strict=True)
    for index, (behavior_folder, found, shift) in enumerate(inputs):
        shares = _shares(behavior_folder.latents, n_latents) if shift.explanation else {}
        records.append(_behavior_record(found, shift, shares, levers.get(found.name, [])))
        if shares:
            arrays[f"column:attributed/{found.name}"] = shares.pop("share_held_out").astype(np.float32)
            latent_arrays |= {
                f"behavior_{index}_{name}": values.astype(np.float32) for name, values in shares.items()
            }
        for latent, prompts in _attributed_tokens(behavior_folder, found).items():
            attributed.setdefault(latent, {})[str(index)] = prompts
    return Section(
        {"behaviors": records, "cost": COST}, arrays, latent_arrays, {"attributed_tokens": attributed}
    )


def evidence_section(results: AnalysisResults) -> Section:
    """Return the evidence level of each latent, as a filter; empty if all latents are only observed."""
    found = results.features["evidence"].tolist()
    if set(found) <= {"observed"}:
        return Section()
    codes = np.asarray([LEVELS.index(level) for level in found], dtype=np.uint8)
    return Section({"levels": LEVELS}, {"evidence": codes})


def _levers(
    results: AnalysisResults, behaviors: tuple[BehaviorResults, ...]
) -> dict[str, list[dict[str, Any]]]:
    """Return the report's statements on steering each behavior, by behavior name."""
    return {
        behavior.name: [
            {"name": statement.name, "text": pieces(statement.text)}
            for statement in outlook(results, (behavior,)).levers
        ]
        for behavior in behaviors
        if behavior.causal is not None
    }


def _behavior_record(
    results: BehaviorResults,
    shift: BehaviorShift,
    shares: dict[str, Float64[np.ndarray, " latent"]],
    levers: list[dict[str, Any]],
) -> dict[str, Any]:
    record = shift.model_dump(mode="json", exclude={"sentences", "explanation"})
    return record | {
        "percent": unit_format(shift.unit) == "percent",
        "stand_in": results.shift["stand_in"] is not None,
        "sentences": [pieces(sentence) for sentence in shift.sentences],
        "explanation": shift.explanation
        and _explanation_record(results, shift.explanation, shares) | {"levers": levers},
    }


def _explanation_record(
    results: BehaviorResults, explanation: Explanation, shares: dict[str, Float64[np.ndarray, " latent"]]
) -> dict[str, Any]:
    """Return the report's explanation, with every layer and the result of every random draw of each check."""
    attribution, causal = results.attribution, results.causal
    assert attribution is not None and causal is not None
    record = explanation.model_dump(
        mode="json",
        include={
            *("origins", "level", "latents", "curve", "necessity", "sufficiency", "doses"),
            *("unit", "stability", "against"),
        },
    )
    for latent, entry in zip(record["latents"], causal["latents"], strict=True):
        del latent["link"]
        latent["attribution"] = {
            "value": latent["attribution"],
            **{
                end: _value_at(shares.get(f"share_held_out_{end}"), latent["latent"])
                for end in ("low", "high")
            },
        }
        for kind in _CHECKS:
            # Undefined between two models that share no space.
            if latent[kind] is not None:
                latent[kind]["random"] = entry[kind]["random"]
    return record | {
        "n_prompts": causal["n_prompts"],
        "answers": _answers_record(explanation, causal),
        "layers": [
            {"layer": row["layer"], "hookpoint": row["hookpoint"], "represented": row["represented"]}
            for row in attribution["layers"] or ()
        ],
    }


def _answers_record(explanation: Explanation, causal: dict[str, Any]) -> dict[str, Any] | None:
    """Return the checks in generated answers, for the named latents and more of the ranking; None if the metric does not score answers."""
    answers = causal["answers"]
    if answers is None:
        return None
    checks = {"necessity": explanation.answers_necessity, "sufficiency": explanation.answers_sufficiency}
    record = {kind: check and check.model_dump(mode="json") for kind, check in checks.items()}
    for kind, check in record.items():
        if check is not None:
            check["random"] = answers["together"][kind]["random"]
    n_named = len(causal["named"])
    first = {kind: check and check["share"] for kind, check in record.items()}
    more = [{"latents": point["n"], **{kind: point[kind] for kind in _CHECKS}} for point in answers["curve"]]
    return record | {
        "n_prompts": answers["n_prompts"],
        "n_named": n_named,
        "confidence": causal["confidence"],
        "curve": sorted([{"latents": n_named, **first}, *more], key=lambda point: point["latents"]),
    }


def _value_at(values: Float64[np.ndarray, " latent"] | None, latent: int) -> float | None:
    return None if values is None else float(values[latent])


def _shares(path: Path, n_latents: int) -> dict[str, Float64[np.ndarray, " latent"]]:
    """Return columns of attribution.parquet, NaN for latents without a value; empty if nothing was attributed."""
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


def _attributed_tokens(
    behavior_folder: BehaviorFolder, results: BehaviorResults
) -> dict[int, list[dict[str, Any]]]:
    attribution, causal = results.attribution, results.causal
    if attribution is None or causal is None or not behavior_folder.tokens.is_file():
        return {}
    direction = float(np.sign(attribution["held_out"]["total"]["value"]))
    return attributed_tokens(behavior_folder, causal["named"], direction)
