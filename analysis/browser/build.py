"""Assembles browser/index.html: markup, style, script and data under a content-security policy.

The policy allows exactly this script and this style (by digest), plus the packs that the script loads if they are separate
files (`files.py`). Everything else is blocked: no request leaves the page, and no markup hidden in a token can run. Every
latent has its examples, whatever the size of the dictionary.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic

from ..report.schema import Report
from ..tables.analysis_files import AnalysisResults, load_results
from .behavior_section import behavior_section, evidence_section
from .explanation_section import explanation_section
from .files import SINGLE_FILE_BYTES, PackFiles
from .neighbor_section import neighbor_section
from .payload import Gist, TokenTable, latent_packs, overview_pack
from .report_section import report_section
from .section import Section
from .trajectory_section import trajectory_section

# Order matters: of two rules with equal specificity the later one applies.
_STYLES = (
    "theme.css",
    "elements.css",
    "frame.css",
    "overview.css",
    "charts.css",
    "behaviors.css",
    "findings.css",
    "table.css",
    "triage.css",
    "latent.css",
    "text.css",
    "narrow.css",
    "print.css",
)

_SCRIPTS = (
    "data.js",
    "decisions.js",
    "format.js",
    "columns.js",
    "state.js",
    "order.js",
    "search.js",
    "charts.js",
    "histograms.js",
    "scatter.js",
    "bars.js",
    "lines.js",
    "certainty.js",
    "behaviors.js",
    "findings.js",
    "before.js",
    "doses.js",
    "trajectories.js",
    "claims.js",
    "overview.js",
    "filters.js",
    "ranges.js",
    "table.js",
    "examples.js",
    "attributed_tokens.js",
    "explanations.js",
    "neighbors.js",
    "latent.js",
    "markdown.js",
    "triage.js",
    "keys.js",
    "page.js",
)


def write_page(folder: RunFolder, report: Report, single_file_bytes: int = SINGLE_FILE_BYTES) -> Path:
    """Write browser/index.html from RUN/analysis and the report, and return its path.

    Packs larger than `single_file_bytes` in total are written to browser/data.

    Raises:
        FormatError: The analysis or a behavior is missing or damaged.
    """
    results = load_results(folder)
    sections = page_sections(folder, results, report)
    tokens = TokenTable()
    gist = Gist(len(results.features))
    files = PackFiles(folder.browser, single_file_bytes)
    files.take(latent_packs(results, tokens, gist, sections))
    overview = overview_pack(results, gist, tokens, sections, files.record())
    path = folder.browser / "index.html"
    write_atomic(path, page(overview, files.inside, files.nonce))
    files.remove_stale()
    return path


def page_sections(folder: RunFolder, results: AnalysisResults, report: Report) -> list[Section]:
    """Return the parts of the page besides the table of latents, from the run and its report."""
    return [
        behavior_section(folder, results, report.behaviors),
        trajectory_section(folder, results),
        report_section(report),
        evidence_section(results),
        neighbor_section(folder, results),
        explanation_section(folder, results),
    ]


def page(overview: str, packs: list[str], nonce: str | None = None) -> str:
    """Return index.html; it may load only scripts marked with `nonce`, none if it is None."""
    source = Path(__file__).parent / "page"
    markup = (source / "page.html").read_text(encoding="utf-8")
    style = page_style()
    script = bundled((source / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    allowed = f"'{content_digest(script)}'" + (f" 'nonce-{nonce}'" if nonce else "")
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src '{content_digest(style)}'; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    chunks = "\n".join(
        f'<script type="text/plain" id="chunk-{index}">{chunk}</script>' for index, chunk in enumerate(packs)
    )
    values = {"POLICY": policy, "STYLE": style, "OVERVIEW": overview, "CHUNKS": chunks, "SCRIPT": script}
    return filled(markup, values)


def bundled(parts: Iterable[str]) -> str:
    """Join scripts into one with its own scope."""
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def filled(markup: str, values: Mapping[str, str]) -> str:
    """Replace each [[NAME]] in the markup, in one pass, so that inserted text is not searched for placeholders."""
    head, *rest = markup.split("[[")
    pieces = [head]
    for piece in rest:
        name, text = piece.split("]]", 1)
        pieces += [values[name], text]
    return "".join(pieces)


def page_style() -> str:
    """Return the style sheet of the page, all files joined."""
    source = Path(__file__).parent / "page"
    return "\n".join((source / name).read_text(encoding="utf-8") for name in _STYLES)


def content_digest(text: str) -> str:
    """Return the digest of an inline script or style in the notation of a content-security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
