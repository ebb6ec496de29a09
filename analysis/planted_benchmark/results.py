"""Results of the planted benchmark as rows and as text."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy.stats import binomtest

from crosscoder.planted.regimes import REGIMES

Result = Mapping[str, Any]


def flat(result: Result) -> dict[str, Any]:
    """One row: the case, and every number of its scores under its path."""
    row: dict[str, Any] = {
        **result["case"],
        "k_chosen": result.get("k"),
        "seconds": result.get("seconds"),
        "failed": result.get("failed"),
    }
    row |= _numbers(result.get("scores", {}), "")
    return row


def _numbers(values: Mapping[str, Any], prefix: str) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, value in values.items():
        if name in ("confusion", "found"):
            continue
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{name}/")
        else:
            found[f"{prefix}{name}"] = None if value is None else float(value)
    return found


def agreement(results: Sequence[Result]) -> dict[tuple[str, str, str, int], dict[str, float | None]]:
    """For each pair trained on more than once, by labeler: of the features some dictionary found, the share that all did.

    Keys are (regime, method, k, seed); found means a latent with the right label. None where nothing was found.
    """
    groups: dict[tuple[str, str, str, int], list[dict[str, set[int]]]] = defaultdict(list)
    for result in results:
        if "scores" not in result:
            continue
        case = result["case"]
        labelers = result["scores"]["labelers"]
        groups[case["regime"], case["method"], case["k"], case["seed"]].append(
            {name: set(labeler["found"]) for name, labeler in labelers.items()}
        )
    shares: dict[tuple[str, str, str, int], dict[str, float | None]] = {}
    for key, runs in groups.items():
        if len(runs) > 1:
            shares[key] = {}
            for name in runs[0]:
                found = [run[name] for run in runs]
                some, all_of_them = set.union(*found), set.intersection(*found)
                shares[key][name] = len(all_of_them) / len(some) if some else None
    return shares


def markdown(
    results: Sequence[Result], shares: Mapping[tuple[str, str, str, int], Mapping[str, float | None]]
) -> str:
    """A table for each regime: a row for each method, k and labeler, mean ± standard deviation over seeds."""
    grouped: dict[str, dict[tuple[str, str], list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        case = result["case"]
        grouped[case["regime"]][case["method"], case["k"]].append(result)
    parts = ["# Planted benchmark", _legend(), "## In short", _IN_SHORT, in_short(results)]
    for regime in (name for name in REGIMES if name in grouped):
        parts += [
            f"## {regime}",
            REGIMES[regime].description[0].upper() + REGIMES[regime].description[1:] + ".",
        ]
        rows = []
        for (method, k), runs in grouped[regime].items():
            done = [run for run in runs if "scores" in run]
            of_pair = [entry for key, entry in shares.items() if key[:3] == (regime, method, k)]
            rows += _rows(method, k, done, of_pair)
        parts.append(_table(_NULL_COLUMNS if REGIMES[regime].is_null else _COLUMNS, rows))
        failures = [
            f"- {run['case']['method']}, k {run['case']['k']}, seed {run['case']['seed']}: {run['failed']}"
            for runs in grouped[regime].values()
            for run in runs
            if "failed" in run
        ]
        if failures:
            parts += ["Without a result:", "\n".join(failures)]
    return "\n\n".join(parts) + "\n"


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """The columns in which any row has something to say."""
    header = [name for name in columns if any(row[name] != _NOTHING for row in rows)]
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    lines += [f"| {' | '.join(row[name] for name in header)} |" for row in rows]
    return "\n".join(lines)


_NOTHING = "–"

_IN_SHORT = (
    "F1 of new and lost, mean over the runs; in a null, the number of latents falsely called new or lost in a pair. At the end "
    "the false ones among all of a row."
)


def in_short(results: Sequence[Result]) -> str:
    """One table: a row for each method, k and labeler, a column for each regime."""
    cells: dict[tuple[str, str, str], dict[str, list[Mapping[str, Any]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for result in results:
        if "scores" not in result:
            continue
        case = result["case"]
        for labeler, of_labeler in result["scores"]["labelers"].items():
            cells[case["method"], case["k"], labeler][case["regime"]].append(of_labeler)
    regimes = [name for name in REGIMES if any(name in row for row in cells.values())]
    header = ["method", "k", "labels", *regimes, "false of claimed"]
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    for names, row in cells.items():
        told = [_mean_of(row[regime], regime) if regime in row else "" for regime in regimes]
        false = false_share([labeler for regime in row.values() for labeler in regime])
        lines.append(f"| {' | '.join([*names, *told, false])} |")
    return "\n".join(lines)


def _mean_of(labelers: Sequence[Mapping[str, Any]], regime: str) -> str:
    path = _OF_LABELER["false new+lost" if REGIMES[regime].is_null else "F1 new+lost"]
    numbers = [value for value in (_at(labeler, path) for labeler in labelers) if value is not None]
    return f"{statistics.fmean(numbers):.2f}" if numbers else _NOTHING


_COLUMNS = (
    *(
        "method",
        "k",
        "k chosen",
        "labels",
        "runs",
        "F1 new+lost",
        "false of claimed",
        "new P",
        "new R",
        "lost P",
        "lost R",
        "AP new",
        "AP lost",
    ),
    *(
        "F1 rotated",
        "F1 rescaled",
        "F1 reweighted",
        "F1 shared",
        "rotated P",
        "angle error",
        "factor error",
        "MCC",
        "FVE Δ",
        "ceiling",
        "L0",
    ),
    *("agreement", "seconds"),
)
_NULL_COLUMNS = (
    *("method", "k", "k chosen", "labels", "runs", "false new+lost", "false rotated", "false rescaled", "MCC", "FVE Δ", "ceiling"),
    *("L0", "seconds"),
)  # fmt: skip

_OF_LABELER = {
    "F1 new+lost": ("mean_f1",),
    "false new+lost": ("false",),
    "false rotated": ("kinds", "rotated", "count"),
    "false rescaled": ("kinds", "rescaled", "count"),
    **{f"F1 {kind}": ("kinds", kind, "f1") for kind in ("rotated", "rescaled", "reweighted", "shared")},
    **{f"{kind} P": ("kinds", kind, "precision") for kind in ("new", "lost", "rotated")},
    **{f"{kind} R": ("kinds", kind, "recall") for kind in ("new", "lost")},
    **{f"AP {kind}": ("kinds", kind, "average_precision") for kind in ("new", "lost")},
}
_OF_RUN = {
    "angle error": ("errors", "angle"),
    "factor error": ("errors", "factor"),
    "MCC": ("mcc",),
    "FVE Δ": ("fve", "difference"),
    "ceiling": ("noise_ceiling", "difference"),
    "L0": ("l0",),
}


def _rows(
    method: str,
    k: str,
    runs: Sequence[Result],
    shares: Sequence[Mapping[str, float | None]],
) -> list[dict[str, str]]:
    """By the name of a column, for each labeler."""
    if not runs:
        return []
    rows = []
    for labeler in runs[0]["scores"]["labelers"]:
        cells = {"method": method, "k": k, "labels": labeler, "runs": str(len(runs))}
        cells["agreement"] = spread(share.get(labeler) for share in shares)
        cells["k chosen"] = spread((run.get("k") for run in runs), digits=1)
        cells["false of claimed"] = false_share(
            [run["scores"]["labelers"][labeler] for run in runs],
        )
        cells["seconds"] = spread((run["seconds"] for run in runs), digits=0)
        for name, path in _OF_LABELER.items():
            cells[name] = spread(_at(run["scores"]["labelers"][labeler], path) for run in runs)
        for name, path in _OF_RUN.items():
            cells[name] = spread(_at(run["scores"], path) for run in runs)
        rows.append(cells)
    return rows


def false_share(labelers: Sequence[Mapping[str, Any]]) -> str:
    """Latents labeled new or lost that are not, of all labeled so in all runs, and the exact 95 % interval of that share.

    The interval takes the labels as independent (Clopper and Pearson 1934), which those of one dictionary are not quite.
    """
    false, claimed = (sum(int(labeler[name]) for labeler in labelers) for name in ("false", "claimed"))
    if not claimed:
        return "0 of 0"
    interval = binomtest(false, claimed).proportion_ci(method="exact")
    return f"{false} of {claimed} ({100 * interval.low:.1f} to {100 * interval.high:.1f} %)"


def _at(values: Any, path: Sequence[str]) -> float | None:
    for name in path:
        values = values.get(name) if values is not None else None
    return None if values is None else float(values)


def spread(values: Iterable[float | None], digits: int = 2) -> str:
    """Mean ± standard deviation of those that exist; a dash where none does."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return _NOTHING
    mean = f"{statistics.fmean(numbers):.{digits}f}"
    return mean if len(numbers) == 1 else f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


def _legend() -> str:
    return (
        "Mean ± standard deviation over the runs. A latent is the planted feature whose directions (both models end to end) it "
        "is nearest to, above a cosine of 0.7. P, R, F1, AP: precision, recall, their harmonic mean, average precision of the "
        "ranking. Labels: `rule` is ours; `norm_bins` takes relative norm above 0.9 for new and below 0.1 for lost; "
        "`beta_ratio` and `rate_bins` are their counterparts for dictionaries of the difference and of each model alone. "
        "Angle and factor errors are medians over the rotated and rescaled features found. MCC: mean over the features of the "
        "largest cosine. Ceiling: the FVE of the difference that knowledge of the features gives. Agreement: of the features "
        "that some dictionary of a pair labeled rightly, the share that all did. False: latents labeled new or lost that are not; of claimed: all runs together, with the exact 95 % "
        "interval of the share. k chosen: by a sweep that does not know the truth."
    )
