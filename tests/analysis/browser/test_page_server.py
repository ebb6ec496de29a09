"""The static page over HTTP."""

import re
import signal
import socket
import subprocess
import sys
import threading
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import pytest

from analysis.browser.page_server import PageServer
from crosscoder.errors import ConfigError

ROOT = Path(__file__).parents[3]


def test_the_page_is_served_on_loopback_until_interrupted(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("the page")
    announce = "lambda *words: print(*words, flush=True)"
    program = f"from pathlib import Path; from analysis.browser.page_server import PageServer; PageServer(Path({str(tmp_path)!r}), 0).serve({announce}); print('stopped')"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        found = re.fullmatch(
            r"serving (http://127\.0\.0\.1:\d+/)  \(Ctrl-C stops\)\n", process.stdout.readline()
        )
        assert found is not None
        with urlopen(found[1]) as answer:
            assert answer.read() == b"the page"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "stopped\n"
    assert process.returncode == 0


def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError,
            match=rf"^--port: {port} cannot be used \(Address already in use\); choose another port",
        ):
            PageServer(tmp_path, port)


def test_page_and_report_link_to_each_other(tmp_path: Path) -> None:
    """The links work as on disk, and no other file of the run is served."""
    for name in ("browser/index.html", "report/report.html", "config.yaml", "reports/other.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "report" / "out.html").symlink_to(tmp_path / "config.yaml")
    with PageServer(tmp_path / "browser", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def status(path: str) -> tuple[int, str]:
            connection = HTTPConnection("127.0.0.1", server.server_port)
            connection.request("GET", path)
            with connection.getresponse() as answer:
                return answer.status, answer.read().decode()

        assert status("/") == (200, "browser/index.html")
        assert status("/report/report.html") == (200, "report/report.html")
        assert status("/browser/index.html") == (200, "browser/index.html")
        outside = (
            "/config.yaml",
            "/report/../config.yaml",
            "/report/out.html",
            "/reports/other.html",
            "/report/",
        )
        for path in (*outside, "/browser/../config.yaml", "/report/%2e%2e/config.yaml"):
            assert status(path)[0] == 404, path
        server.shutdown()
