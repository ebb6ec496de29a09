"""Assemble browser/index.html: markup, style, script and data in one file under a content-security policy.

The policy allows exactly this script and this style (by their digest) and nothing else: no request of any kind can
leave the page, and no markup that hides in a token can run.
"""

import base64
import hashlib
from pathlib import Path

import numpy as np

from crosscoder.folder import RunFolder, write_atomic

from ..results import CLAIMED, AnalysisResults, load_results
from .behaviors import behavior_section, desiderata_section, evidence_section
from .explanations import explanation_section
from .payload import Gist, TokenTable, latent_packs, overview_pack
from .section import Section
from .trajectories import trajectory_section

# Up to this many latents, all of them get examples; above it, those that changed and those that carry the shift.
DETAILED_LATENTS = 8192

_SCRIPTS = (
    "data.js",
    "format.js",
    "columns.js",
    "state.js",
    "charts.js",
    "bars.js",
    "lines.js",
    "certainty.js",
    "behaviors.js",
    "trajectories.js",
    "overview.js",
    "filters.js",
    "table.js",
    "examples.js",
    "carried.js",
    "explanations.js",
    "latent.js",
    "page.js",
)


def write_page(folder: RunFolder) -> Path:
    """Write browser/index.html from RUN/analysis and return its path.

    Raises `FormatError` where the analysis, or a behavior, is missing or damaged.
    """
    results = load_results(folder)
    sections = page_sections(folder, results)
    detailed = detailed_latents(results)
    tokens = TokenTable()
    gist = Gist(len(results.features))
    packs = list(latent_packs(results, detailed, tokens, gist, sections))
    overview = overview_pack(results, detailed, gist, tokens, sections)
    path = folder.browser / "index.html"
    write_atomic(path, page(overview, packs))
    return path


def page_sections(folder: RunFolder, results: AnalysisResults) -> list[Section]:
    """What the run has beside its analysis. The requirements come with what they judge that only these sections show."""
    found = [behavior_section(folder, results), trajectory_section(folder, results)]
    if not all(section.empty for section in found):
        found.append(desiderata_section(folder, results))
    return [*found, evidence_section(results), explanation_section(folder, results)]


def detailed_latents(results: AnalysisResults) -> np.ndarray:
    """Which latents get examples in the page: all of a small dictionary, else the changed and then by |shift_share|."""
    features = results.features
    detailed = np.ones(len(features), dtype=bool)
    if len(features) <= DETAILED_LATENTS:
        return detailed
    changed = features["label"].isin(CLAIMED).to_numpy()
    share = features["shift_share"].abs().fillna(-1).to_numpy(np.float64)
    order = np.lexsort((-share, ~changed))
    detailed[order[DETAILED_LATENTS:]] = False
    return detailed | changed


def page(overview: str, packs: list[str]) -> str:
    """The whole file."""
    source = Path(__file__).parent / "page"
    markup = (source / "page.html").read_text(encoding="utf-8")
    style = (source / "page.css").read_text(encoding="utf-8")
    parts = [(source / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    policy = (
        f"default-src 'none'; script-src '{content_digest(script)}'; style-src '{content_digest(style)}'; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    chunks = "\n".join(
        f'<script type="text/plain" id="chunk-{index}">{chunk}</script>' for index, chunk in enumerate(packs)
    )
    # One pass over the markup, so that nothing that is put in is searched for a mark again.
    values = {"POLICY": policy, "STYLE": style, "OVERVIEW": overview, "CHUNKS": chunks, "SCRIPT": script}
    head, *rest = markup.split("[[")
    pieces = [head]
    for piece in rest:
        name, text = piece.split("]]", 1)
        pieces += [values[name], text]
    return "".join(pieces)


def content_digest(text: str) -> str:
    """The digest of an inline script or style as a content-security policy writes it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
