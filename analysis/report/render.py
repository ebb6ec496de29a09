"""Writes a report as JSON, Markdown and HTML. Markdown and HTML contain only what report.json contains.

A person reads the report: what changed, whether it can be trusted, and what to do. Every number, check and method behind it is in the
appendix."""

import base64
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from pydantic import ValidationError

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic

from ..tables.analysis_files import load_results
from .content import build_report
from .limit_curves import drawing
from .phrases import NOT_MEASURED, Number, markdown, markdown_code, seconds, visible
from .schema import Report
from .wording import Piece, Sentence, format_number

_TEMPLATES = Path(__file__).parent / "templates"

# Written by `python -m analysis.report.json_schema`; a test fails if it is out of date.
_SCHEMA = Path(__file__).with_name("report.schema.json")


Page = Literal["report", "appendix"]

PAGES: tuple[Page, ...] = ("report", "appendix")


def write_report(folder: RunFolder) -> Report:
    """Write report.json, its schema, and report and appendix as Markdown and HTML, from RUN/analysis and the manifest; return the report.

    Raises `FormatError` if the analysis is missing or damaged.
    """
    report = build_report(load_results(folder), folder)
    write_atomic(folder.report / "report.json", report.model_dump_json(indent=2) + "\n")
    write_atomic(folder.report / _SCHEMA.name, _SCHEMA.read_text(encoding="utf-8"))
    for page in PAGES:
        write_atomic(folder.report / f"{page}.md", render_markdown(report, page))
        write_atomic(folder.report / f"{page}.html", render_html(report, page))
    return report


def read_report(folder: RunFolder) -> Report:
    """Return the report in report.json.

    Raises `FormatError` if it is missing, damaged or from another release.
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


def render_markdown(report: Report, page: Page) -> str:
    """Return a page as Markdown; text from models and data sets is escaped or in code spans."""
    return markdown_environment(_TEMPLATES).get_template(f"{page}.md.j2").render(report=report)


def render_html(report: Report, page: Page) -> str:
    """Return a page as one HTML file that loads nothing: no script, and only its own style.

    Every number in it is a `data` element with the unrounded value; text from elsewhere is in `bdi` and `code`.
    """
    style = report_style()
    template = html_environment(_TEMPLATES).get_template(f"{page}.html.j2")
    return template.render(report=report, style=style, policy=content_policy(style))


def report_style() -> str:
    """Return the style sheet of both pages."""
    return (_TEMPLATES / "report.css").read_text(encoding="utf-8")


def content_policy(style: str) -> str:
    """Return the content security policy of a page that loads nothing and has only this style."""
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@cache
def markdown_environment(templates: Path) -> Environment:
    """Return the environment for Markdown templates in a folder, with the filters of the report; a template is compiled once."""
    environment = _environment(templates, autoescape=False, number=lambda _, text: text)
    environment.filters |= {
        "prose": prose_markdown,
        "md": markdown,
        "code": markdown_code,
        "cell": lambda text: text.replace("|", "\\|"),
        "recorded": lambda value: markdown_code(str(value)),
    }
    return environment


@cache
def html_environment(templates: Path) -> Environment:
    """Return the environment for HTML templates in a folder, with the filters of the report; a template is compiled once."""
    environment = _environment(templates, autoescape=True, number=_number_html)
    environment.filters |= {"prose": prose_html, "recorded": _recorded_html}
    return environment


def _environment(templates: Path, autoescape: bool, number: Callable[[Number, str], str]) -> Environment:
    """Return the environment with the filters of both formats; `number` makes markup from a number and its text."""
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def formatted(value: Number | None, form: str = "", missing: str = NOT_MEASURED) -> str:
        return missing if value is None else number(value, format_number(value, form))

    filters: dict[str, Any] = {
        "visible": visible,
        "number": formatted,
        "percent": lambda value: formatted(value, "percent"),
        "whole": lambda value: formatted(value, "whole"),
        "seconds": lambda value: "not recorded" if value is None else number(value, seconds(value)),
        "drawing": drawing,
    }
    environment.filters |= filters
    return environment


def prose_markdown(sentence: Sentence) -> str:
    """Return a sentence as Markdown; quotations are in code spans."""
    return "".join(
        f"**{markdown_code(piece.text)}**"
        if piece.kind == "peak"
        else markdown_code(piece.text)
        if piece.kind in ("token", "plain")
        else markdown(piece.text)
        for piece in sentence.pieces()
    )


def prose_html(sentence: Sentence) -> Markup:
    """Return a sentence as HTML; numbers are `data` elements, and quotations are in `bdi`."""
    return Markup("").join(_piece_html(piece) for piece in sentence.pieces())


def _piece_html(piece: Piece) -> Markup:
    match piece.kind:
        case "words":
            return escape(piece.text)
        case "number":
            assert piece.number is not None
            return _number_html(piece.number, piece.text)
        case "token":
            return Markup('<bdi class="token">{}</bdi>').format(piece.text)
        case "peak":
            return Markup('<bdi class="token peak">{}</bdi>').format(piece.text)
        case "plain":
            return Markup("<bdi>{}</bdi>").format(piece.text)


def _number_html(number: Number, text: str) -> Markup:
    return Markup('<data value="{}">{}</data>').format(json.dumps(number), text)


def _recorded_html(value: Number | str) -> Markup:
    if isinstance(value, str):
        return Markup("<code>{}</code>").format(value)
    return _number_html(value, str(value))
