"""Write a report as JSON, Markdown and HTML. The texts are made from report.json's content and hold nothing more."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError

from crosscoder.errors import FormatError
from crosscoder.folder import RunFolder, write_atomic

from ..results import load_results
from .content import build_report
from .limits import drawing
from .phrases import markdown, markdown_code, percent, seconds, visible, whole
from .schema import Report

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(folder: RunFolder) -> None:
    """Write report.json, report.md and report.html from RUN/analysis and the manifest.

    Raises `FormatError` where the analysis is missing or damaged.
    """
    report = build_report(load_results(folder), folder)
    write_atomic(folder.report / "report.json", report.model_dump_json(indent=2) + "\n")
    write_atomic(folder.report / "report.md", render_markdown(report))
    write_atomic(folder.report / "report.html", render_html(report))


def read_report(folder: RunFolder) -> Report:
    """What report.json says.

    Raises `FormatError` where it is missing, damaged or of another release.
    """
    path = folder.report / "report.json"
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(f"{path}: missing; run `crosscoder report {folder.path}`") from None
    except ValidationError as error:
        raise FormatError(
            f"{path}: not a report of this release ({error.error_count()} fields differ); run `crosscoder report {folder.path}`"
        ) from None


def render_markdown(report: Report) -> str:
    """The report as Markdown; text from models and data sets is escaped or in code spans."""
    environment = _environment(autoescape=False)
    environment.filters |= {"md": markdown, "code": markdown_code}
    return environment.get_template("report.md.j2").render(report=report)


def render_html(report: Report) -> str:
    """The report as one HTML file that asks for nothing: no script, and only its own style."""
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    template = _environment(autoescape=True).get_template("report.html.j2")
    return template.render(report=report, style=style, policy=policy)


def _environment(autoescape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {
        "visible": visible, "percent": percent, "whole": whole, "seconds": seconds, "drawing": drawing
    }  # fmt: skip
    environment.filters |= filters
    return environment
