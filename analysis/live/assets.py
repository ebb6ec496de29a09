"""The files of the live page: its own, and the theme and the ways of writing that it shares with the static one."""

from pathlib import Path

from ..browser import build
from ..browser.build import bundled, filled

_OWN = Path(__file__).parent / "page"
_SHARED = Path(build.__file__).parent / "page"

_SCRIPTS = (
    _SHARED / "format.js",
    _OWN / "ask.js",
    _OWN / "tokens.js",
    _OWN / "latents.js",
    _OWN / "answers.js",
    _OWN / "live.js",
)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


SCRIPT = bundled(map(_text, _SCRIPTS))
STYLE = _text(_SHARED / "page.css") + _text(_OWN / "live.css")


def live_page(token: str, nonce: str) -> str:
    """The markup. `nonce` marks the script and the style that may be loaded, `token` lets them be."""
    return filled(_text(_OWN / "live.html"), {"TOKEN": token, "NONCE": nonce})
