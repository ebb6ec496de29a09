"""Serves the live page over HTTP, alongside the static page and protected by a token.

    GET  /live              the page                                     POST /live/text      read a text or chat with both models
    GET  /live/run          facts about the run                          POST /live/steer     generate answers steered by latents

Each needs ?token=…, which is drawn anew at every start; without it the response is 403. The token is needed because other users of
the machine, and every page open in a browser, can reach the port. So the static page, which needs no token, has no link to here.
Requests are computed one at a time. Errors are one line of JSON, {"error": "…"}; tracebacks of bugs appear only in the terminal.
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

_LIVE = Path(__file__).parent / "page"
_SHARED = Path(build.__file__).parent / "page"

_SCRIPTS = (
    _SHARED / "format.js",
    _LIVE / "ask.js",
    _LIVE / "tokens.js",
    _LIVE / "latents.js",
    _LIVE / "answers.js",
    _LIVE / "live.js",
)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


SCRIPT = bundled(map(_text, _SCRIPTS))
STYLE = page_style() + _text(_LIVE / "live.css")


def live_page(token: str, nonce: str) -> str:
    """Return the markup; script and style carry `nonce` for the policy and `token` for the server."""
    return filled(_text(_LIVE / "live.html"), {"TOKEN": token, "NONCE": nonce})


WAIT_SECONDS = 20.0
"""Longest time that a request waits for earlier ones; then it is refused because the server is busy."""

_JSON = "application/json"


@runtime_checkable
class Answerer(Protocol):
    """Computes the responses; in production a `Session`."""

    def facts(self) -> dict[str, Any]:
        """Facts about the run."""
        ...

    def read(self, request: TextRequest) -> dict[str, Any]:
        """Read a text with both models and the dictionary."""
        ...

    def steer(self, request: SteerRequest, before_step: Callable[[], object]) -> dict[str, Any]:
        """Generate answers to a text; `before_step` is called before every token and cancels generation by raising."""
        ...

    def stop(self) -> None:
        """Cancel generation that is in progress."""
        ...


class Refused(Exception):
    """A refused request, with HTTP status and reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class LiveHandler(PageHandler):
    """Handles paths under /live; all other paths belong to the static page."""

    @property
    def _live(self) -> "LiveServer":
        assert isinstance(self.server, LiveServer)
        return self.server

    def do_GET(self) -> None:
        """Serve the live page and its parts, or a file of the static page."""
        if not self._is_live():
            super().do_GET()
            return
        with self._one_response():
            self._require_token()
            self._get()

    def do_HEAD(self) -> None:
        """Serve headers of the static page; the live page supports only GET and POST."""
        if not self._is_live():
            super().do_HEAD()
            return
        with self._one_response():
            self._require_token()
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "use GET")

    def do_POST(self) -> None:
        """Read a text, or generate steered answers."""
        with self._one_response():
            body = self._body()
            if not self._is_live():
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "POST is supported only under /live")
            self._require_token()
            self._require_same_origin()
            match urlsplit(self.path).path:
                case "/live/text":
                    request = parsed(body, TextRequest)
                    self._compute(lambda answerer: answerer.read(request))
                case "/live/steer":
                    steered = parsed(body, SteerRequest)
                    self._compute(lambda answerer: answerer.steer(steered, self._require_connection))
                case _:
                    raise Refused(HTTPStatus.NOT_FOUND, "no such page; POST to /live/text or /live/steer")

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
                raise Refused(HTTPStatus.NOT_FOUND, "no such page; the live page is at /live")

    def _compute(self, answer: Callable[[Answerer], dict[str, Any]]) -> None:
        with self._live.turn():
            self._require_connection()
            response = answer(self._live.loaded())
        self._send_json(HTTPStatus.OK, response)

    def _require_connection(self) -> None:
        """Raise CrosscoderError if the client closed the connection, as a browser does with a closed tab: others may be waiting."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        if readable and not self.connection.recv(1, socket.MSG_PEEK):
            raise CrosscoderError("cancelled because the connection was closed")

    @contextmanager
    def _one_response(self) -> Iterator[None]:
        """Send a response even if the body raises: the message of a refusal or user error, or for a bug a line that refers to the
        terminal; bugs propagate, so that the server prints them there."""
        self._answered = False
        try:
            yield
        except Refused as refused:
            self._send_json(refused.status, {"error": str(refused)})
        except CrosscoderError as error:
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        finally:
            if not self._answered:
                message = "a bug in crosscoder, or this machine is out of memory; the terminal that runs the server shows details"
                self._send_json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": message})

    def _is_live(self) -> bool:
        path = urlsplit(self.path).path
        return path == "/live" or path.startswith("/live/")

    def _require_token(self) -> None:
        given = parse_qs(urlsplit(self.path).query).get("token", [""])[0]
        if not hmac.compare_digest(given.encode(), self._live.token.encode()):
            message = "the token is missing or outdated; open the address that the terminal shows"
            raise Refused(HTTPStatus.FORBIDDEN, message)

    def _require_same_origin(self) -> None:
        """Refuse POSTs from other pages. Browsers send the Origin of a POST; other clients send none."""
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{self.headers['Host']}":
            raise Refused(HTTPStatus.FORBIDDEN, "only this server's own page may send requests")
        # Without a CORS preflight other pages can send forms, but not JSON.
        if self.headers.get_content_type() != _JSON:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send JSON with Content-Type: {_JSON}")

    def _body(self) -> bytes:
        length = self.content_length()
        if length is None:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the request has no valid Content-Length")
        if length > MAX_BYTES:
            self.discard_body()
            message = f"the request has {length} bytes; at most {MAX_BYTES} are allowed"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        try:
            return self.rfile.read(length)
        except TimeoutError:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive completely") from None

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
    """Serves a run's static page and, once its models are loaded, the live page."""

    answerer: Answerer | None = None
    """None until the models are loaded."""

    def __init__(self, folder: RunFolder, config: RunConfig, port: int) -> None:
        """Bind the port without loading anything. Raises ConfigError if the port is not available or the run has no models."""
        self._folder, self._config = folder, config
        TrainedRun(folder, config).require_models("the live page")
        super().__init__(folder.browser, port, LiveHandler)
        self.token = secrets.token_urlsafe(24)
        self._turn = threading.Lock()

    def prepare(self) -> list[tuple[str, str]]:
        """Load the models, and return the pages as (name, URL).

        Raises:
            ConfigError, FormatError, PairError: The models cannot be loaded or are not those of the run.
        """
        # Torch is imported only here, so that an unavailable port is reported at once.
        from .session import Session

        self.answerer = Session.load(self._folder, self._config)
        return [*super().prepare(), ("live", f"{self.address}live?token={self.token}")]

    def loaded(self) -> Answerer:
        """Return the answerer; `prepare` must have run."""
        assert self.answerer is not None
        return self.answerer

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for exclusive use of the models, which are hooked and switched while they run. Raises `Refused` after WAIT_SECONDS."""
        if not self._turn.acquire(timeout=WAIT_SECONDS):
            message = "busy with another text or answer; try again in a moment"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, message)
        try:
            yield
        finally:
            self._turn.release()

    def server_close(self) -> None:
        """Close the server after the current computation: torch may crash if the process ends during a forward pass."""
        super().server_close()
        if self.answerer is not None:
            self.answerer.stop()
        # Never released: no waiting request may start now.
        self._turn.acquire()
