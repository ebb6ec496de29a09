"""The live server with a fake run: access, requests, concurrency and responses."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from analysis.browser.page_server import PageServer
from analysis.live import live_server
from analysis.live.live_server import LiveServer, Refused
from analysis.live.requests import MAX_BYTES, MAX_CHARACTERS, SteerRequest, TextRequest
from crosscoder.config import RunConfig
from crosscoder.errors import ConfigError, CrosscoderError, DataError
from crosscoder.run.folder import RunFolder

TEXT = {"text": "salmon"}


class FakeAnswerer:
    """Echoes requests; blocks or fails on demand."""

    def __init__(self) -> None:
        self.open, self.entered, self.cancelled = threading.Event(), threading.Event(), threading.Event()
        self.open.set()
        self.at_once, self.most_at_once = 0, 0

    def facts(self) -> dict[str, Any]:
        return {"n_latents": 3}

    def read(self, request: TextRequest) -> dict[str, Any]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.entered.set()
            assert self.open.wait(20)
            if request.text == "mend":
                raise DataError("the text: cannot be read; type another")
            if request.text == "break":
                raise RuntimeError("a secret of the machine")
            return {"asked": request.model_dump(mode="json", exclude_none=True)}
        finally:
            self.at_once -= 1

    def stop(self) -> None:
        self.open.set()

    def steer(self, request: SteerRequest, before_step: Callable[[], object]) -> dict[str, Any]:
        self.entered.set()
        while not self.open.is_set():
            try:
                before_step()
            except CrosscoderError:
                self.cancelled.set()
                raise
        return {"asked": request.model_dump(mode="json", exclude_none=True)}


def settings(folder: Path, **more: Any) -> RunConfig:
    pair = {"reference": {"model": "a"}, "intervened": {"model": "b"}, "hookpoint": "model.layers.1"}
    text = {"sources": [{"path": "x.jsonl", "name": "x"}]}
    return RunConfig.model_validate({"output": str(folder), "pair": pair, "text": text} | more)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    (run.browser / "data").mkdir(parents=True)
    (run.browser / "index.html").write_text("the page")
    (run.browser / "data" / "pack.js").write_text("a pack")
    (run.path / "config.yaml").write_text("private: true")
    (run.browser / "leads-out").symlink_to(run.path / "config.yaml")
    return run


@pytest.fixture
def server(folder: RunFolder) -> Iterator[LiveServer]:
    found = LiveServer(folder, settings(folder.path), 0)
    found.answerer = FakeAnswerer()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


class Answer:
    def __init__(self, found: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = found.status, found.headers, found.read()

    @property
    def error(self) -> str:
        message = json.loads(self.body)["error"]
        assert "\n" not in message and "Traceback" not in message
        return message


def ask(
    server: PageServer, path: str, body: Any = None, method: str | None = None, **headers: str | None
) -> Answer:
    """Send a request as the page's own script does, with the given headers replaced."""
    own = f"127.0.0.1:{server.server_port}"
    sent: dict[str, str | None] = {"Host": own}
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    if data is not None:
        sent |= {
            "Origin": f"http://{own}",
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
        }
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.putrequest(method or ("GET" if data is None else "POST"), path, skip_host=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(data)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def fake(server: LiveServer) -> FakeAnswerer:
    assert isinstance(server.answerer, FakeAnswerer)
    return server.answerer


def live(server: LiveServer, part: str = "", body: Any = None, **headers: str | None) -> Answer:
    return ask(server, f"/live{part}?token={server.token}", body, **headers)


# --- the token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/live", "/live/", "/live/style.css", "/live/script.js", "/live/run", "/live/nothing"]
)
def test_nothing_live_is_served_without_the_token(server: LiveServer, path: str) -> None:
    for wrong in ("", "?token=", f"?token={server.token[:-1]}", f"?token={server.token}x", "?token=%C3%A9"):
        found = ask(server, path + wrong)
        assert found.status == 403
        assert "open the address that the terminal shows" in found.error
        assert server.token.encode() not in found.body
        assert ask(server, path + wrong, method="HEAD").status == 403
    assert ask(server, f"{path}?token={server.token}").status == (404 if "nothing" in path else 200)


@pytest.mark.parametrize("path", ["/live/text", "/live/steer"])
def test_nothing_is_computed_without_the_token(server: LiveServer, path: str) -> None:
    assert ask(server, path, TEXT | {"latents": [1]}).status == 403
    assert not fake(server).entered.is_set()


def test_every_server_draws_its_own_token(folder: RunFolder) -> None:
    drawn = set()
    for _ in range(3):
        server = LiveServer(folder, settings(folder.path), 0)
        drawn.add(server.token)
        server.server_close()
    assert len(drawn) == 3
    assert min(map(len, drawn)) >= 32


def test_the_static_page_is_served_unchanged_and_contains_no_token(server: LiveServer) -> None:
    for path in ("/", "/index.html"):
        found = ask(server, path)
        assert (found.status, found.body) == (200, b"the page")


# --- origin -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[", None]
)
def test_a_request_for_another_host_is_refused(server: LiveServer, host: str | None) -> None:
    for path, body in (
        ("/", None),
        (f"/live?token={server.token}", None),
        (f"/live/text?token={server.token}", TEXT),
    ):
        found = ask(server, path, body, Host=host)
        assert found.status == 403
        assert b"the page" not in found.body
    assert not fake(server).entered.is_set()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "[::1]:8000", "LOCALHOST"])
def test_this_machine_by_another_name_or_port_is_answered(server: LiveServer, host: str) -> None:
    """A tunnel may use another port."""
    assert live(server, "/text", TEXT, Host=host, Origin=f"http://{host}").status == 200


@pytest.mark.parametrize(
    "origin", ["null", "https://evil.example", "http://127.0.0.1:1", "http://localhost", ""]
)
def test_a_post_from_another_page_is_refused(server: LiveServer, origin: str) -> None:
    found = live(server, "/text", TEXT, Origin=origin)
    assert (found.status, found.error) == (403, "only this server's own page may send requests")
    assert not fake(server).entered.is_set()


def test_clients_other_than_browsers_need_no_origin(server: LiveServer) -> None:
    assert live(server, "/text", TEXT, Origin=None).status == 200


def test_a_form_of_another_page_is_refused(server: LiveServer) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        assert live(server, "/text", TEXT, Content_Type=kind).status == 415
    assert live(server, "/text", TEXT, Content_Type="application/json; charset=utf-8").status == 200


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_request_reaches_the_run_as_it_was_sent(server: LiveServer) -> None:
    chat = {"messages": [{"role": "user", "content": "Ei? </script> \u202e"}]}
    assert json.loads(live(server, "/text", chat).body)["asked"] == chat
    steer = chat | {"latents": [1, 2], "how": "constant", "dose": -0.5, "max_new_tokens": 7}
    assert json.loads(live(server, "/steer", steer).body)["asked"] == steer
    assert json.loads(live(server, "/run").body) == {"n_latents": 3}


@pytest.mark.parametrize(
    ("part", "body", "message"),
    [
        ("/text", b"{", "the request is not JSON; send an object such as"),
        ("/text", b"[" * 100_000, "the request is not JSON"),
        ("/text", b"\xff", "the request is not JSON"),
        ("/text", [1], "the request is a list; send an object"),
        ("/text", {}, "give either 'text' or 'messages'"),
        ("/text", {"text": "a", "messages": []}, "give either 'text' or 'messages'"),
        ("/text", {"text": " \n"}, "the text is empty; enter some text"),
        ("/text", {"messages": []}, "the text is empty; enter some text"),
        ("/text", {"text": 3}, "text: expected text, got 3"),
        ("/text", b'{"text": "\\ud800"}', "invalid JSON"),
        ("/text", {"text": "a", "file": "/etc/passwd"}, "file: no such setting"),
        ("/text", {"messages": [{"role": "user"}]}, "messages.0.content: missing"),
        (
            "/text",
            {"text": "a" * (MAX_CHARACTERS + 1)},
            f"the text has {MAX_CHARACTERS + 1} characters; give at most {MAX_CHARACTERS}",
        ),
        ("/steer", TEXT, "latents: missing"),
        ("/steer", TEXT | {"latents": []}, "latents: "),
        ("/steer", TEXT | {"latents": ["1"]}, "latents.0: expected a whole number"),
        ("/steer", TEXT | {"latents": [1.5]}, "latents.0: expected a whole number"),
        ("/steer", TEXT | {"latents": list(range(101))}, "latents: "),
        ("/steer", TEXT | {"latents": [1], "how": "x"}, "how: expected one of part, constant"),
        ("/steer", TEXT | {"latents": [1], "dose": 1e9}, "dose: "),
        ("/steer", b'{"text": "a", "latents": [1], "dose": NaN}', "dose: "),
        ("/steer", TEXT | {"latents": [1], "max_new_tokens": 10_000}, "max_new_tokens: "),
    ],
)
def test_invalid_requests_are_reported_in_one_line(
    server: LiveServer, part: str, body: Any, message: str
) -> None:
    found = live(server, part, body)
    assert found.status == 400
    assert message in found.error
    assert len(found.error) < 300
    assert not fake(server).entered.is_set()


def test_a_body_that_is_too_long_or_has_no_length_is_refused(server: LiveServer) -> None:
    assert live(server, "/text", b"x" * (MAX_BYTES + 1)).status == 413
    for length in (None, "many", "-5", "+5", "1_0", "9" * 5000):
        assert live(server, "/text", TEXT, Content_Length=length).status == 411


def test_other_paths_and_methods_are_refused(server: LiveServer) -> None:
    assert live(server, "/other", TEXT).status == 404
    assert ask(server, "/index.html", TEXT).status == 405
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert ask(server, f"/live/text?token={server.token}", method=method).status == 501


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/../config.yaml",
        "/..%2fconfig.yaml",
        "/data/../../config.yaml",
        "/leads-out",
        "//config.yaml",
        "/%00",
        "/data/",
    ],
)
def test_no_file_outside_the_page_folder_and_no_listing_is_served(server: LiveServer, path: str) -> None:
    found = ask(server, path)
    assert found.status == 404
    assert b"private" not in found.body and b"pack.js" not in found.body
    assert ask(server, path, method="HEAD").status == 404


def test_a_file_of_the_page_is_served(server: LiveServer) -> None:
    assert ask(server, "/data/pack.js").body == b"a pack"


# --- concurrency and errors -------------------------------------------------------------------------------------------


def test_requests_are_computed_one_at_a_time(server: LiveServer) -> None:
    fake(server).open.clear()
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(live(server, "/text", TEXT).status)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert fake(server).entered.wait(20)
    # Meanwhile requests that need no computation are answered.
    assert ask(server, "/").status == 200
    assert live(server, "/run").status == 200
    fake(server).open.set()
    for thread in threads:
        thread.join()
    assert found == [200] * 4
    assert fake(server).most_at_once == 1


def test_a_request_that_waits_too_long_is_refused(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_server, "WAIT_SECONDS", 0.05)
    fake(server).open.clear()
    first = threading.Thread(target=live, args=(server, "/text", TEXT))
    first.start()
    assert fake(server).entered.wait(20)
    found = live(server, "/text", TEXT)
    assert (found.status, found.error) == (503, "busy with another text or answer; try again in a moment")
    fake(server).open.set()
    first.join()
    assert live(server, "/text", TEXT).status == 200


def test_user_errors_are_reported_verbatim(server: LiveServer) -> None:
    found = live(server, "/text", {"text": "mend"})
    assert (found.status, found.error) == (400, "the text: cannot be read; type another")


def test_a_bug_is_printed_in_the_terminal_and_the_server_keeps_running(
    server: LiveServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = live(server, "/text", {"text": "break"})
    assert found.status == 500
    assert "secret" not in found.error and "terminal" in found.error
    assert live(server, "/text", TEXT).status == 200
    # The thread of the request prints the traceback after it has sent the response.
    printed, began = "", time.monotonic()
    while "RuntimeError: a secret of the machine" not in printed:
        assert time.monotonic() < began + 10
        printed += capsys.readouterr().err
        time.sleep(0.01)


@contextmanager
def pending_request(server: LiveServer, path: str, content: dict[str, Any]) -> Iterator[socket.socket]:
    """Send a request and yield the connection before the response."""
    body = json.dumps(content).encode()
    head = f"POST {path}?token={server.token} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.server_port)) as client:
        client.sendall(head.encode() + body)
        yield client


def response_to(client: socket.socket) -> str:
    """Close the client's sending side and return the response."""
    client.shutdown(socket.SHUT_WR)
    with client.makefile("rb") as answer:
        return answer.read().decode()


def test_an_answer_is_cancelled_when_its_client_disconnects(server: LiveServer) -> None:
    fake(server).open.clear()
    with pending_request(server, "/live/steer", TEXT | {"latents": [1]}) as client:
        assert fake(server).entered.wait(20)
        # While the client is connected, the computation continues.
        assert not fake(server).cancelled.wait(0.1)
        assert "cancelled because the connection was closed" in response_to(client)
    assert fake(server).cancelled.is_set()
    fake(server).open.set()
    assert live(server, "/text", TEXT).status == 200


def test_a_client_that_disconnects_while_waiting_is_not_served(server: LiveServer) -> None:
    fake(server).open.clear()
    first = threading.Thread(target=live, args=(server, "/text", TEXT))
    first.start()
    assert fake(server).entered.wait(20)
    with pending_request(server, "/live/text", {"text": "mend"}) as client:
        threading.Timer(0.1, fake(server).open.set).start()
        assert "cancelled because the connection was closed" in response_to(client)
    first.join()


def test_a_client_that_disconnects_is_no_error(
    server: LiveServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(server).open.clear()
    with pending_request(server, "/live/text", TEXT) as client:
        assert fake(server).entered.wait(20)
        # Closing now resets the connection, so that writing the response fails.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    fake(server).open.set()
    assert live(server, "/text", TEXT).status == 200
    time.sleep(0.3)  # an error would be printed by another thread
    assert capsys.readouterr().err == ""


def test_closing_waits_for_the_current_computation_and_starts_no_other(folder: RunFolder) -> None:
    server = LiveServer(folder, settings(folder.path), 0)
    server.answerer = own = FakeAnswerer()
    serving_thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    serving_thread.start()
    own.open.clear()
    found: list[int] = []
    first = threading.Thread(target=lambda: found.append(live(server, "/text", TEXT).status))
    first.start()
    assert own.entered.wait(20)
    server.shutdown()
    server.server_close()
    # The running computation was answered before `server_close` returned.
    assert own.at_once == 0
    first.join()
    serving_thread.join()
    assert found == [200]
    with pytest.raises(Refused, match="busy"), patched_wait(), server.turn():
        pass


@contextmanager
def patched_wait() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_server, "WAIT_SECONDS", 0.05)
        yield


# --- response headers -------------------------------------------------------------------------------------------------


def test_the_policy_allows_only_this_script_and_this_server(server: LiveServer) -> None:
    nonces = set()
    for _ in range(2):
        found = live(server)
        policy = dict(part.split(" ", 1) for part in found.headers["Content-Security-Policy"].split("; "))
        assert policy.pop("connect-src") == "'self'"
        nonce = re.fullmatch(r"'nonce-([\w-]{20,})'", policy.pop("script-src"))
        assert nonce is not None and policy.pop("style-src") == nonce[0]
        assert set(policy) == {"default-src", "base-uri", "form-action", "frame-ancestors"}
        assert set(policy.values()) == {"'none'"}
        nonces.add(nonce[1])
        text = found.body.decode()
        assert text.count(f'nonce="{nonce[1]}"') == 2
        # No script, no style and no handler in the markup itself.
        assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", text) == []
        assert re.findall(r"https?://", text) == []
    assert len(nonces) == 2


def test_every_response_keeps_other_sites_out(server: LiveServer) -> None:
    for found in (
        ask(server, "/"),
        live(server),
        live(server, "/text", TEXT),
        ask(server, "/live"),
        ask(server, "/no"),
    ):
        assert found.headers["X-Content-Type-Options"] == "nosniff"
        assert found.headers["Referrer-Policy"] == "no-referrer"
        assert found.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert found.headers["Access-Control-Allow-Origin"] is None
    assert live(server, "/text", TEXT).headers["Cache-Control"] == "no-store"


def test_it_listens_on_this_machine_only(server: LiveServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_a_run_from_files_is_refused_before_any_work(folder: RunFolder) -> None:
    files = {"kind": "files", "reference": "a.npy", "intervened": "b.npy"}
    config = RunConfig.model_validate({"output": str(folder.path), "activations": files})
    with pytest.raises(ConfigError, match="came from files, but the live page needs the models themselves"):
        LiveServer(folder, config, 0)
