"""Results of the planted benchmark as rows and as Markdown."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy.stats import binomtest

from crosscoder.planted.regimes import REGIMES

from .intervals import clustered_share

Result = Mapping[str, Any]


def flat(result: Result) -> dict[str, Any]:
    """Return one row: the case, and every number of its scores by its path."""
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
        if name in ("confusion", "found", "false_by_label"):
            continue
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{name}/")
        else:
            found[f"{prefix}{name}"] = None if value is None else float(value)
    return found


def agreement(results: Sequence[Result]) -> dict[tuple[str, str, str, int], dict[str, float | None]]:
    """Return, by labeler, the share of the features found in any training on a pair that were found in all; for pairs with repeats.

    Keys are (regime, method, k, seed). Found: a latent has the right label. None if nothing was found.
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
                in_any, in_all = set.union(*found), set.intersection(*found)
                shares[key][name] = len(in_all) / len(in_any) if in_any else None
    return shares


def markdown(
    results: Sequence[Result], shares: Mapping[tuple[str, str, str, int], Mapping[str, float | None]]
) -> str:
    """Return one table per regime: one row per method, k and labeler, mean ± standard deviation over seeds."""
    grouped: dict[str, dict[tuple[str, str], list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        case = result["case"]
        grouped[case["regime"]][case["method"], case["k"]].append(result)
    parts = ["# Planted benchmark", _legend(), "## In short", _IN_SHORT, in_short(results)]
    parts += ["## False labels of change", _FALSE_CHANGES, false_changes(results)]
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
            parts += ["Cases without a result:", "\n".join(failures)]
    return "\n\n".join(parts) + "\n"


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """Return the table without empty columns."""
    header = [name for name in columns if any(row[name] != _NOTHING for row in rows)]
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    lines += [f"| {' | '.join(row[name] for name in header)} |" for row in rows]
    return "\n".join(lines)


_NOTHING = "–"

_IN_SHORT = (
    "Mean F1 of new and lost over the runs; for a null regime, the mean number of latents falsely labeled new or lost. The last column: "
    "false labels among all new and lost labels of the row."
)


_FALSE_CHANGES = (
    "Mean number of false labels of change per dictionary, of any kind. Null: over all null regimes together, with the largest number in one "
    "dictionary, and the pairs with any, with the exact 95 % interval of their share. The last column: false labels of change among all of them, "
    "over all regimes of the row."
)

Cells = Mapping[tuple[str, str, str], Mapping[str, Sequence[tuple[Result, Mapping[str, Any]]]]]


def _cells(results: Sequence[Result]) -> Cells:
    """Return the results and the scores of one labeler, by method, k and labeler, and by regime."""
    cells: dict[tuple[str, str, str], dict[str, list[tuple[Result, Mapping[str, Any]]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for result in results:
        if "scores" not in result:
            continue
        case = result["case"]
        for labeler, of_labeler in result["scores"]["labelers"].items():
            cells[case["method"], case["k"], labeler][case["regime"]].append((result, of_labeler))
    return cells


def in_short(results: Sequence[Result]) -> str:
    """Return one table: one row per method, k and labeler, one column per regime."""
    cells = _cells(results)
    regimes = [name for name in REGIMES if any(name in row for row in cells.values())]
    header = ["method", "k", "labels", *regimes, "false of claimed"]
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    for names, row in cells.items():
        means = [
            _mean_of([labeler for _, labeler in row[regime]], regime) if regime in row else ""
            for regime in regimes
        ]
        everything = [scored for regime in row.values() for scored in regime]
        lines.append(f"| {' | '.join([*names, *means, false_share(everything)])} |")
    return "\n".join(lines)


def false_changes(results: Sequence[Result]) -> str:
    """Return one table of the false labels of change: one row per method, k and labeler, one column per regime."""
    cells = _cells(results)
    regimes = [name for name in REGIMES if any(name in row for row in cells.values())]
    header = ["method", "k", "labels", *regimes, "null", "false of all changes"]
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    for names, row in cells.items():
        means = [
            f"{statistics.fmean(labeler['false_changes'] for _, labeler in row[regime]):.2f}"
            if regime in row
            else ""
            for regime in regimes
        ]
        null = [scored for regime, runs in row.items() if REGIMES[regime].is_null for scored in runs]
        everything = [scored for regime in row.values() for scored in regime]
        share = false_share(everything, "false_changes", "changes")
        lines.append(f"| {' | '.join([*names, *means, _of_null(null), share])} |")
    return "\n".join(lines)


def _of_null(runs: Sequence[tuple[Result, Mapping[str, Any]]]) -> str:
    """Return the mean and largest number of false labels of change per dictionary, and the pairs with any."""
    if not runs:
        return ""
    counts = [int(labeler["false_changes"]) for _, labeler in runs]
    by_pair: dict[int, int] = defaultdict(int)
    for (result, _), count in zip(runs, counts, strict=True):
        by_pair[result["pair_seed"]] += count
    wrong, n_pairs = sum(count > 0 for count in by_pair.values()), len(by_pair)
    interval = binomtest(wrong, n_pairs).proportion_ci(method="exact")
    return (
        f"{statistics.fmean(counts):.2f} in {len(counts)}, at most {max(counts)}; {wrong} of {n_pairs} pairs "
        f"({100 * interval.low:.0f} to {100 * interval.high:.0f} %)"
    )


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
        "false changes",
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
        "F1 replaced",
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
    *("method", "k", "k chosen", "labels", "runs", "false new+lost", "false rotated", "false rescaled", "false changes", "MCC", "FVE Δ", "ceiling"),
    *("L0", "seconds"),
)  # fmt: skip

_OF_LABELER = {
    "F1 new+lost": ("mean_f1",),
    "false new+lost": ("false",),
    "false changes": ("false_changes",),
    "false rotated": ("kinds", "rotated", "count"),
    "false rescaled": ("kinds", "rescaled", "count"),
    **{
        f"F1 {kind}": ("kinds", kind, "f1")
        for kind in ("rotated", "rescaled", "reweighted", "replaced", "shared")
    },
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
    """Return the cells of one row per labeler, by column name."""
    if not runs:
        return []
    rows = []
    for labeler in runs[0]["scores"]["labelers"]:
        cells = {"method": method, "k": k, "labels": labeler, "runs": str(len(runs))}
        cells["agreement"] = spread(share.get(labeler) for share in shares)
        cells["k chosen"] = spread((run.get("k") for run in runs), digits=1)
        cells["false of claimed"] = false_share([(run, run["scores"]["labelers"][labeler]) for run in runs])
        cells["seconds"] = spread((run["seconds"] for run in runs), digits=0)
        for name, path in _OF_LABELER.items():
            cells[name] = spread(_at(run["scores"]["labelers"][labeler], path) for run in runs)
        for name, path in _OF_RUN.items():
            cells[name] = spread(_at(run["scores"], path) for run in runs)
        rows.append(cells)
    return rows


def false_share(
    runs: Sequence[tuple[Result, Mapping[str, Any]]], false: str = "false", claimed: str = "claimed"
) -> str:
    """Return the number of false labels among all claims of all runs, with the 95 % interval of that share.

    Labels of one pair are not independent, nor are those of repeated trainings on it: pairs are the clusters of `clustered_share`.

    Args:
        runs: Each result with the scores of one labeler.
        false: Name of the score that counts false labels.
        claimed: Name of the score that counts all of them; the default is that of new and lost.
    """
    by_pair: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for result, labeler in runs:
        pair = by_pair[result["pair_seed"]]
        pair[0] += int(labeler[false])
        pair[1] += int(labeler[claimed])
    counts, totals = zip(*by_pair.values(), strict=True) if by_pair else ((), ())
    if not sum(totals):
        return "0 of 0"
    _, low, high = clustered_share(counts, totals)
    return f"{sum(counts)} of {sum(totals)} ({100 * low:.1f} to {100 * high:.1f} %)"


def _at(values: Any, path: Sequence[str]) -> float | None:
    for name in path:
        values = values.get(name) if values is not None else None
    return None if values is None else float(values)


def spread(values: Iterable[float | None], digits: int = 2) -> str:
    """Format the mean ± standard deviation of the values that are not None; a dash if all are."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return _NOTHING
    mean = f"{statistics.fmean(numbers):.{digits}f}"
    return mean if len(numbers) == 1 else f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


def _legend() -> str:
    return (
        "Mean ± standard deviation over the runs. A latent matches the planted feature whose concatenated directions are nearest, "
        "if their cosine exceeds 0.7; of a replaced or reweighted feature, the direction in one model alone will do. P, R, F1, AP: precision, recall, their harmonic mean, average precision of the "
        "ranking. Labels: `rule` is the label rule; `norm_bins` labels a relative norm above 0.9 new and below 0.1 lost; "
        "`beta_ratio` and `rate_bins` are their counterparts for diff-SAEs and shared-dictionary SAEs. "
        "Angle and factor errors are medians over the rotated and rescaled features found. MCC: mean over features of the "
        "largest cosine. Ceiling: FVE of the difference if the features are known. Agreement: of the features "
        "that any dictionary of a pair labeled correctly, the share that all did. False: latents wrongly labeled new or lost; of claimed: over all runs, "
        "with the 95 % interval of the share, for labels that depend on each other within a pair (profile likelihood of the beta-binomial "
        "distribution). False changes: labels of any kind that claim a change which is in neither the feature nor an element of change. k chosen: by a sweep without the truth."
    )
