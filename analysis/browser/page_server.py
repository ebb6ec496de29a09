"""Serves the page of a run over HTTP, on this machine only.

The server listens on 127.0.0.1, serves only the files in RUN/browser and RUN/report, and refuses requests whose Host header
names another machine. That stops DNS rebinding, in which another site resolves its own name to 127.0.0.1.

Every other program on the machine can reach the port, so what a request may take is bounded: the time until it has arrived
(`ARRIVAL_SECONDS`), its head (by http.server: lines of 64 KiB, 100 headers), and the connections at a time (`MAX_CONNECTIONS`).
"""

import functools
import io
import re
import socket
import sys
import threading
import time
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

ARRIVAL_SECONDS = 30.0
"""Time in which a request has to arrive completely, however slowly its bytes drip."""

MAX_CONNECTIONS = 64
"""Connections at a time; further ones are closed unanswered. A browser opens six."""

_LENGTH = re.compile(r"[0-9]{1,15}")


class _ArrivingRequest(io.RawIOBase):
    """The bytes of a request, read from its connection until a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._deadline = connection, time.monotonic() + ARRIVAL_SECONDS

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`. Raises TimeoutError after the deadline."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request did not arrive in time")
        before = self._connection.gettimeout()
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(before)


class PageHandler(SimpleHTTPRequestHandler):
    """Serves the files of the page's folder, and under /report/ those of the report. Lists no folders and follows no links that
    leave the two folders."""

    server_version, sys_version = "crosscoder", ""
    timeout = 30

    def setup(self) -> None:
        """Read the request through a deadline."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_ArrivingRequest(self.connection))

    def parse_request(self) -> bool:
        """Parse the request, and refuse it if it names another host. Return whether it should be answered."""
        if not super().parse_request():
            return False
        if not self.path.startswith("/"):  # the form for proxies, http://…, or garbage
            self.discard_body()
            self.send_error(400, "the path of a request begins with /")
            return False
        hosts: list[str] = self.headers.get_all("Host", [])
        if len(hosts) == 1 and _host_name(hosts[0]) in _LOCAL_NAMES:
            return True
        self.discard_body()
        self.send_error(403, f"this server accepts only requests addressed to {ADDRESS} or localhost")
        return False

    def discard_body(self) -> None:
        """Discard the body of a refused request: if the connection closes with unread data, the client loses the response."""
        self.rfile.read(min(self.content_length() or 0, _DISCARDED_BYTES))

    def content_length(self) -> int | None:
        """Length of the body in bytes; None if it is not stated in one header of plain digits. Bodies in chunks are not read."""
        found: list[str] = self.headers.get_all("Content-Length", [])
        if len(found) != 1 or "Transfer-Encoding" in self.headers or not _LENGTH.fullmatch(found[0].strip()):
            return None
        return int(found[0])

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
            # Neither a pipe, which would never be read to its end, nor a device.
            if found.exists() and not (found.is_file() or found.is_dir()):
                return True
        except (OSError, ValueError):  # e.g. a zero byte, or a name that is too long
            return True
        page = Path(self.directory)
        return not any(found.is_relative_to(root.resolve()) for root in (page, page.parent / "report"))


class PageServer(ThreadingHTTPServer):
    """Serves a folder until interrupted."""

    def __init__(self, directory: Path, port: int, handler: type[PageHandler] = PageHandler) -> None:
        """Bind the port. Raises ConfigError if it is not available."""
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
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

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, or close the connection if there are too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room for another connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors, except clients that disconnect during a response."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
