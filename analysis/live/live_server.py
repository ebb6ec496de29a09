"""The live page over HTTP, beside the static one and behind a token.

    GET  /live              the page                                     POST /live/text      a text or chat, read by both models
    GET  /live/run          what there is to ask for                     POST /live/steer     answers with latents as a lever

each with ?token=…, which is drawn anew whenever the server starts. Without it everything here answers 403: whoever else uses this
machine, and every page that a browser has open, can reach the port. So the static page, which needs no token, holds no link to here.
One thing is computed at a time. What goes wrong is told in one line of JSON, {"error": "…"}, and a bug's traceback in the terminal alone.
"""

import hmac
import json
import secrets
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qs, urlsplit

from crosscoder.config import RunConfig
from crosscoder.errors import CrosscoderError
from crosscoder.run.folder import RunFolder

from ..browser import build
from ..browser.build import bundled, filled, page_style
from ..browser.page_server import PageHandler, PageServer
from ..latents.trained_run import TrainedRun
from .requests import MAX_BYTES, SteerRequest, TextRequest, parsed

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
STYLE = page_style() + _text(_OWN / "live.css")


def live_page(token: str, nonce: str) -> str:
    """The markup. `nonce` marks the script and the style that may be loaded, `token` lets them be."""
    return filled(_text(_OWN / "live.html"), {"TOKEN": token, "NONCE": nonce})


WAIT_SECONDS = 20.0
"""So long a request waits for the one before it, before it is told that the server is busy."""

_JSON = "application/json"


@runtime_checkable
class Answerer(Protocol):
    """What answers, once it is loaded: a `Session`."""

    def facts(self) -> dict[str, Any]:
        """What there is to ask for."""
        ...

    def read(self, request: TextRequest) -> dict[str, Any]:
        """One text."""
        ...

    def steer(self, request: SteerRequest, before_step: Callable[[], object]) -> dict[str, Any]:
        """Answers to one text; `before_step` is called before every token of them, and what it raises ends them."""
        ...

    def stop(self) -> None:
        """Give up what takes long."""
        ...


class Refused(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class LiveHandler(PageHandler):
    """Answers what begins with /live itself, and leaves the rest to the static page."""

    @property
    def _live(self) -> "LiveServer":
        assert isinstance(self.server, LiveServer)
        return self.server

    def do_GET(self) -> None:
        """The live page and its parts, or a file of the static one."""
        if not self._is_live():
            super().do_GET()
            return
        with self._one_answer():
            self._require_token()
            self._get()

    def do_HEAD(self) -> None:
        """Of the static page; the live one is there for those who ask for all of it."""
        if not self._is_live():
            super().do_HEAD()
            return
        with self._one_answer():
            self._require_token()
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "use GET")

    def do_POST(self) -> None:
        """A text to read, or answers to steer."""
        with self._one_answer():
            body = self._body()
            if not self._is_live():
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "nothing here takes a POST")
            self._require_token()
            self._require_own_page()
            match urlsplit(self.path).path:
                case "/live/text":
                    request = parsed(body, TextRequest)
                    self._computed(lambda answerer: answerer.read(request))
                case "/live/steer":
                    steered = parsed(body, SteerRequest)
                    self._computed(lambda answerer: answerer.steer(steered, self._require_asker))
                case _:
                    raise Refused(
                        HTTPStatus.NOT_FOUND, "there is no such page; POST to /live/text or /live/steer"
                    )

    def _get(self) -> None:
        server = self._live
        match urlsplit(self.path).path:
            case "/live" | "/live/":
                nonce = secrets.token_urlsafe(16)
                policy = (
                    f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
                    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
                )
                page = live_page(server.token, nonce)
                self._send(
                    HTTPStatus.OK, "text/html; charset=utf-8", page, {"Content-Security-Policy": policy}
                )
            case "/live/style.css":
                self._send(HTTPStatus.OK, "text/css; charset=utf-8", STYLE)
            case "/live/script.js":
                self._send(HTTPStatus.OK, "text/javascript; charset=utf-8", SCRIPT)
            case "/live/run":
                self._send_json(HTTPStatus.OK, server.loaded().facts())
            case _:
                raise Refused(HTTPStatus.NOT_FOUND, "there is no such page; the live one is at /live")

    def _computed(self, ask: Callable[[Answerer], dict[str, Any]]) -> None:
        with self._live.turn():
            self._require_asker()
            found = ask(self._live.loaded())
        self._send_json(HTTPStatus.OK, found)

    def _require_asker(self) -> None:
        """Who closed the connection, as a browser does with its tab, waits for nothing, and others may wait for the turn."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        if readable and not self.connection.recv(1, socket.MSG_PEEK):
            raise CrosscoderError("given up, because the connection was closed")

    @contextmanager
    def _one_answer(self) -> Iterator[None]:
        """Answers, too, where the body raises: refusals and what a user can mend in one line, bugs with a line that points to the
        terminal, where they are printed as they go on from here."""
        self._answered = False
        try:
            yield
        except Refused as refused:
            self._send_json(refused.status, {"error": str(refused)})
        except CrosscoderError as error:
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        finally:
            if not self._answered:
                told = "a bug of crosscoder, or this machine lacks memory: the terminal that serves this page says more"
                self._send_json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": told})

    def _is_live(self) -> bool:
        path = urlsplit(self.path).path
        return path == "/live" or path.startswith("/live/")

    def _require_token(self) -> None:
        given = parse_qs(urlsplit(self.path).query).get("token", [""])[0]
        if not hmac.compare_digest(given.encode(), self._live.token.encode()):
            told = "the token is missing or an earlier one; open the address that the terminal shows"
            raise Refused(HTTPStatus.FORBIDDEN, told)

    def _require_own_page(self) -> None:
        """A browser says where a POST comes from; what is no browser says nothing."""
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{self.headers['Host']}":
            raise Refused(HTTPStatus.FORBIDDEN, "only the page of this server may ask")
        # Other pages may send a form without asking first, but no JSON.
        if self.headers.get_content_type() != _JSON:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send JSON, with Content-Type: {_JSON}")

    def _body(self) -> bytes:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            raise Refused(
                HTTPStatus.LENGTH_REQUIRED, "say how long the request is (Content-Length)"
            ) from None
        if not 0 <= length <= MAX_BYTES:
            self.discard_body()
            told = f"the request has {length} bytes; give at most {MAX_BYTES}"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, told)
        try:
            return self.rfile.read(length)
        except TimeoutError:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive whole") from None

    def _send_json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(
            status, f"{_JSON}; charset=utf-8", json.dumps(content, ensure_ascii=False, allow_nan=False)
        )

    def _send(self, status: HTTPStatus, kind: str, text: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode("utf-8")
        self._answered = True
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class LiveServer(PageServer):
    """Serves a run's static page, and the live one once its models are loaded."""

    answerer: Answerer | None = None
    """There once the models are loaded."""

    def __init__(self, folder: RunFolder, config: RunConfig, port: int) -> None:
        """Takes the port, and loads nothing. Raises ConfigError where it cannot be had, or the run has no models."""
        self._folder, self._config = folder, config
        TrainedRun(folder, config).require_models("the live page")
        super().__init__(folder.browser, port, LiveHandler)
        self.token = secrets.token_urlsafe(24)
        self._turn = threading.Lock()

    def prepare(self) -> list[tuple[str, str]]:
        """Load the models. Raises ConfigError, FormatError or PairError where they cannot be loaded, or are not those of the run."""
        # Torch and the models only here: a port that cannot be had is told at once.
        from .session import Session

        self.answerer = Session.load(self._folder, self._config)
        return [*super().prepare(), ("live", f"{self.address}live?token={self.token}")]

    def loaded(self) -> Answerer:
        """What answers. Nothing is asked before `prepare`."""
        assert self.answerer is not None
        return self.answerer

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One computation at a time: models are switched and hooked while they run. Raises `Refused` where none ends in time."""
        if not self._turn.acquire(timeout=WAIT_SECONDS):
            told = "busy with another text or answer; try again in a moment"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, told)
        try:
            yield
        finally:
            self._turn.release()

    def server_close(self) -> None:
        """Ends once nothing is computed any more: torch does not bear the end of the process in the middle of a pass."""
        super().server_close()
        if self.answerer is not None:
            self.answerer.stop()
        # For good: whoever waits for a turn waits in vain.
        self._turn.acquire()
