"""The page of a large dictionary in a browser: packs in separate files, ranges, and the scatter plot."""

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.bench import large_run
from crosscoder.run.folder import RunFolder
from tests.analysis.page_views import write_page

from ..page_views import page_files, read_table
from ..run_folder import HOSTILE, HOSTILE_LATENT, make_run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run_folder(tmp_path_factory.mktemp("folder") / "run")
    write_page(folder, single_file_bytes=0)
    return folder


@pytest.fixture(scope="module")
def features(run: RunFolder) -> Any:
    return read_table(run.features)


# --- in a browser -----------------------------------------------------------------------------------------------------


def test_only_scripts_with_the_nonce_run(run: RunFolder, visit: Any) -> None:
    """A foreign file next to the packs does not run as a script, because it cannot know the nonce."""
    evil = run.browser / "data" / "evil.js"
    evil.write_text("window.ran = 1")
    view = visit(run)
    for nonce in ("", "0", "sha256"):
        view.page.evaluate(
            """nonce => new Promise(done => {
                const script = Object.assign(document.createElement("script"), { src: "data/evil.js", nonce });
                script.onerror = script.onload = done;
                document.body.append(script);
            })""",
            nonce,
        )
    evil.unlink()
    assert view.page.evaluate("window.ran ?? null") is None
    assert sum("Content Security Policy" in complaint for complaint in view.console_messages) == 3
    index = (run.browser / "index.html").read_text()
    (nonce,) = re.findall(r"'nonce-([^']+)'", index)
    assert len(base64.b64decode(nonce)) == 32
    assert "unsafe" not in index.split('<script type="text/plain"')[0]


def test_hostile_text_in_a_file_is_inert(run: RunFolder, visit: Any) -> None:
    """Whatever the tokens contain, a file is one call with two strings that contain no quotes."""
    for name, content in page_files(run).items():
        if name != "index.html":
            assert re.fullmatch(rb'crosscoderPack\("\d{5}-[0-9a-f]{16}","[A-Za-z0-9+/=]+"\);\n', content)
    view = visit(run, f"#latent={HOSTILE_LATENT}")
    view.wait_for_latent(HOSTILE_LATENT)
    view.page.check("#all-context")
    assert HOSTILE[0] in (view.page.text_content(".examples") or "")
    assert view.dialogs == []
    assert view.console_messages == []
    assert all(request.startswith("file:") for request in view.requests)


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "empty"])
def test_a_damaged_file_is_reported_in_one_line_and_the_rest_works(
    tmp_path: Path, visit: Any, damage: str
) -> None:
    folder = make_run_folder(tmp_path / "run", n_latents=130)
    write_page(folder, 0)
    first, second, _ = sorted((folder.browser / "data").iterdir())
    content = second.read_bytes()
    if damage == "missing":
        second.unlink()
    elif damage == "cut":
        second.write_bytes(content[: len(content) // 2])
    elif damage == "other":
        second.write_bytes(first.read_bytes())
    else:
        second.write_bytes(re.sub(rb',"[^"]*"', b',""', content))
    view = visit(folder, "#latent=70")
    view.wait_for_latent(70)
    notice = view.page.inner_text("#latent .notice")
    assert notice.startswith(f"Latent 70 cannot be shown: data/{second.name} is ")
    assert "crosscoder browse again" in notice
    assert "\n" not in notice
    view.go("#latent=3")
    view.wait_for_latent(3)
    assert view.page.query_selector_all(".example")
    view.go("#q=loaf of bread with rye")
    view.wait_for_search("loaf of bread with rye")
    assert view.count().endswith("1 of 3 files could not be read")
    second.write_bytes(content)
    view.go("#latent=71")
    view.wait_for_latent(71)
    assert view.page.query_selector_all(".example, .muted")
    assert view.page.is_hidden("#notice")


def test_search_matches_across_tokens_but_not_across_examples(
    run: RunFolder, features: Any, visit: Any
) -> None:
    examples = read_table(run.examples)
    texts = examples["tokens"].map("".join).str.lower()
    view = visit(run)
    # Queries that start and end inside a token; that overlap themselves; that span two examples.
    spanning = f"{texts.iloc[0][-3:]}{texts.iloc[1][:6]}"
    for query in ("oaf of bread with ry", "tt", "user\nhow", "year , and the boats s", spanning):
        view.go(f"#q={query}".replace("\n", "%0A"))
        view.page.wait_for_selector('.count-line:not(:has-text("searching"))')
        found = set(examples.loc[texts.str.contains(query, regex=False), "latent"])
        found |= set(
            features.loc[features["explanation"].str.lower().str.contains(query, regex=False), "latent"]
        )
        logits = read_table(run.logits).query("readable")
        found |= set(logits.loc[logits["token"].str.lower().str.contains(query, regex=False), "latent"])
        assert view.count() == f"{len(found)} of 200 latents", query
    assert found == set()


# --- ranges -----------------------------------------------------------------------------------------------------------


def passing(features: Any, name: str, low: float, high: float) -> set[int]:
    """Return the latents in a range, compared in single precision as on the page."""
    values = features[name].astype("float64").to_numpy().astype(np.float32)
    return set(np.flatnonzero((values >= np.float32(low)) & (values <= np.float32(high))).tolist())


@pytest.mark.slow
def test_every_numeric_column_filters_by_a_range(run: RunFolder, features: Any, visit: Any) -> None:
    view = visit(run)
    names = view.page.eval_on_selector_all("#range-column option", "nodes => nodes.map(n => n.value)")
    numbers = features.select_dtypes("number")
    assert set(names) == set(numbers.columns[numbers.notna().any()])
    for name in names:
        low, high = (
            float(end) for end in numbers[name].dropna().quantile([0.3, 0.45], interpolation="nearest")
        )
        view.page.select_option("#range-column", name)
        for field, value in (("low", low), ("high", high)):
            view.page.fill(f"#range-{field}", repr(value))
            view.page.press(f"#range-{field}", "Enter")
        expected = passing(features, name, low, high)
        assert expected
        view.page.wait_for_selector(f'.count-line:text-is("{len(expected)} of 200 latents")', timeout=5000)
        assert set(view.rows()) <= expected
        view.page.click(".chip")
        view.page.wait_for_selector(".chip", state="detached")


def test_a_range_excludes_latents_that_were_not_measured(run: RunFolder, features: Any, visit: Any) -> None:
    """Missing integers are stored as -1 and must not pass an upper bound."""
    assert features["twin"].isna().any()
    view = visit(run, "#twin=..99999")
    assert view.count() == f"{features['twin'].notna().sum()} of 200 latents"


def test_ranges_combine_and_appear_as_chips_and_in_the_address(
    run: RunFolder, features: Any, visit: Any
) -> None:
    address = "#relative_norm=0.4..0.55&density=0.001..&max_activation=..12.5"
    view = visit(run, address)
    expected = (
        passing(features, "relative_norm", 0.4, 0.55)
        & passing(features, "density", 0.001, np.inf)
        & passing(features, "max_activation", -np.inf, 12.5)
    )
    assert view.count() == f"{len(expected)} of 200 latents"
    assert len(view.page.query_selector_all(".chip")) == 3
    view.page.click('[data-range="density"]')
    assert view.page.input_value("#range-low") == "0.001"
    assert view.page.evaluate("document.activeElement.id") == "range-low"
    assert view.page.eval_on_selector_all(".in-force", "nodes => nodes.map(n => n.dataset.range)") == [
        "relative_norm",
        "density",
    ]
    view.page.reload()
    view.page.wait_for_selector("html[data-ready]")
    assert view.count() == f"{len(expected)} of 200 latents"


def test_the_histogram_of_a_column_counts_every_measured_latent(
    run: RunFolder, features: Any, visit: Any
) -> None:
    view = visit(run)
    for name in ("relative_norm", "density", "twin"):
        view.page.select_option("#range-column", name)
        description = view.page.get_attribute("#range-histogram svg", "aria-label")
        measured = features[name].dropna()
        assert f"of {len(measured)} latents, from" in description
    assert f"{features['twin'].isna().sum()} not measured" in view.page.inner_text("#range-histogram")


# --- scatter plot -----------------------------------------------------------------------------------------------------


def drag(view: Any, begin: tuple[float, float], end: tuple[float, float], release: bool = True) -> None:
    """Drag between two positions given as shares of the canvas."""
    canvas = view.page.locator(".scatter canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (begin, end)]
    view.page.mouse.move(*places[0])
    view.page.mouse.down()
    view.page.mouse.move(*places[1], steps=4)
    if release:
        view.page.mouse.up()


def test_a_rectangle_selects_the_same_rows_as_pandas(run: RunFolder, features: Any, visit: Any) -> None:
    view = visit(run)
    drag(view, (0.45, 0.02), (0.62, 0.2))
    view.page.wait_for_selector(".chip >> nth=1")
    hash_ = view.page.evaluate("location.hash")
    bounds = dict(re.findall(r"(relative_norm|decoder_cosine)=([^&]*)", hash_))
    norm, cosine = (
        [float(end) if end else other for end, other in zip(text.split(".."), (-np.inf, np.inf), strict=True)]
        for text in (bounds["relative_norm"], bounds["decoder_cosine"])
    )
    assert 0.3 < norm[0] < norm[1] < 0.7
    # The rectangle's upper edge lies above the end of the axis, so the range is unbounded.
    assert cosine[1] == np.inf
    expected = passing(features, "relative_norm", *norm) & passing(features, "decoder_cosine", *cosine)
    assert 10 < len(expected) < 190
    assert view.count() == f"{len(expected)} of 200 latents"
    for top in range(0, len(expected) * 34, 300):
        view.scroll_table(top)
        assert set(view.rows()) <= expected
    assert view.page.is_hidden("#latent")
    assert not view.page.is_hidden(".brush")


def test_a_rectangle_is_cancelled_and_cleared(run: RunFolder, visit: Any) -> None:
    view = visit(run, "#density=0.0001..")
    before = view.count()
    # The drag ends among marks, but must not open one.
    drag(view, (0.3, 0.3), (0.52, 0.03), release=False)
    assert not view.page.is_hidden(".brush")
    view.page.keyboard.press("Escape")
    assert view.page.is_hidden(".brush")
    view.page.mouse.up()
    view.page.wait_for_timeout(50)
    assert view.page.evaluate("location.hash") == "#density=0.0001.."
    for clear in (
        lambda: view.page.keyboard.press("Escape"),
        lambda: view.page.click(".clear-brush"),
        lambda: view.page.go_back(),
    ):
        drag(view, (0.3, 0.02), (0.6, 0.6))
        view.page.wait_for_selector(".chip >> nth=2")
        assert view.count() != before
        clear()
        view.page.wait_for_selector(".brush", state="hidden")
        assert view.page.evaluate("location.hash") == "#density=0.0001.."
        assert view.count() == before
    assert view.console_messages == []


def test_typed_ranges_draw_the_same_rectangle(run: RunFolder, visit: Any) -> None:
    """Ranges set without a pointer draw the rectangle that a drag would draw."""
    drawn = visit(run)
    drag(drawn, (0.3, 0.3), (0.6, 0.6))
    drawn.page.wait_for_selector(".chip >> nth=1")
    typed = visit(run, drawn.page.evaluate("location.hash"))
    where = "n => [n.style.left, n.style.top, n.style.width, n.style.height].map(parseFloat)"
    one, other = (view.page.eval_on_selector(".brush", where) for view in (drawn, typed))
    assert one == pytest.approx(other)
    canvas = drawn.page.locator(".scatter canvas").bounding_box()
    assert one[0] == pytest.approx(0.3 * canvas["width"], abs=1)
    assert one[3] == pytest.approx(0.3 * canvas["height"], abs=1)


@pytest.fixture(scope="module")
def dense_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = large_run.write_large_run(tmp_path_factory.mktemp("dense") / "run", 2600)
    write_page(folder)
    return folder


@pytest.mark.parametrize(
    ("made", "labels"),
    [("run", ["rotated", "lost", "new"]), ("dense_run", ["shared"])],
    ids=["shapes", "dots"],
)
def test_the_mark_below_the_pointer_is_the_nearest_shown(
    made: str, labels: list[str], request: pytest.FixtureRequest, visit: Any
) -> None:
    folder: RunFolder = request.getfixturevalue(made)
    features = read_table(folder.features)
    shown = features[features["label"].isin(labels)]
    view = visit(folder, f"#label={','.join(labels)}")
    caption = view.page.inner_text("figure:has(.scatter) figcaption")
    assert ("(shared) are drawn as dots" in caption) == (len(shown) > 2000)
    canvas = view.page.locator(".scatter canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    left, right, top, bottom = 38, 10, 8, 26
    x = left + shown["relative_norm"].to_numpy() * (box["width"] - left - right)
    y = top + (1 - shown["decoder_cosine"].to_numpy()) / 2 * (box["height"] - top - bottom)
    random = np.random.default_rng(0)
    tried = {True: 0, False: 0}
    for across, down in random.uniform((x.min(), y.min() - 20), (x.max(), y.max() + 20), (120, 2)):
        distance = np.hypot(x - across, y - down)
        first, second = np.sort(distance)[:2]
        # Ambiguous at pixel resolution.
        if second - first < 0.5 or abs(first - 12) < 1:
            continue
        view.page.mouse.move(box["x"] + across, box["y"] + down)
        tried[bool(first < 12)] += 1
        if first > 12:
            assert view.page.is_hidden(".tip")
        else:
            latent = shown["latent"].to_numpy()[distance.argmin()]
            assert view.page.inner_text(".tip").startswith(f"latent {latent},")
    assert min(tried.values()) > 3


def test_marks_are_drawn_in_the_color_of_their_label_where_they_lie(dense_run: RunFolder, visit: Any) -> None:
    """Shapes and dots alike, and faintly if a filter excludes them."""
    features = read_table(dense_run.features)
    pixel = """([x, y]) => { const c = document.querySelector(".scatter canvas"); const r = c.width / c.clientWidth;
        return Array.from(c.getContext("2d").getImageData(Math.floor(x * r), Math.floor(y * r), 1, 1).data) }"""
    view = visit(dense_run)
    box = view.page.locator(".scatter canvas").bounding_box()
    for label in ("new", "lost", "shared"):
        row = features[features["label"] == label].sort_values("density").iloc[-1]
        place = [
            38 + row["relative_norm"] * (box["width"] - 48),
            8 + (1 - row["decoder_cosine"]) / 2 * (box["height"] - 34),
        ]
        strong = view.page.evaluate(pixel, place)
        view.go("#label=rescaled")
        view.page.wait_for_selector(".chip")
        faint = view.page.evaluate(pixel, place)
        view.go("#")
        view.page.wait_for_selector(".chip", state="detached")
        assert strong[3] > 120, label
        # Shared latents are so dense that even faint marks add up.
        assert 0 < faint[3] < strong[3] or label == "shared", label


def test_strips_count_every_latent_of_their_label(dense_run: RunFolder, visit: Any) -> None:
    features = read_table(dense_run.features)
    view = visit(dense_run)
    for label in ("shared", "new"):
        rows = features[features["label"] == label]
        for column, unit, low in (
            ("relative_norm", "relative norm", 0),
            ("decoder_cosine", "decoder cosine", -1),
        ):
            titles = view.page.eval_on_selector_all(
                f'.strip.fill-{label}[aria-label^="{unit}"] title', "nodes => nodes.map(n => n.textContent)"
            )
            counted = [int(words.split(" ")[0].replace(",", "")) for words in titles]
            expected, _ = np.histogram(rows[column].astype(np.float32), bins=50, range=(low, 1))
            assert counted == expected[expected > 0].tolist(), (label, column)


def test_typed_text_stays_while_the_table_changes(run: RunFolder, visit: Any) -> None:
    """A running search re-renders the toolbar several times per second."""
    view = visit(run)
    view.page.fill("#range-low", "0.4")
    view.go("#sort=density")
    view.page.wait_for_selector('[aria-sort="ascending"] [data-sort="density"]')
    assert view.page.input_value("#range-low") == "0.4"
    view.page.press("#range-low", "Enter")
    view.page.wait_for_selector(".chip")
    view.page.select_option("#range-column", "density")
    assert view.page.input_value("#range-low") == ""
