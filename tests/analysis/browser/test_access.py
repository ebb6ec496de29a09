"""Accessibility of the page: keyboard, no color, paper, and no severe finding of axe-core."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..discovery_records import discovered
from ..explained_runs import explained, followed
from ..page_views import SEVERE_IMPACTS, View, read_table, require_no_severe_findings
from ..report_runs import survey
from ..run_folder import N_LATENTS, make_run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run_folder(tmp_path_factory.mktemp("page") / "run")
    explained(folder)
    followed(folder)
    discovered(folder)
    folder.survey.write_text(json.dumps(survey()))
    write_page(folder)
    return folder


def shown(view: View, state: str) -> None:
    """Bring the page into one of its states."""
    if state == "overview":
        for summary in view.page.query_selector_all("details:not([open]) > summary"):
            if summary.is_visible():
                summary.click()
    elif state == "latent":
        view.go("#latent=3")
        view.wait_for_latent(3)
    elif state == "triage":
        for latent, key in ((3, "s"), (4, "x")):
            view.go(f"#latent={latent}")
            view.wait_for_latent(latent)
            view.page.keyboard.press(key)
            view.page.fill("#note", "a note")
            view.page.keyboard.press("Escape")
        view.go("#decision=starred,rejected")
        view.page.wait_for_selector(f'.count-line:has-text("2 of {N_LATENTS}")')
        view.page.wait_for_selector("#status:empty", state="attached", timeout=20_000)
    elif state == "keys":
        view.page.keyboard.press("?")
        view.page.wait_for_selector("dialog[open]")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("state", ["overview", "latent", "triage", "keys"])
def test_axe_finds_nothing_serious(run: RunFolder, visit: Any, state: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    # The policy of the page blocks the script of axe-core, so the browser must bypass it.
    view = visit(run, width=width, color_scheme=scheme, bypass_csp=True)
    shown(view, state)
    require_no_severe_findings(view, axe)


def test_axe_finds_planted_violations(run: RunFolder, visit: Any) -> None:
    """Positive control: an image without alternative text, and text with too little contrast."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    view = visit(run, bypass_csp=True)
    view.page.evaluate(
        """() => {
            const faint = document.createElement("p");
            faint.textContent = "hardly there";
            faint.style.color = "#eeeeec";
            document.getElementById("main").append(document.createElement("img"), faint);
        }"""
    )
    found = axe.Axe().run(view.page).response["violations"]
    assert {"image-alt", "color-contrast"} <= {one["id"] for one in found if one["impact"] in SEVERE_IMPACTS}


# --- by keyboard ------------------------------------------------------------------------------------------------------


FOCUSED = """() => {
    const node = document.activeElement;
    const style = getComputedStyle(node);
    return {
        tag: node.tagName, id: node.id, text: (node.textContent || node.title).trim().slice(0, 40),
        seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        row: node.closest(".row[data-latent]")?.dataset.latent ?? null, box: node.getBoundingClientRect().toJSON(),
    };
}"""


def focused(view: View) -> dict[str, Any]:
    return view.page.evaluate(FOCUSED)


def test_the_first_tab_stop_skips_to_the_content(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#label=new")
    view.page.keyboard.press("Tab")
    assert focused(view)["id"] == "skip"
    assert view.page.is_visible("#skip")
    view.page.keyboard.press("Enter")
    assert focused(view)["id"] == "main"
    # The part after the # holds the state of the page, so the link must not change it.
    assert view.page.evaluate("location.hash") == "#label=new"
    view.page.keyboard.press("Tab")
    assert focused(view)["text"] == "latent 3", "the first link of the first finding"


@pytest.mark.parametrize("address", ["#label=new", "#latent=3"])
def test_every_control_is_reached_and_seen_in_order(run: RunFolder, visit: Any, address: str) -> None:
    view = visit(run, address)
    view.page.wait_for_timeout(100)
    controls = "a[href], button, input:not([type=file]), select, textarea, summary, [tabindex='0']"
    expected = view.page.eval_on_selector_all(
        controls,
        "nodes => nodes.filter(n => !n.disabled && (n.id === 'skip' || n.checkVisibility({visibilityProperty: true}))).length",
    )
    stops = []
    for _ in range(expected):
        view.page.keyboard.press("Tab")
        stops.append(focused(view))
    assert stops[0]["id"] == "skip"
    unseen = [stop for stop in stops if not stop["seen"]]
    assert unseen == []
    view.page.keyboard.press("Tab")
    # After the last one the browser starts over: no control was skipped, and none traps the focus.
    assert focused(view)["tag"] in ("BODY", "HTML") or focused(view)["id"] == "skip"
    assert {"query", "sort"} <= {stop["id"] for stop in stops} or address == "#latent=3"
    assert {"own-label", "note"} <= {stop["id"] for stop in stops} or address != "#latent=3"


def test_the_focus_goes_into_a_latent_and_back_to_its_row(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#sort=latent")
    view.page.focus(".table-body")
    for _ in range(40):
        view.page.keyboard.press("ArrowDown")
    assert focused(view)["row"] == "39"
    view.page.keyboard.press("Enter")
    view.wait_for_latent(39)
    view.page.wait_for_selector(".latent-title:focus")
    view.page.keyboard.press("j")
    view.wait_for_latent(40)
    view.page.keyboard.press("Escape")
    view.page.wait_for_selector('.row[data-latent="40"] a:focus')
    box, frame = focused(view)["box"], view.page.locator(".table-body").bounding_box()
    assert frame["y"] <= box["top"] and box["bottom"] <= frame["y"] + frame["height"]
    # A latent opened from a link above the table returns the focus to that link.
    view.page.focus(".behavior a >> nth=0")
    view.page.keyboard.press("Enter")
    view.wait_for_latent(3)
    view.page.keyboard.press("Escape")
    view.page.wait_for_selector(".behavior a:focus")


def test_a_latent_is_judged_by_keyboard_alone(run: RunFolder, visit: Any) -> None:
    """From the search to a note and back, and on to the tokens of an example."""
    view = visit(run)
    view.page.keyboard.press("/")
    view.page.wait_for_selector("#query:focus")
    view.page.keyboard.type("salmon")
    view.wait_for_search("salmon")
    view.page.keyboard.press("Escape")
    first = view.rows()[0]
    view.page.keyboard.press("j")
    view.wait_for_latent(first)
    view.page.keyboard.press("n")
    view.page.keyboard.type("fish, not food?")
    view.page.keyboard.press("Escape")
    view.page.keyboard.press("s")
    view.page.focus(".example >> nth=0")
    view.page.keyboard.press("ArrowRight")
    view.page.keyboard.press("ArrowRight")
    view.page.wait_for_selector(".pair.current")
    view.page.keyboard.press("/")
    view.page.wait_for_selector("#query:focus")
    view.page.wait_for_selector(f'.row[data-latent="{first}"] .decided:has-text("★starred✎")')
    assert view.page.input_value("#query") == "salmon"


# --- without color, and on paper --------------------------------------------------------------------------------------


def test_no_information_is_shown_by_color_alone(run: RunFolder, visit: Any) -> None:
    """Labels have distinct names and shapes, decisions have signs, and firing tokens are underlined."""
    view = visit(run)
    marks = view.page.eval_on_selector_all(
        ".strip-row .label-name",
        "nodes => nodes.map(n => [n.textContent, n.querySelector('path').getAttribute('d'), getComputedStyle(n.querySelector('path')).fill === 'none'])",
    )
    assert len({name for name, _, _ in marks}) == len({(shape, hollow) for _, shape, hollow in marks}) == 9
    view.go("#latent=3")
    view.wait_for_latent(3)
    signs = view.page.eval_on_selector_all(
        ".decision [data-verdict]", "nodes => nodes.map(n => n.textContent)"
    )
    assert signs == ["★star", "✕reject", "undecided"]
    lines = view.page.eval_on_selector_all(
        ".pair.fires bdi", "nodes => nodes.map(n => getComputedStyle(n).boxShadow)"
    )
    assert lines and "none" not in lines


def pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))


def test_the_overview_prints_its_first_rows_and_no_empty_pages(run: RunFolder, visit: Any) -> None:
    """On screen the table is as high as all its rows; on paper that would print empty pages."""
    view = visit(run, "#sort=latent", color_scheme="dark")
    assert pages(view.page.pdf(format="A4")) <= 13
    view.page.emulate_media(media="print", color_scheme="dark")
    view.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    rows = view.rows()
    assert rows == list(range(60))
    tops = view.page.eval_on_selector_all(
        ".spacer .row", "nodes => nodes.map(n => n.getBoundingClientRect().top)"
    )
    assert all(after > before for before, after in zip(tops, tops[1:], strict=False))
    assert view.page.inner_text(".only-printed") == f"The first 60 of {N_LATENTS} latents in this order."
    for gone in (".toolbar", ".triage button", "footer", ".bar button", "#skip"):
        assert not view.page.is_visible(gone), gone
    # Black on white, even with a dark color scheme.
    colors = "n => [getComputedStyle(n).color, getComputedStyle(n).backgroundColor]"
    assert view.page.eval_on_selector("html", colors) == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    view.page.emulate_media(media="screen")
    view.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert len(view.rows()) < 60
    assert not view.page.is_visible(".only-printed")


def test_a_latent_prints_with_its_decision(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#latent=3")
    view.wait_for_latent(3)
    view.page.emulate_media(media="print")
    # Without a decision, no empty form is printed.
    assert not view.page.is_visible(".decision")
    view.page.emulate_media(media="screen")
    view.page.keyboard.press("s")
    view.page.fill("#note", "a note")
    view.page.wait_for_selector('[data-verdict="starred"][aria-pressed="true"]')
    view.page.emulate_media(media="print")
    assert view.page.is_visible('[data-verdict="starred"]')
    assert not view.page.is_visible('[data-verdict="rejected"]')
    assert not view.page.is_visible(".decision .actions")
    assert view.page.is_visible("#note")
    assert view.page.is_visible(".examples .pair >> nth=0")
    assert pages(view.page.pdf(format="A4")) <= 8


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_link_restores_everything(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run")
    table = read_table(folder.features).rename(columns={"density/chat": "density/a,b%2C"})
    table.to_parquet(folder.features)
    write_page(folder)
    address = (
        "#sort=-decision&label=new,lost&decision=undecided,noted&q=the&latent=2..&relative_norm=..0.99"
        "&columns=latent,density/a%252Cb%25252C,decision"
    )
    view = visit(folder, address)
    view.wait_for_search("the")
    rows = view.rows()
    heads = view.page.eval_on_selector_all(".row.head .cell", "nodes => nodes.map(n => n.textContent)")
    assert [head.split(" ")[0] for head in heads] == ["latent", "density,", "decision"]
    assert view.page.eval_on_selector_all(".chip", "nodes => nodes.length") == 7
    # Opening a latent keeps the range filter on the latent number.
    view.page.keyboard.press("j")
    view.wait_for_latent(rows[0])
    link = view.address()
    assert f"latent={rows[0]}" in link and "latent=2.." in link
    other = visit(folder, "#" + link.split("#")[1])
    other.wait_for_latent(rows[0])
    assert other.address() == link
    other.page.keyboard.press("Escape")
    other.page.wait_for_selector("#overview:not([hidden])")
    other.wait_for_search("the")
    assert other.rows() == rows
    assert (
        other.page.eval_on_selector_all(".row.head .cell", "nodes => nodes.map(n => n.textContent)") == heads
    )
    assert other.page.input_value("#sort") == "-decision"


def test_short_links_lead_to_a_latent(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#f=17")
    view.wait_for_latent(17)
    view.page.reload()
    view.wait_for_latent(17)


# --- text that runs the other way, and pieces of characters ----------------------------------------------------------


def test_text_of_either_direction_stays_in_place(run: RunFolder, visit: Any) -> None:
    """Hebrew and Arabic tokens are laid out left to right in token order; each is written in its own direction."""
    latent = next(
        latent for latent, tokens in examples_of(run) if any(token.strip() == "שלום" for token in tokens)
    )
    view = visit(run, f"#latent={latent}")
    view.wait_for_latent(latent)
    view.page.check("#all-context")
    orders = view.page.eval_on_selector_all(
        ".example",
        """examples => examples.map(example => Array.from(example.querySelectorAll(".pair"), pair => {
            const box = pair.getBoundingClientRect();
            return [Math.round(box.top), box.left, pair.querySelector(".upper").textContent];
        }))""",
    )
    assert any("שלום" in text for order in orders for _, _, text in order)
    for order in orders:
        for (top, left, _), (next_top, next_left, _) in zip(order, order[1:], strict=False):
            assert next_top > top or next_left > left
    view.page.fill("#note", "שלום")
    assert view.page.eval_on_selector("#note", "n => getComputedStyle(n).direction") == "rtl"
    assert view.page.evaluate("document.documentElement.scrollWidth") <= 1280


def examples_of(run: RunFolder) -> list[tuple[int, list[str]]]:
    rows = pq.read_table(run.examples, columns=["latent", "tokens"]).to_pylist()
    return [(row["latent"], row["tokens"]) for row in rows]


def test_partial_and_invisible_characters_are_spelled_out(tmp_path: Path, visit: Any) -> None:
    pieces = ["\\xc3", " a\\xe6\\x97", "\u200b", "\u00a0", "\t", "", "\ufffd", "  ", "\U000e0041"]
    spelled = ["\\xc3", " a\\xe6\\x97", "\\u200b", "⍽", "⇥", "∅", "�", "␣␣", "\\ue0041"]
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    table = pq.read_table(folder.examples)
    rows = table.to_pylist()
    for row in rows:
        if row["latent"] == 3:
            n_tokens = len(row["tokens"])
            row["tokens"] = [pieces[at % len(pieces)] for at in range(n_tokens)]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder.examples)
    write_page(folder)
    view = visit(folder, "#latent=3")
    view.wait_for_latent(3)
    view.page.check("#all-context")
    shown = view.page.eval_on_selector_all(
        ".example:first-of-type .pair .upper", "nodes => nodes.map(n => n.textContent)"
    )
    assert shown == [spelled[at % len(spelled)] for at in range(len(shown))]
    assert len(shown) >= len(pieces)
    unseen = view.page.eval_on_selector_all(
        ".example:first-of-type .pair .upper .unseen", "nodes => nodes.map(n => n.textContent)"
    )
    assert {"\\u200b", "⍽", "⇥", "∅", "�", "␣", "\\ue0041"} <= set(unseen)
    widths = view.page.eval_on_selector_all(
        ".example .pair", "nodes => nodes.map(n => n.getBoundingClientRect().width)"
    )
    assert min(widths) > 3
