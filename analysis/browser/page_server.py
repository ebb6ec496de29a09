"""The page of a run over HTTP, for this machine alone.

It is bound to 127.0.0.1, hands out what lies in RUN/browser and RUN/report and nothing else, and answers only where the request was addressed to this
machine: a page of another site that has its own name resolved to 127.0.0.1 (DNS rebinding) is refused by its Host header.
"""

import functools
import sys
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crosscoder.errors import ConfigError

ADDRESS = "127.0.0.1"

_OWN_NAMES = frozenset({ADDRESS, "localhost", "::1"})
"""Names of this machine. Ports are not compared: a tunnel from elsewhere ends at another one."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_DISCARDED_BYTES = 1 << 20


class PageHandler(SimpleHTTPRequestHandler):
    """Answers with the files of the page's folder, and under /report/ with those of the report beside it; no listings, no links that lead
    out of the two."""

    server_version, sys_version = "crosscoder", ""
    timeout = 30

    def parse_request(self) -> bool:
        """Whether there is a request to answer. One that names another host is refused, whatever it asks for."""
        if not super().parse_request():
            return False
        hosts: list[str] = self.headers.get_all("Host", [])
        if len(hosts) == 1 and _host_name(hosts[0]) in _OWN_NAMES:
            return True
        self.discard_body()
        self.send_error(403, f"this server answers to {ADDRESS} and localhost only")
        return False

    def discard_body(self) -> None:
        """Read past what comes with a request that is refused: a connection that is closed before would lose the answer."""
        length = self.headers.get("Content-Length", "0")
        if length.isdecimal():
            self.rfile.read(min(int(length), _DISCARDED_BYTES))

    def translate_path(self, path: str) -> str:
        """Where page and report link to each other, as from disk: `../report/` from the page, `../browser/` from the report."""
        page, found = Path(self.directory), super().translate_path(path)
        match Path(found).relative_to(page).parts:
            case ("report", *rest):
                return str(page.parent.joinpath("report", *rest))
            case ("browser", *rest):
                return str(page.joinpath(*rest))
            case _:
                return found

    def send_head(self) -> Any:
        """Of a file inside the folders; everything else is not found."""
        if self._leads_out():
            self.send_error(404)
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        """No folder is listed."""
        self.send_error(404)

    def end_headers(self) -> None:
        """Every answer carries what keeps other sites from reading it."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """No line for each request."""

    def _leads_out(self) -> bool:
        try:
            found = Path(self.translate_path(self.path)).resolve()
        except (OSError, ValueError):  # such as a name with a zero byte in it
            return True
        page = Path(self.directory)
        return not any(found.is_relative_to(root.resolve()) for root in (page, page.parent / "report"))


class PageServer(ThreadingHTTPServer):
    """Serves a folder until it is interrupted."""

    def __init__(self, directory: Path, port: int, handler: type[PageHandler] = PageHandler) -> None:
        """Takes the port. Raises ConfigError where it cannot be had."""
        try:
            super().__init__((ADDRESS, port), functools.partial(handler, directory=str(directory)))
        except OSError as error:
            raise ConfigError(
                f"--port: {port} cannot be used ({error.strerror}); give another, or 0 for a free one"
            ) from None

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def prepare(self) -> list[tuple[str, str]]:
        """Get ready to answer; what there is to open, as names and addresses."""
        return [("serving", self.address)]

    def serve(self, told: Callable[[str, str], object]) -> None:
        """Prepare, tell what there is to open, and answer until Ctrl-C."""
        with self:
            opened = self.prepare()
            for index, (name, address) in enumerate(opened, start=1):
                told(name, address + ("  (Ctrl-C stops)" if index == len(opened) else ""))
            try:
                self.serve_forever()
            except KeyboardInterrupt:
                return

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor who goes away in the middle of an answer is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
