"""Logs an analysis to wandb: histograms, tables of latents with examples, counts, behaviors, report and page.

Everything comes from the files of the run, so panels and files agree. Without an open wandb run, nothing is read.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from markupsafe import Markup

from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import WandbRun

from .behaviors.behavior_files import load_behaviors
from .labels.rule import CLAIMED
from .notebook.latent import Latent
from .notebook.markup import examples_html
from .report.behavior_schema import BehaviorShift, CausalCheck
from .report.behavior_shifts import behavior_shifts
from .tables.analysis_files import LABELS, AnalysisResults, load_results

_N_LISTED = 25
"""Latents listed per label: those with the largest share of the shift."""

_EXAMPLES = 3
_BINS = 64
_WITHOUT_INTERVAL = ("relative_norm", "decoder_cosine", "q_value", "label_stability")
_WITH_INTERVAL = ("nu_error", "nu_reconstruction", "nu_unselected", "density", "shift_share")
_COUNTED = ("low", "high", "candidates", "expected_false", "expected_false_high")
_COLUMNS = [
    "latent",
    "label",
    "evidence",
    *_WITHOUT_INTERVAL,
    *(f"{name}{end}" for name in _WITH_INTERVAL for end in ("", "_low", "_high")),
]
_COLUMNS += ["explanation", "examples"]


def log_analysis(wandb: WandbRun, folder: RunFolder) -> None:
    """Log histograms by label, the counts, and the changed latents with the largest shares, with their numbers and examples."""
    if wandb.id is None:
        return
    results = load_results(folder)
    wandb.histograms(dict(_histograms(results)))
    counts = [[label, *(_entry(results, label).get(key) for key in ("count", *_COUNTED))] for label in LABELS]
    wandb.table("analysis/labels", ["label", "latents", *_COUNTED], counts)
    for label in CLAIMED:
        wandb.table(
            f"features/{label}",
            _COLUMNS,
            [_row(Latent(latent, results)) for latent in _strongest(results, label)],
        )
    names = ("counts", "fve", "l0", "dead_share", "shift", "checks", "withheld")
    wandb.summary({f"analysis/{name}": results.summary.get(name) for name in names})


def log_behaviors(wandb: WandbRun, folder: RunFolder) -> None:
    """Log the shift of every behavior so far, and the latents that carry it."""
    if wandb.id is None:
        return
    shifts = behavior_shifts(load_behaviors(folder))
    columns = [
        "behavior",
        "unit",
        *(f"{name}{end}" for name in ("reference", "intervened", "shift") for end in ("", "_low", "_high")),
    ]
    columns += ["noise_floor", "p_value", "established", "evidence", "said"]
    wandb.table("behaviors/shift", columns, [_shift_row(behavior) for behavior in shifts])
    checks = [
        f"{kind}{end}"
        for kind in ("necessity", "sufficiency")
        for end in ("", "_low", "_high", "_random_mean", "_random_largest", "_passed")
    ]
    for behavior in shifts:
        if behavior.explanation is not None:
            rows = [
                [
                    latent.latent,
                    latent.evidence,
                    latent.attribution,
                    *_check(latent.necessity),
                    *_check(latent.sufficiency),
                ]
                for latent in behavior.explanation.latents
            ]
            wandb.table(
                f"behaviors/{behavior.name}/latents", ["latent", "evidence", "attribution", *checks], rows
            )


def log_report(wandb: WandbRun, folder: RunFolder) -> None:
    """Log the report as a panel, and its files as an artifact if the settings enable it."""
    if wandb.id is None:
        return
    wandb.html("report", (folder.report / "report.html").read_text(encoding="utf-8"))
    if folder.read_config().wandb.log_report:
        wandb.artifact(f"report-{wandb.id}", "report", folder.report, {})


def log_page(wandb: WandbRun, folder: RunFolder) -> None:
    """Log the page as an artifact if the settings enable it."""
    if wandb.id is not None and folder.read_config().wandb.log_report:
        wandb.artifact(f"page-{wandb.id}", "page", folder.browser, {})


def _histograms(results: AnalysisResults) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Yield histograms over latents that fired: relative norm (all, and by label), cosine and density, as far as they were measured."""
    table: Any = results.features
    fired = table[table["label"] != "dead"]
    series = {
        "relative_norm": (fired["relative_norm"], (0.0, 1.0)),
        "decoder_cosine": (fired["decoder_cosine"], (-1.0, 1.0)),
    }
    for label in LABELS:
        series[f"relative_norm/{label}"] = (fired.loc[fired["label"] == label, "relative_norm"], (0.0, 1.0))
    density = np.log10(fired["density"])
    series["log10_density"] = (density, (min(-6.0, float(density.min())) if len(density) else -6.0, 0.0))
    for name, (values, bounds) in series.items():
        known = values.dropna()
        if len(known):
            yield f"analysis/{name}", np.histogram(known, bins=_BINS, range=bounds)


def _entry(results: AnalysisResults, label: str) -> dict[str, Any]:
    return results.summary["counts"].get(label) or {}


def _strongest(results: AnalysisResults, label: str) -> list[int]:
    table: Any = results.features
    labeled = table[table["label"] == label]
    order = labeled["shift_share"].abs().fillna(0.0).sort_values(ascending=False, kind="stable").index
    return [int(latent) for latent in labeled.loc[order, "latent"].head(_N_LISTED)]


def _row(latent: Latent) -> list[Any]:
    numbers = latent.numbers
    return [
        latent.latent, latent.label, latent.evidence,
        *(numbers[name].value for name in _WITHOUT_INTERVAL),
        *(part for name in _WITH_INTERVAL for part in numbers[name]),
        latent.explanation, Markup(examples_html(latent.examples[:_EXAMPLES])),
    ]  # fmt: skip


def _shift_row(behavior: BehaviorShift) -> list[Any]:
    estimates = [
        part
        for estimate in (behavior.reference, behavior.intervened, behavior.shift)
        for part in (estimate.value, estimate.low, estimate.high)
    ]
    level = None if behavior.explanation is None else behavior.explanation.level
    text = " ".join(sentence.text for sentence in behavior.sentences)
    return [
        behavior.name, behavior.unit, *estimates, behavior.floor, behavior.p_value, behavior.established, level, text,
    ]  # fmt: skip


def _check(check: CausalCheck | None) -> list[Any]:
    if check is None:
        return [None] * 6
    share = check.share
    return [share.value, share.low, share.high, check.random_mean, check.random_largest, check.passed]
