"""The verb `compare`: the whole comparison, and its three files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosscoder.runtime.files import make_folder, write_atomic

from ..report.content import short_names
from ..report.phrases import visible
from ..report.render import content_policy, html_environment, markdown_environment, report_style
from ..report.wording import say
from .compared_behaviors import behavior_rows
from .compared_findings import finding_rows, matched_findings, search_rows
from .compared_labels import dictionary_rows, label_rows, unlabeled_sentences
from .compared_latents import compare_latents, first_of_each_run
from .compared_runs import ComparedRun, read_runs
from .compared_settings import compare_settings
from .comparison_schema import SCHEMA_VERSION, Comparison, RunColumn
from .shared_results import shared_results

JSON, MARKDOWN, PAGE = "comparison.json", "comparison.md", "comparison.html"

_TEMPLATES = Path(__file__).parent / "templates"


def compare(paths: Sequence[Path], output: Path) -> Comparison:
    """Compare the runs in these folders, and write comparison.json, comparison.md and comparison.html to `output`.

    Raises:
        ConfigError: There are fewer than two runs, one is given twice or is no run folder, or `output` is no folder.
        FormatError: The pattern of a finding is no regular expression.
    """
    runs = read_runs(paths)
    make_folder(output, "--output")
    comparison = comparison_of(runs, output)
    write_atomic(output / JSON, comparison.model_dump_json(indent=2) + "\n")
    write_atomic(output / MARKDOWN, render_markdown(comparison))
    write_atomic(output / PAGE, render_html(comparison))
    return comparison


def comparison_of(runs: Sequence[ComparedRun], output: Path) -> Comparison:
    """Return the comparison; `output` is the folder that links are relative to."""
    equal, settings = compare_settings(runs)
    groups = matched_findings(runs)
    return Comparison(
        schema_version=SCHEMA_VERSION,
        title=say("{runs:,} runs side by side", runs=len(runs)),
        runs=tuple(_column(run, output) for run in runs),
        shared=tuple(shared_results(runs)),
        equal=equal,
        settings=settings,
        searches=search_rows(runs),
        findings=finding_rows(runs, groups),
        dictionary=dictionary_rows(runs),
        unlabeled=unlabeled_sentences(runs),
        labels=label_rows(runs),
        behaviors=behavior_rows(runs, groups),
        latents=compare_latents(runs),
    )


def render_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown."""
    return markdown_environment(_TEMPLATES).get_template("comparison.md.j2").render(_shown(comparison))


def render_html(comparison: Comparison) -> str:
    """Return the comparison as one HTML file that loads nothing: no script, and only its own style."""
    style = report_style() + (_TEMPLATES / "comparison.css").read_text(encoding="utf-8")
    template = html_environment(_TEMPLATES).get_template("comparison.html.j2")
    return template.render(_shown(comparison) | {"style": style, "policy": content_policy(style)})


def _shown(comparison: Comparison) -> dict[str, Any]:
    """Return what the templates show: the comparison, and the first single latents of each run."""
    return {"comparison": comparison, "latents": first_of_each_run(comparison.latents.latents)}


def _column(run: ComparedRun, output: Path) -> RunColumn:
    page = run.folder.report / "report.html"
    return RunColumn(
        name=visible(run.name),
        models=visible(" → ".join(short_names({"models": run.pair}))) if run.pair else None,
        report=os.path.relpath(page.resolve(), output.resolve()).replace(os.sep, "/")
        if page.is_file()
        else None,
        progress=run.progress,
        problems=tuple(problem.full for problem in run.problems.values()),
    )
