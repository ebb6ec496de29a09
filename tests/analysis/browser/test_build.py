"""The page opens from disk without requests, shows the contents of the Parquet files, and runs no text as code."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from analysis.browser import build
from analysis.browser.files import SINGLE_FILE_BYTES
from analysis.browser.payload import TokenTable, pack
from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..page_views import LAYOUTS, page_files, read_table, unpacked
from ..run_folder import HOSTILE, HOSTILE_LATENT, N_LATENTS, make_run_folder


@pytest.fixture(scope="module", params=LAYOUTS, ids=LAYOUTS.get)
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> RunFolder:
    folder = make_run_folder(tmp_path_factory.mktemp("page") / "run")
    write_page(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def features(run: RunFolder) -> Any:
    return read_table(run.features)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_pack_round_trips() -> None:
    arrays = {
        "a": np.asarray([1.5, np.nan], dtype=np.float32),
        "b": np.arange(3, dtype=np.uint8),
        "c": np.asarray([7], dtype=np.int32),
    }
    header, body = unpacked(pack({"word": "</script>\u2028"}, arrays))
    assert header["word"] == "</script>\u2028"
    for name, array in arrays.items():
        _, offset, length = header["arrays"][name]
        assert offset % 8 == 0
        found = np.frombuffer(body, dtype=array.dtype, count=length, offset=offset)
        np.testing.assert_array_equal(found, array)


def test_token_table_keeps_one_id_with_two_texts_apart() -> None:
    table = TokenTable()
    texts = pa.array(["a", "b", "a", "b"]).dictionary_encode()
    rows = table.add(np.asarray([1, 1, 1, 2]), texts)
    again = table.add(np.asarray([2, -1]), pa.array(["b", "row"]).dictionary_encode())
    header = table.header()
    assert [(header["ids"][row], header["texts"][row]) for row in rows] == [
        (1, "a"),
        (1, "b"),
        (1, "a"),
        (2, "b"),
    ]
    assert again[0] == rows[3]
    assert header["ids"][again[1]] == -1


def test_no_two_scripts_define_the_same_name() -> None:
    """The scripts share one scope, in which a later function silently replaces an earlier one of the same name."""
    place = Path(build.__file__).parent / "page"
    text = "\n".join((place / name).read_text(encoding="utf-8") for name in build._SCRIPTS)
    names = re.findall(r"^(?:async )?(?:function|const|let) (\w+)", text, re.MULTILINE)
    assert len(names) > 200
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_every_script_and_style_is_in_the_page() -> None:
    place = Path(build.__file__).parent / "page"
    assert sorted(build._SCRIPTS) == sorted(path.name for path in place.glob("*.js"))
    assert sorted(build._STYLES) == sorted(path.name for path in place.glob("*.css"))
    # These two override rules of the others.
    assert build._STYLES[-2:] == ("narrow.css", "print.css")


def test_page_is_reproducible_and_names_no_server(run: RunFolder) -> None:
    before = page_files(run)
    write_page(run, 0 if len(before) > 1 else SINGLE_FILE_BYTES)
    assert page_files(run) == before
    first = before["index.html"]
    markup = b"".join(
        line for line in first.splitlines() if not line.startswith(b'<script type="text/plain"')
    )
    assert b"connect-src 'none'" in markup
    assert b"unsafe" not in markup
    for word in (b"http://", b"https://", b"//cdn", b"@import", b"url("):
        assert word not in markup.replace(b"http://www.w3.org/2000/svg", b"")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("features", "not found; run crosscoder analyze first"),
        ("examples", "not found"),
        ("summary", "not found"),
    ],
)
def test_missing_file_is_named(tmp_path: Path, name: str, message: str) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    getattr(folder, name).unlink()
    with pytest.raises(FormatError, match=message) as caught:
        write_page(folder)
    assert str(getattr(folder, name)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder.browser / "index.html").exists()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=60)
    folder.features.write_bytes(folder.features.read_bytes()[:-20])
    with pytest.raises(FormatError, match=r"features\.parquet: not a readable Parquet file"):
        write_page(folder)
    folder = make_run_folder(tmp_path / "other", n_latents=60)
    read_table(folder.features).drop(columns="nu_error").to_parquet(folder.features)
    with pytest.raises(FormatError, match=r"features\.parquet: no column nu_error"):
        write_page(folder)


# --- in a browser -----------------------------------------------------------------------------------------------------


def test_opens_from_disk_without_requests(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    view.page.click(".spacer .row >> nth=0")
    view.page.wait_for_selector(".example")
    place = run.browser.resolve().as_uri()
    assert view.requests[0] == f"{place}/index.html"
    # With separate files, only the pack of the latent is loaded.
    assert [request.startswith(f"{place}/data/0") for request in view.requests[1:]] == [True] * (
        len(page_files(run)) > 1
    )
    assert view.console_messages == []
    assert view.page.title() == "SmolLM2-135M-Instruct → SmolLM2-135M-Instruct + refuse-food · crosscoder"


def test_policy_stops_scripts_and_requests(run: RunFolder, visit: Any) -> None:
    """Positive control of the test above: foreign scripts and requests are blocked, not merely absent."""
    view = visit(run)
    view.page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
    )
    view.page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"file:///x.png\" onerror=\"window.ran = 2\">')"
    )
    refused = view.page.evaluate("fetch('https://example.com/').then(() => false, () => true)")
    assert refused
    assert view.page.evaluate("window.ran ?? null") is None
    assert any("Content Security Policy" in complaint for complaint in view.console_messages)


def test_table_has_every_row(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    assert view.count() == f"{N_LATENTS} of {N_LATENTS} latents"
    assert view.page.get_attribute(".table", "aria-rowcount") == str(N_LATENTS + 1)
    seen: list[int] = []
    for top in range(0, N_LATENTS * 34, 300):
        view.scroll_table(top)
        seen += view.rows()
    assert set(seen) == set(range(N_LATENTS))


def test_sorts_like_pandas(run: RunFolder, features: Any, visit: Any) -> None:
    view = visit(run, "#sort=-density")
    expected = features.sort_values("density", ascending=False, kind="stable")["latent"].tolist()
    assert view.rows()[:15] == expected[:15]
    view.page.click('[data-sort="decoder_cosine"]')
    view.page.wait_for_selector('[aria-sort="descending"] [data-sort="decoder_cosine"]')
    single = features["decoder_cosine"].astype(np.float32)
    expected = (
        features.assign(key=single).sort_values("key", ascending=False, kind="stable")["latent"].tolist()
    )
    assert view.rows()[:15] == expected[:15]
    view.page.click('[data-sort="decoder_cosine"]')
    view.page.wait_for_selector('[aria-sort="ascending"] [data-sort="decoder_cosine"]')
    assert (
        view.rows()[:3]
        == features.assign(key=single).sort_values("key", kind="stable")["latent"].tolist()[:3]
    )
    options = view.page.eval_on_selector_all("#sort option", "nodes => nodes.map(n => n.value)")
    for column in features.columns.difference(
        [
            "label",
            "candidate",
            "evidence",
            "reason",
            "explanation",
            "q_value",
            "seed_stability",
            "label_stability",
        ]
    ):
        assert column in options, column


def test_filters_by_label_and_range(run: RunFolder, features: Any, visit: Any) -> None:
    view = visit(run)
    view.page.click('.label-toggle[data-label="new"]')
    view.page.wait_for_selector('.label-toggle[data-label="new"][aria-pressed="true"]')
    assert set(view.rows()) == set(features.loc[features["label"] == "new", "latent"])
    view.page.click('.label-toggle[data-label="rescaled"]')
    view.page.wait_for_selector(".chip >> nth=1")
    assert set(view.rows()) == set(features.loc[features["label"].isin(["new", "rescaled"]), "latent"])
    view.page.fill("#range-low", "0.9")
    view.page.press("#range-low", "Enter")
    view.page.wait_for_selector(".chip >> nth=2")
    kept = features["label"].isin(["new", "rescaled"]) & (features["relative_norm"] >= 0.9)
    assert set(view.rows()) == set(features.loc[kept, "latent"])
    assert view.page.evaluate("location.hash") == "#label=new,rescaled&relative_norm=0.9.."


def test_search_covers_examples_logits_and_explanations(run: RunFolder, features: Any, visit: Any) -> None:
    view = visit(run)
    for query in ("Unfortunately", "loaf of bread with rye", "'salmon'"):
        view.page.fill("#query", query)
        view.wait_for_search(query)
        assert int(view.count().split(" ")[0]) == len(matching(run, features, query.lower())), query
    view.page.fill("#query", "no such words anywhere")
    view.page.wait_for_selector(".empty")


def matching(run: RunFolder, features: Any, query: str) -> set[int]:
    examples = read_table(run.examples)
    logits = read_table(run.logits).query("readable")
    in_examples = examples["tokens"].map(lambda tokens: query in "".join(tokens).lower())
    found = set(examples.loc[in_examples, "latent"])
    found |= set(logits.loc[logits["token"].str.lower().str.contains(query, regex=False), "latent"])
    found |= set(features.loc[features["explanation"].str.lower().str.contains(query, regex=False), "latent"])
    assert found
    return found


SHOWN_PAIRS = """blocks => blocks.map(block => Array.from(block.querySelectorAll(".pair"), pair => ({
    text: pair.querySelector(".upper").textContent,
    value: Number(pair.dataset.value),
    reference: Number(pair.querySelector(".upper").style.getPropertyValue("--v")),
    intervened: Number(pair.querySelector(".lower").style.getPropertyValue("--v")),
    classes: Array.from(pair.classList),
})))"""


def test_example_shows_the_values_of_the_file(run: RunFolder, visit: Any) -> None:
    rows = [row for row in pq.read_table(run.examples).to_pylist() if row["latent"] == 17]
    top = sorted((row for row in rows if row["quantile"] is None), key=lambda row: row["rank"])
    view = visit(run, "#latent=17")
    view.wait_for_latent(17)
    view.page.check("#all-context")
    blocks = view.page.eval_on_selector_all(".example", SHOWN_PAIRS)
    assert len(blocks) == len(rows)
    largest = max(max(row["reference"] + row["intervened"]) for row in rows)
    for pairs, row in zip(blocks, top, strict=False):
        assert [np.float32(pair["value"]) for pair in pairs] == [np.float32(value) for value in row["values"]]
        for side in ("reference", "intervened"):
            expected = [value / largest for value in row[side]]
            assert [pair[side] for pair in pairs] == pytest.approx(expected, abs=1e-4)
        (peak,) = [pair for pair in pairs if "peak" in pair["classes"]]
        assert peak["text"] == row["tokens"][row["position"] - row["start"]]
        assert np.float32(peak["value"]) == np.float32(row["peak"])
        special = ["special" in pair["classes"] for pair in pairs]
        template = ["template" in pair["classes"] for pair in pairs]
        assert special == row["special"]
        # A special token written by a template is drawn as special.
        assert [one or other for one, other in zip(special, template, strict=True)] == row["template"]


def test_latent_page_shows_numbers_tables_and_reason(run: RunFolder, features: Any, visit: Any) -> None:
    latent = int(features.loc[features["label"] == "lost", "latent"].iloc[0])
    row = features.iloc[latent]
    view = visit(run, f"#latent={latent}")
    view.wait_for_latent(latent)
    text = view.page.inner_text("#latent")
    assert row["reason"] in text
    assert f"{row['nu_error']:.2f}".replace("-", "−") in view.page.inner_text(".nu .leans >> nth=0")
    assert f"{row['nu_error_low']:.2f} to {row['nu_error_high']:.2f}".replace("-", "−") in text
    assert f"latent {row['twin']}" in text
    logits = (
        read_table(run.logits)
        .query("latent == @latent and model == 'reference'")
        .sort_values(["side", "rank"], ascending=[False, True])
    )
    shown = view.page.eval_on_selector_all(
        '[data-model="reference"] li', "nodes => nodes.map(n => n.lastChild.textContent)"
    )
    assert shown == [f"{value:.2f}".replace("-", "−") for value in logits["value"]]


def test_a_list_no_better_than_random_is_behind_a_fold(run: RunFolder, features: Any, visit: Any) -> None:
    shared = features.loc[features["label"] == "shared", "latent"]
    odd, even = (int(shared[shared % 2 == rest].iloc[0]) for rest in (1, 0))
    view = visit(run, f"#latent={odd}")
    view.wait_for_latent(odd)
    difference = '[data-model="difference"]'
    assert view.page.inner_text(difference).count("does not read as tokens") == 2
    assert not view.page.is_visible(f"{difference} li >> nth=0")
    view.page.click(f"{difference} summary >> nth=0")
    assert view.page.is_visible(f"{difference} li >> nth=0")
    assert "no better than the list of a random direction" in view.page.inner_text(difference)
    assert view.page.is_visible('[data-model="intervened"] > .logit-list.up')
    view.go(f"#latent={even}")
    view.wait_for_latent(even)
    assert "does not read" not in view.page.inner_text(difference)
    assert view.page.is_visible(f"{difference} .logit-list.down")
    assert view.console_messages == []


def test_a_latent_that_reads_nowhere_points_at_nothing(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=70)
    table = pq.read_table(folder.logits)
    unreadable = pa.array([latent != 7 for latent in table["latent"].to_pylist()])
    at = table.schema.get_field_index("readable")
    pq.write_table(table.set_column(at, "readable", unreadable), folder.logits)
    write_page(folder)
    view = visit(folder, "#sort=latent", permissions=["clipboard-read", "clipboard-write"])
    cells = '.spacer .row[data-latent="7"] .gist'
    shown = view.page.eval_on_selector_all(cells, "cells => cells.map(cell => cell.children.length)")
    assert shown[0] > 0 and shown[1] == 0
    told = []
    for latent in (7, 8):
        view.go(f"#latent={latent}")
        view.wait_for_latent(latent)
        view.page.click('button:has-text("copy as Markdown")')
        view.page.wait_for_selector('#status:has-text("copied")')
        told.append(view.page.evaluate("navigator.clipboard.readText()"))
    assert "By the logit lens its direction does not read as tokens." in told[0]
    assert "By the logit lens its direction points at" in told[1] and "does not read" not in told[1]


def test_an_analysis_without_the_test_of_its_lists_is_to_be_repeated(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=70)
    pq.write_table(pq.read_table(folder.logits).drop_columns(["readable"]), folder.logits)
    with pytest.raises(FormatError, match="no column readable; run crosscoder analyze again"):
        write_page(folder)


def test_table_names_what_a_latent_peaks_on_and_points_at(run: RunFolder, features: Any, visit: Any) -> None:
    examples, logits = read_table(run.examples), read_table(run.logits)
    view = visit(run, "#label=new,lost,rotated")
    for latent in view.rows():
        label = features.iloc[latent]["label"]
        model = {"new": "intervened", "lost": "reference"}.get(label, "difference")
        tables = logits[(logits["latent"] == latent) & (logits["side"] == "top") & logits["readable"]]
        table = tables[tables["model"] == model]
        if not len(table):
            # The difference does not read as tokens.
            table = tables[tables["model"] == "intervened"]
        top = examples[(examples["latent"] == latent) & examples["quantile"].isna()].sort_values("rank")
        peaks = dict.fromkeys(row.tokens[row.position - row.start] for row in top.itertuples())
        row = f'.spacer .row[data-latent="{latent}"] .gist'
        shown = view.page.eval_on_selector_all(
            row, "cells => cells.map(c => Array.from(c.children, t => t.textContent))"
        )
        expected = [list(peaks)[:4], table.sort_values("rank")["token"].tolist()[:4]]
        if latent != HOSTILE_LATENT:
            assert [[text.replace("␣", " ") for text in cell] for cell in shown] == expected
    assert len(view.rows()) > 10


def test_address_restores_the_view(run: RunFolder, features: Any, visit: Any) -> None:
    address = "#sort=relative_norm&label=rotated,lost&q=the"
    view = visit(run, address)
    view.wait_for_search("the")
    before = view.rows()
    assert set(features.iloc[before]["label"]) == {"rotated", "lost"}
    view.page.click(".spacer .row >> nth=2")
    view.wait_for_latent(before[2])
    link = view.address()
    assert f"latent={before[2]}" in link
    view.page.keyboard.press("j")
    view.wait_for_latent(before[3])
    view.page.keyboard.press("k")
    view.wait_for_latent(before[2])
    view.page.reload()
    view.wait_for_latent(before[2])
    assert view.address() == link
    view.page.keyboard.press("Escape")
    view.page.wait_for_selector("#overview:not([hidden])")
    view.wait_for_search("the")
    assert view.rows() == before


def test_scatter_and_keyboard_open_a_latent(run: RunFolder, visit: Any) -> None:
    view = visit(run)
    view.page.focus(".table-body")
    view.page.keyboard.press("ArrowDown")
    view.page.keyboard.press("ArrowDown")
    expected = view.rows()[1]
    view.page.keyboard.press("Enter")
    view.wait_for_latent(expected)
    view.page.keyboard.press("Escape")
    canvas = view.page.locator(".scatter canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for across in range(60, int(box["width"]) - 10, 6):
        view.page.mouse.move(box["x"] + across, box["y"] + 14)
        if not view.page.is_hidden(".tip"):
            break
    named = view.page.inner_text(".tip").split(",")[0].removeprefix("latent ")
    view.page.mouse.down()
    view.page.mouse.up()
    view.wait_for_latent(int(named))


@pytest.mark.parametrize("limit", LAYOUTS, ids=LAYOUTS.get)
def test_hostile_text_stays_text(tmp_path: Path, visit: Any, limit: int) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=80)
    summary = json.loads(folder.summary.read_text())
    summary["models"]["intervened"]["adapter"] = f"x/{HOSTILE[1]}"
    summary["hookpoint"] = HOSTILE[0]
    summary["sources"] = {HOSTILE[1]: {"documents": 1, "tokens": 1}}
    folder.summary.write_text(json.dumps(summary))
    table = read_table(folder.features).rename(columns={"density/chat": f"density/{HOSTILE[1]}"})
    table.to_parquet(folder.features)
    write_page(folder, limit)
    view = visit(folder, f"#q={quote(HOSTILE[1])}")
    view.page.click(f'.spacer .row[data-latent="{HOSTILE_LATENT}"]')
    view.wait_for_latent(HOSTILE_LATENT)
    view.page.check("#all-context")
    view.page.hover(".pair.peak")
    assert view.page.query_selector_all("img, iframe, object, embed, form, b, i") == []
    runnable = view.page.eval_on_selector_all(
        "script", "nodes => nodes.filter(n => n.type !== 'text/plain').length"
    )
    assert runnable == 1
    shown = view.page.text_content(".examples") or ""
    assert "</script><script>alert(1)</script>" in shown
    assert "<img src=x onerror=alert(2)>" in shown
    assert "\\u2028alert(3)" in shown
    assert "\\u202egnp.exe" in shown
    everything = view.page.text_content("body > :not(script)") or ""
    everything += view.page.text_content("#latent") or ""
    assert "\u2028" not in everything
    assert "\u202e" not in everything
    assert view.dialogs == []
    assert view.console_messages == []


def test_right_to_left_text_is_isolated(run: RunFolder, visit: Any) -> None:
    view = visit(run, f"#latent={HOSTILE_LATENT}")
    view.wait_for_latent(HOSTILE_LATENT)
    styles = view.page.eval_on_selector_all(
        ".pair bdi", "nodes => nodes.map(n => getComputedStyle(n).unicodeBidi)"
    )
    assert styles
    assert set(styles) == {"isolate"}


def test_latents_without_examples_are_marked(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=70)
    examples = pq.read_table(folder.examples)
    pq.write_table(examples.filter(pc.field("latent") != HOSTILE_LATENT), folder.examples)
    write_page(folder)
    view = visit(folder, f"#latent={HOSTILE_LATENT}")
    view.wait_for_latent(HOSTILE_LATENT)
    assert "stored no examples of this latent" in view.page.inner_text(".examples")
    assert view.console_messages == []


def test_identical_models_are_called_identical(tmp_path: Path, visit: Any) -> None:
    folder = make_run_folder(tmp_path / "run", identical=True)
    write_page(folder)
    view = visit(folder)
    assert "Both models computed identical activations" in view.page.inner_text(".lead")
    assert view.page.inner_text(".absent-labels summary").startswith("No latents are new, lost, ")
    view.page.click(".absent-labels summary")
    assert view.page.inner_text('.strip-row:has([data-label="new"]) .count') == "0"
    assert view.console_messages == []


def test_difference_dictionary_of_files_opens(tmp_path: Path, visit: Any) -> None:
    """A run without decoder norms, token texts and logit tables still has numbers and row numbers."""
    folder = make_run_folder(tmp_path / "run", n_latents=70)
    table = read_table(folder.features)
    absent = [name for name in table if "norm" in name or name.startswith(("nu_", "decoder", "twin"))]
    table[absent] = np.nan
    table.to_parquet(folder.features)
    examples = pq.read_table(folder.examples)
    rows = [[-1] * len(ids) for ids in examples["token_ids"].to_pylist()]
    examples = examples.set_column(
        examples.schema.get_field_index("token_ids"), "token_ids", pa.array(rows, pa.list_(pa.int32()))
    )
    pq.write_table(examples, folder.examples)
    pq.write_table(pq.read_table(folder.logits).slice(0, 0), folder.logits)
    write_page(folder)
    view = visit(folder)
    assert view.count() == "70 of 70 latents"
    view.go("#latent=7")
    view.wait_for_latent(7)
    assert "not measured" in view.page.inner_text(".logit-columns")
    assert view.console_messages == []


@pytest.mark.parametrize("address", ["", f"#latent={HOSTILE_LATENT}"])
def test_fits_a_phone(run: RunFolder, visit: Any, address: str) -> None:
    view = visit(run, address, width=390)
    view.page.wait_for_timeout(100)
    assert view.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_unknown_latent_is_answered(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#latent=99999")
    assert "There is no latent 99999" in view.page.inner_text("#latent")
