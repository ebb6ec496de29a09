"""The command of the live page in a separate process: loading, answering and stopping."""

import json
import re
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from analysis.live.requests import TextRequest
from tests.analysis.live.live_runs import make_live_run
from tests.processes import run_python, start_python

pytestmark = pytest.mark.slow


def post(address: str, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        address, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_both_pages_are_served_until_interrupted(tmp_path: Path) -> None:
    run = make_live_run(tmp_path)
    words = ["browse", str(run.folder.path), "--serve", "--live", "--port", "0"]
    with start_python("-m", "crosscoder", *words, folder=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = [process.stdout.readline() for _ in range(3)]
        printed = re.fullmatch(
            r"page         .*index\.html\n"
            r"serving      (http://127\.0\.0\.1:\d+/)\n"
            r"live         (http://127\.0\.0\.1:\d+/live)(\?token=[\w-]+)  \(Ctrl-C stops\)\n",
            "".join(lines),
        )
        assert printed is not None
        page, live, token = printed.groups()
        with urllib.request.urlopen(page) as answer:
            assert answer.read() == (run.folder.browser / "index.html").read_bytes()
        status, found = post(f"{live}/text{token}", {"text": "amber birch"})
        assert (status, found["tokens"][0]) == (200, "<s>")
        assert found == run.session.read(TextRequest(text="amber birch"))
        steer = {"text": "amber birch", "latents": [99]}
        assert post(f"{live}/steer{token}", steer) == (
            400,
            {"error": "latents: there is no latent 99; the dictionary has latents 0 to 23"},
        )
        assert post(f"{live}/text", {"text": "amber birch"})[0] == 403
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "stopped\n")
    assert "live: loading both models and the dictionary" in errors
    assert "Traceback" not in errors


def test_missing_models_end_it_with_a_one_line_error(tmp_path: Path) -> None:
    run = make_live_run(tmp_path)
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    words = ["browse", run.folder.path, "--serve", "--live", "--port", "0"]
    done = run_python("-m", "crosscoder", *words, folder=tmp_path, timeout=120)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("crosscoder: pair.reference.model:")
    assert "Traceback" not in done.stderr
