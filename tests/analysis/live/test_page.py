"""The live page in a browser, on tiny models: reading and steering by mouse and by keyboard, and its restrictions."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import report_stages, stages
from analysis.live.live_server import LiveServer
from analysis.live.requests import SteerRequest, TextRequest
from crosscoder.config.behavior import Behavior
from tests.analysis.live.live_runs import LiveRun, dense, make_live_run
from tests.analysis.page_views import View, open_view, require_no_severe_findings
from tests.analysis.run_folder import HOSTILE
from tests.tiny_pairs import WORDS

pytestmark = pytest.mark.slow

TEXT = "amber birch maple"
BEHAVIOR = {
    "name": "drift",
    "prompts": [f"{one} {other}" for one in WORDS[:6] for other in WORDS[4:10]],
    "shift": {"unseen": 0.25},
    "metric": {"kind": "divergence"},
    "attribution": {"layers": False, "steps": 1},
    "checks": {"latents": 3, "draws": 19, "counts": [1], "doses": [1.0]},
    "elsewhere_limit": 2,
}


@dataclass
class Served:
    run: LiveRun
    server: LiveServer

    @property
    def address(self) -> str:
        return f"{self.server.address}live?token={self.server.token}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    run = make_live_run(tmp_path_factory.mktemp("live"))
    stages.attribute(run.folder, run.config, Behavior.model_validate(BEHAVIOR))
    report_stages.browse(run.folder)
    with serving(run) as found:
        yield found


class serving:
    """Runs the server of a run in a thread."""

    def __init__(self, run: LiveRun) -> None:
        self._server = LiveServer(run.folder, run.config, 0)
        self._server.answerer = type(run.session).load(run.folder, run.config)
        self._found = Served(run, self._server)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Served:
        self._thread.start()
        return self._found

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def visit_live(chromium: Any) -> Iterator[Any]:
    contexts = []

    def opened(served: Served, width: int = 1280, **options: Any) -> View:
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        return open_view(context, served.address)

    yield opened
    for context in contexts:
        context.close()


def read(view: View, text: str = TEXT, answer: str = "") -> None:
    view.page.fill("#words", text)
    view.page.fill("#answer", answer)
    view.page.click("#ask .go")
    view.page.wait_for_selector("#reading:not([hidden]) .fired")
    view.page.wait_for_selector("#ask .go:not([aria-disabled])")


def strip(view: View) -> list[dict[str, Any]]:
    return view.page.eval_on_selector_all(
        "#strip .pair",
        """nodes => nodes.map(n => ({
            text: n.querySelector(".upper").textContent, fires: n.classList.contains("fires"), value: Number(n.dataset.value),
            upper: Number(n.querySelector(".upper").style.getPropertyValue("--v")),
            lower: Number(n.querySelector(".lower").style.getPropertyValue("--v")),
            current: n.classList.contains("current"),
        }))""",
    )


def asked(served: Served, text: str = TEXT) -> dict[str, Any]:
    chat = {"messages": [{"role": "user", "content": text}]}
    return served.run.session.read(TextRequest.model_validate(chat))


def test_a_text_is_read_and_a_latent_shown_on_its_tokens(served: Served, visit_live: Any) -> None:
    view = visit_live(served)
    assert "an illustration, not a measurement" in view.page.inner_text("main")
    read(view)
    found = asked(served)
    tokens = strip(view)
    assert len(tokens) == len(found["tokens"])
    # The token with the largest KL is selected at first.
    assert [token["current"] for token in tokens].index(True) == int(np.argmax(found["kl"]))
    listed = view.page.eval_on_selector_all(
        "#of-text tbody tr", "rows => rows.map(r => Array.from(r.children, c => c.textContent.trim()))"
    )
    # The largest change comes first, with its token.
    assert len(listed) == 12 < len(set(found["fired"]["latent"]))
    largest = max(zip(found["fired"]["change"], found["fired"]["latent"], strict=True))
    assert listed[0][0].startswith(str(largest[1]))
    for latent in [int(row[0].split(" ")[0]) for row in listed[:3]]:
        view.page.click(f'#of-text .latent-button[data-latent="{latent}"]')
        assert view.page.inner_text(".shown-name").startswith(f"Latent {latent} ")
        own = {name: dense(found, name)[:, latent] for name in ("value", "reference", "intervened")}
        top = max(own["reference"].max(), own["intervened"].max())
        tokens = strip(view)
        assert [token["value"] for token in tokens] == pytest.approx(own["value"].tolist())
        assert [token["fires"] for token in tokens] == (own["value"] > 0).tolist()
        assert [token["upper"] for token in tokens] == pytest.approx(
            (own["reference"] / top).tolist(), abs=1e-3
        )
        assert [token["lower"] for token in tokens] == pytest.approx(
            (own["intervened"] / top).tolist(), abs=1e-3
        )
    view.page.click("#of-text .more")
    assert view.page.locator("#of-text tbody tr").count() == len(set(found["fired"]["latent"]))
    assert view.page.evaluate("document.activeElement.matches('#of-text tbody tr:nth-child(13) button')")
    assert view.console_messages == []


def test_a_token_shows_predictions_of_both_models_and_firing_latents(served: Served, visit_live: Any) -> None:
    view = visit_live(served)
    read(view)
    found = asked(served)
    at = len(found["tokens"]) - 3
    view.page.click(f'#strip [data-at="{at}"]')
    shares = view.page.eval_on_selector_all(
        ".expected .numeric", "nodes => nodes.map(n => parseFloat(n.textContent))"
    )
    expected = [
        100 * share for name in ("reference", "intervened") for _, share in found["predictions"][name][at]
    ]
    assert shares == pytest.approx(expected, rel=0.02)
    assert f"{found['kl'][at]:.3g}"[:4] in view.page.inner_text(".expected .caption")
    fired = [
        int(text)
        for text in view.page.eval_on_selector_all(
            "#of-token .latent-button", "nodes => nodes.map(n => n.dataset.latent)"
        )
    ]
    assert set(fired) == set(dense(found)[at].nonzero()[0].tolist())


def test_a_latent_links_to_its_page(served: Served, visit_live: Any) -> None:
    view = visit_live(served)
    read(view)
    latent = view.page.get_attribute("#of-text .latent-button", "data-latent")
    with view.page.context.expect_page() as opened:
        view.page.click(".shown-links a")
    other = opened.value
    other.wait_for_selector(f'#latent[data-latent="{latent}"]')
    assert other.url == f"{served.server.address}index.html#latent={latent}"
    # The new page learns neither the address of the live page nor its token.
    assert other.evaluate("document.referrer") == "" and other.evaluate("window.opener") is None


def test_the_static_page_has_no_link_to_it(served: Served, visit_live: Any) -> None:
    page = (served.run.folder.browser / "index.html").read_text()
    assert "/live" not in page and served.server.token not in page


def test_both_models_are_steered_and_an_answer_is_read(served: Served, visit_live: Any) -> None:
    view = visit_live(served)
    view.page.fill("#words", TEXT)
    view.page.click("#named .chip")
    (named,) = served.server.loaded().facts()["behaviors"]
    assert view.page.input_value("#latents") == ", ".join(map(str, named["latents"]))
    view.page.fill("#latents", ", ".join(map(str, range(24))))
    view.page.fill("#dose", "-40")
    view.page.fill("#new-tokens", "6")
    view.page.click("#steer .go")
    view.page.wait_for_selector(".answer-grid")
    request = {
        "messages": [{"role": "user", "content": TEXT}], "latents": list(range(24)), "dose": -40.0, "max_new_tokens": 6,
    }  # fmt: skip
    expected = served.run.session.steer(SteerRequest.model_validate(request))
    for side in ("reference", "intervened"):
        assert expected[side]["unsteered"] != expected[side]["steered"]
        for steered, name in (("no", "unsteered"), ("yes", "steered")):
            place = f'.answer[data-side="{side}"][data-steered="{steered}"]'
            shown = view.page.locator(f"{place} .answer-text")
            assert shown.count() == bool(expected[side][name])
    assert f"on {expected['fires_on']} of the {expected['n_read']} tokens" in view.page.inner_text("#answers")
    view.page.click(".answer .link >> nth=0")
    view.page.wait_for_selector("#reading:not([hidden]) .fired")
    assert len(strip(view)) > len(asked(served)["tokens"])
    assert view.console_messages == []


def test_plain_text_is_read_without_a_template(served: Served, visit_live: Any) -> None:
    view = visit_live(served)
    view.page.check("input[value=text]")
    assert not view.page.is_visible("#answer")
    view.page.fill("#words", TEXT)
    view.page.click("#ask .go")
    view.page.wait_for_selector("#strip .pair")
    assert view.page.locator("#strip .pair.template").count() == 0


def test_errors_are_shown_in_one_line_and_the_page_stays_usable(served: Served, visit_live: Any) -> None:
    view = visit_live(served)
    view.page.click("#ask .go")
    view.page.wait_for_selector("#notice:not([hidden])")
    assert view.page.inner_text("#notice") == "the text is empty; enter some text"
    view.page.fill("#words", TEXT)
    for latents, message in (
        ("", "Enter the number of at least one latent."),
        ("x", "x is not a latent number; enter numbers separated by commas."),
        ("99", "latents: there is no latent 99; the dictionary has latents 0 to 23"),
    ):
        view.page.fill("#latents", latents)
        view.page.click("#steer .go")
        view.page.wait_for_selector(f'#notice:has-text("{message}")')
    read(view)
    assert not view.page.is_visible("#notice")


def test_without_the_token_there_is_no_page(served: Served, chromium: Any) -> None:
    page = chromium.new_page()
    assert page.goto(f"{served.server.address}live").status == 403
    page.close()


@pytest.mark.parametrize("answered", [False, True])
def test_hostile_text_stays_text(served: Served, visit_live: Any, answered: bool) -> None:
    view = visit_live(served)
    text = " ".join(HOSTILE[1:4])
    read(view, "amber", text[:90]) if answered else read(view, text[:90])
    assert (
        "<img src=x" in view.page.inner_text("#strip").replace("\n", "")
        or view.page.locator("#strip img").count() == 0
    )
    assert view.page.locator("#reading img, #reading script, #reading a[href^=javascript]").count() == 0
    assert view.dialogs == [] and view.console_messages == []


def test_hostile_answers_and_explanations_stay_text(
    served: Served, visit_live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"unsteered": "\n".join(HOSTILE), "steered": HOSTILE[1]}
    made_up = {"reference": answers, "intervened": answers, "fires_on": 1, "n_read": 2}
    session: Any = served.server.answerer
    monkeypatch.setattr(session, "steer", lambda *_: made_up)
    whole = session.read

    def read_with_hostile_words(request: Any) -> dict[str, Any]:
        found = whole(request)
        record = {"label": "new", "evidence": "observed", "explanation": " ".join(HOSTILE)}
        return found | {"latents": dict.fromkeys(found["latents"], record)}

    monkeypatch.setattr(session, "read", read_with_hostile_words)
    view = visit_live(served)
    read(view)
    view.page.fill("#latents", "1")
    view.page.click("#steer .go")
    view.page.wait_for_selector(".answer-grid")
    assert HOSTILE[1] in view.page.inner_text(".explained")
    # A character that would reverse the text is spelled out.
    assert "\\u202egnp.exe" in view.page.inner_text(".explained")
    assert HOSTILE[0] in view.page.inner_text(".answer-text >> nth=0")
    assert view.page.locator("main img, main script, main a[href^=javascript]").count() == 0
    assert view.dialogs == [] and view.console_messages == []


def test_the_page_contacts_only_this_server(served: Served, visit_live: Any) -> None:
    view = visit_live(served)
    read(view)
    assert view.requests and all(url.startswith(served.server.address) for url in view.requests)
    tried = view.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'reached', error => String(error))")
    assert tried != "reached"
    assert any(
        "Content Security Policy" in message or "connect-src" in message for message in view.console_messages
    )


def test_by_keyboard_alone(served: Served, visit_live: Any) -> None:
    """Type and read a text, select a token and a latent, and steer with the latent."""
    view = visit_live(served)
    keys = view.page.keyboard
    keys.press("Tab")
    assert view.page.evaluate("document.activeElement.id") == "skip"
    to(view, "#words")
    keys.type(TEXT)
    keys.press("Control+Enter")
    view.page.wait_for_selector("#reading:not([hidden]) .fired")
    to(view, "#strip .pair")
    last = len(strip(view)) - 1
    keys.press("End")
    keys.press("ArrowLeft")
    keys.press("ArrowLeft")
    assert strip(view)[last - 2]["current"]
    assert view.page.inner_text("#of-token-title").startswith(f"Token {last - 2} ")
    keys.press("Home")
    assert strip(view)[0]["current"]
    keys.press("End")
    to(view, "#of-text .latent-button")
    keys.press("Tab")
    keys.press("Tab")
    latent = view.page.evaluate("document.activeElement.dataset.latent")
    keys.press("Enter")
    assert view.page.inner_text(".shown-name").startswith(f"Latent {latent} ")
    view.page.locator(".shown-links button").focus()
    keys.press("Enter")
    view.page.wait_for_selector("#latents:focus")
    assert view.page.input_value("#latents") == latent
    keys.press("Enter")
    view.page.wait_for_selector(".answer-grid")
    assert view.console_messages == []


def to(view: View, selector: str) -> None:
    """Press Tab until an element has the focus; the focus must be visible."""
    for _ in range(60):
        view.page.keyboard.press("Tab")
        if view.page.evaluate("s => document.activeElement.matches(s)", selector):
            outline = view.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none"
            return
    pytest.fail(f"{selector} is not reached by Tab")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(served: Served, visit_live: Any, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    view = visit_live(served, width=width, color_scheme=scheme, bypass_csp=True)
    read(view)
    view.page.click("#of-text .latent-button >> nth=1")
    view.page.fill("#latents", "1, 2")
    view.page.click("#steer .go")
    view.page.wait_for_selector(".answer-grid")
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width
    require_no_severe_findings(view, axe)


# --- other runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("context", "Context that the intervened model reads before every text:"),
        ("tokenizer", "Steering is not available for this run: the two models have different tokenizers"),
        ("width", "Steering is not available for this run: the two models share no space"),
    ],
)
def test_runs_of_other_kinds_state_their_differences(
    tmp_path: Path, visit_live: Any, kind: str, message: str
) -> None:
    run = make_live_run(tmp_path, kind)
    report_stages.browse(run.folder)
    with serving(run) as served:
        view = visit_live(served)
        read(view)
        assert message in view.page.inner_text("main")
        assert view.page.is_visible("#steer") == (kind == "context")
        assert strip(view)
        assert view.console_messages == []
