"""Serves the page of a run over HTTP, on this machine only.

The server listens on 127.0.0.1, serves only the files in RUN/browser and RUN/report, and refuses requests whose Host header
names another machine. That stops DNS rebinding, in which another site resolves its own name to 127.0.0.1.
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

_LOCAL_NAMES = frozenset({ADDRESS, "localhost", "::1"})
"""Names of this machine. Ports are not compared, because a tunnel may use another port."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_DISCARDED_BYTES = 1 << 20


class PageHandler(SimpleHTTPRequestHandler):
    """Serves the files of the page's folder, and under /report/ those of the report. Lists no folders and follows no links that
    leave the two folders."""

    server_version, sys_version = "crosscoder", ""
    timeout = 30

    def parse_request(self) -> bool:
        """Parse the request, and refuse it if it names another host. Return whether it should be answered."""
        if not super().parse_request():
            return False
        hosts: list[str] = self.headers.get_all("Host", [])
        if len(hosts) == 1 and _host_name(hosts[0]) in _LOCAL_NAMES:
            return True
        self.discard_body()
        self.send_error(403, f"this server accepts only requests addressed to {ADDRESS} or localhost")
        return False

    def discard_body(self) -> None:
        """Discard the body of a refused request: if the connection closes with unread data, the client loses the response."""
        length = self.headers.get("Content-Length", "0")
        if length.isdecimal():
            self.rfile.read(min(int(length), _DISCARDED_BYTES))

    def translate_path(self, path: str) -> str:
        """Map a URL path to a file, so that page and report link to each other as on disk: `../report/` and `../browser/`."""
        page, found = Path(self.directory), super().translate_path(path)
        match Path(found).relative_to(page).parts:
            case ("report", *rest):
                return str(page.parent.joinpath("report", *rest))
            case ("browser", *rest):
                return str(page.joinpath(*rest))
            case _:
                return found

    def send_head(self) -> Any:
        """Send the headers of a file inside the two folders, and 404 for any other path."""
        if self._is_outside():
            self.send_error(404)
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        """Refuse to list folders."""
        self.send_error(404)

    def end_headers(self) -> None:
        """Add the headers that keep other sites from reading a response."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests."""

    def _is_outside(self) -> bool:
        try:
            found = Path(self.translate_path(self.path)).resolve()
        except (OSError, ValueError):  # e.g. a path with a zero byte
            return True
        page = Path(self.directory)
        return not any(found.is_relative_to(root.resolve()) for root in (page, page.parent / "report"))


class PageServer(ThreadingHTTPServer):
    """Serves a folder until interrupted."""

    def __init__(self, directory: Path, port: int, handler: type[PageHandler] = PageHandler) -> None:
        """Bind the port. Raises ConfigError if it is not available."""
        try:
            super().__init__((ADDRESS, port), functools.partial(handler, directory=str(directory)))
        except OSError as error:
            raise ConfigError(
                f"--port: {port} cannot be used ({error.strerror}); choose another port, or 0 for any free one"
            ) from None

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def prepare(self) -> list[tuple[str, str]]:
        """Prepare to serve, and return the pages as (name, URL)."""
        return [("serving", self.address)]

    def serve(self, announce: Callable[[str, str], object]) -> None:
        """Prepare, announce each page by name and URL, and serve until Ctrl-C."""
        with self:
            pages = self.prepare()
            for index, (name, address) in enumerate(pages, start=1):
                announce(name, address + ("  (Ctrl-C stops)" if index == len(pages) else ""))
            try:
                self.serve_forever()
            except KeyboardInterrupt:
                return

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors, except clients that disconnect during a response."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
