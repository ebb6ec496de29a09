"""Figures show the numbers of the files, are reproducible byte for byte, and exist only for data that a run has."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from analysis.behaviors.behavior_files import BehaviorFolder
from analysis.plots.stage import plots_of, write_plots
from analysis.report.behavior_shifts import behavior_shifts
from analysis.tables.analysis_files import LABELS, load_results
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.folder import RunFolder

from ..explained_runs import CHECKPOINTS, NAMED, explained, followed
from ..page_views import read_table
from ..report_runs import controlled, shifted, swept
from ..run_folder import HOSTILE, make_run_folder

EXPLAINED = {
    f"behaviors/refusal/{name}" for name in ("shift", "origins", "latents", "curve", "layers", "doses")
}
OF_LATENTS = {"relative_norm", "decoder_cosine", "norm_and_cosine", "latent_scaling", "labels", "shift_share"}
PNG = b"\x89PNG\r\n"


def lines_of_metrics() -> str:
    rows = [
        {
            "step": step, "tokens": 100 * step, "losses/overall_loss": 1 / step, "metrics/l0": 32.0, "sparsity/dead_share": 0.0,
            **({"metrics/explained_variance/reference": 0.5, "diff/explained_variance": step / 10} if step % 2 else {}),
        }
        for step in range(1, 6)
    ]  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 6, "tok'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with data for every figure, with hostile texts."""
    folder = make_run_folder(tmp_path_factory.mktemp("plots") / "run")
    controlled(folder)
    swept(folder, 24)
    explained(folder, hostile=True)
    shifted(folder, "small_talk", established=False)
    followed(folder)
    folder.metrics.write_text(lines_of_metrics())
    return folder


def named(folder: RunFolder) -> dict[str, Any]:
    return {plot.name: plot for plot in plots_of(folder)}


@pytest.fixture(scope="module")
def plots(run: RunFolder) -> dict[str, Any]:
    return named(run)


def test_there_is_a_figure_for_everything_the_run_has(plots: dict[str, Any]) -> None:
    course = {"training", "sweep", "trajectories", "alarm", "limits", "behaviors/small_talk/shift"}
    assert set(plots) == OF_LATENTS | EXPLAINED | course


def test_missing_data_gives_no_figure(tmp_path: Path) -> None:
    plain = make_run_folder(tmp_path / "plain")
    assert set(named(plain)) == OF_LATENTS
    bare = RunFolder(tmp_path / "bare")
    bare.path.mkdir()
    with pytest.raises(FormatError, match="nothing to draw yet"):
        write_plots(bare)
    bare.metrics.write_text(lines_of_metrics())
    assert set(named(bare)) == {"training"}


def test_the_axes_of_norm_and_cosine_do_not_depend_on_the_data(plots: dict[str, Any]) -> None:
    """Zoomed to 0.92–1, latents of equal models would look spread."""
    plot = plots["norm_and_cosine"]
    for data in (plot.data, plot.data.assign(decoder_cosine=0.99, relative_norm=0.5)):
        axes = replace(plot, data=data).figure().axes[0]
        assert axes.get_ylim() == (-1.04, 1.04) and axes.get_xlim() == (-0.02, 1.02)


def test_identical_models_give_no_figure_of_shares(tmp_path: Path) -> None:
    same = make_run_folder(tmp_path / "same", identical=True)
    assert "shift_share" not in named(same)
    write_plots(same, formats=("png",))


def test_histograms_are_those_of_the_summary(run: RunFolder, plots: dict[str, Any]) -> None:
    summary = load_results(run).summary
    data = plots["relative_norm"].data
    assert (
        data.drop(columns=["low", "high"]).sum(axis=1).tolist()
        == summary["relative_norm_histogram"]["counts"]
    )
    cosine, features = plots["decoder_cosine"].data, read_table(run.features)
    weaker = features[["norm_reference", "norm_intervened"]].min(axis=1) / features[
        ["norm_reference", "norm_intervened"]
    ].max(axis=1)
    both = features[(weaker > summary["rule"]["weak_norm"]) & (features["label"] != "dead")]
    assert (
        cosine.drop(columns=["low", "high"]).to_numpy().sum()
        == both["decoder_cosine"].notna().sum()
        < len(features)
    )


def test_counts_shares_and_limits_are_those_of_the_files(run: RunFolder, plots: dict[str, Any]) -> None:
    results = load_results(run)
    counts = plots["labels"].data.set_index("label")
    assert list(counts.index) == list(LABELS)
    for label, entry in results.summary["counts"].items():
        assert counts.loc[label, "count"] == entry["count"]
    assert (counts.loc["new", "low"], counts.loc["new", "high"], counts.loc["new", "expected_false"]) == (
        5,
        9,
        3,
    )
    assert counts["expected_false"].isna().sum() == len(LABELS) - 2
    shares = plots["shift_share"].data
    assert shares["value"].is_monotonic_decreasing
    assert shares["cumulative"].iloc[-1] == pytest.approx(results.features["shift_share"].sum())
    limits = plots["limits"].data
    assert limits["new"].tolist() == results.summary["limits"][0]["new"]
    assert limits["expected_false"].tolist() == results.summary["limits"][0]["expected_false"]
    assert plots["training"].data["tokens"].tolist() == [100, 200, 300, 400, 500], "half a line is left out"
    assert plots["sweep"].data["chosen"].tolist() == [True, False]


def test_behaviors_are_drawn_with_the_numbers_of_the_report(run: RunFolder, plots: dict[str, Any]) -> None:
    from analysis.behaviors.behavior_files import load_behaviors

    reported = behavior_shifts(load_behaviors(run))[0]
    assert reported.explanation is not None
    named = reported.explanation.latents
    assert all(latent.necessity is not None for latent in named)
    shift = plots["behaviors/refusal/shift"].data.set_index("name")
    assert shift.loc["shift", "value"] == reported.shift.value
    assert (shift["noise_floor"] == reported.floor).all()
    origins = plots["behaviors/refusal/origins"].data
    assert origins["value"].tolist() == [origin.share.value for origin in reported.explanation.origins]
    latents = plots["behaviors/refusal/latents"].data
    assert latents["latent"].unique().tolist() == list(NAMED)
    necessity = latents[latents["measure"] == "necessity"]
    assert necessity["value"].tolist() == [
        latent.necessity.share.value for latent in named if latent.necessity is not None
    ]
    attributed = latents[latents["measure"] == "attribution"].iloc[0]
    assert (attributed["value"], attributed["low"]) == (0.21875, 0.21875 - 0.0123)
    curve = plots["behaviors/refusal/curve"].data
    causal = json.loads(BehaviorFolder(run.behaviors / "refusal").causal.read_text())
    random = curve[
        (curve["drawn"] == "random") & (curve["kind"] == "necessity") & (curve["measured_in"] == "logits")
    ]
    assert random["value"].tolist() == causal["together"]["necessity"]["random"]
    assert set(random["latents"]) == {len(causal["named"])}


def test_trajectories_are_of_the_latents_that_changed_most(run: RunFolder, plots: dict[str, Any]) -> None:
    data, features = plots["trajectories"].data, read_table(run.features)
    latents = data["latent"].drop_duplicates().tolist()
    changed = set(
        features.loc[features["label"].isin(["new", "lost", "replaced", "rotated", "rescaled"]), "latent"]
    )
    assert set(latents) <= changed and len(latents) == 8
    end = data[data["checkpoint"] == len(CHECKPOINTS) - 1]["value"].tolist()
    table = read_table(run.trajectories)
    others = table[(table["checkpoint"] == 3) & table["latent"].isin(changed - set(latents))]["shift_share"]
    assert end == sorted(end, reverse=True) and min(end) >= others.max()
    assert plots["alarm"].data["rings"].tolist() == [True, False]


@pytest.mark.slow
def test_files_are_reproducible_and_contain_their_text(run: RunFolder, tmp_path: Path) -> None:
    from analysis.plots.style import FORMATS, figure_bytes

    first, plots = write_plots(run, tmp_path / "first", FORMATS), plots_of(run)
    assert len([path for path in first.rglob("*") if path.is_file()]) == 4 * len(plots)
    again = [plot for plot in plots if plot.name in ("labels", "norm_and_cosine", "behaviors/refusal/shift")]
    for plot in again:
        for kind in FORMATS:
            assert (first / f"{plot.name}.{kind}").read_bytes() == figure_bytes(plot.figure(), kind)
    assert (first / "labels.png").read_bytes().startswith(PNG)
    assert (first / "labels.pdf").read_bytes().startswith(b"%PDF")
    for path in first.rglob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert ElementTree.fromstring(text) is not None
        assert "<dc:date>" not in text and "<script" not in text
    assert ">latents (logarithmic above 1), with interval<" in (first / "labels.svg").read_text(
        encoding="utf-8"
    )
    shift = (first / "behaviors/refusal/shift.svg").read_text(encoding="utf-8")
    assert HOSTILE[0].replace("<", "&lt;").replace(">", "&gt;") in shift
    data = pd.read_csv(first / "limits.csv")
    assert data["value"].tolist() == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_a_user_s_own_style_changes_nothing(plots: dict[str, Any]) -> None:
    import matplotlib as mpl

    from analysis.plots.style import figure_bytes

    for plot in (plots["labels"], plots["limits"]):
        plain = figure_bytes(plot.figure(), "svg")
        with mpl.rc_context(
            {"font.size": 30, "axes.prop_cycle": "cycler('color', 'r')", "svg.fonttype": "path"}
        ):
            assert figure_bytes(plot.figure(), "svg") == plain


def test_labels_can_be_told_apart_without_color() -> None:
    from analysis.plots.style import LOOKS

    assert set(LOOKS) == set(LABELS)
    for part in ("marker", "hatch"):
        assert len({getattr(look, part) for look in LOOKS.values()}) == len(LABELS)


def test_a_notebook_shows_a_figure_by_itself(plots: dict[str, Any]) -> None:
    assert plots["labels"].figure()._repr_png_().startswith(PNG)


def test_errors_are_one_line(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--format: 'pgn' is unknown \(did you mean 'png'"):
        write_plots(run, tmp_path / "out", ("pgn",))
    damaged = make_run_folder(tmp_path / "damaged")
    for text, message in (("{\n", "line 1 is not JSON"), ("[1]\n", "line 1 holds no JSON object")):
        damaged.metrics.write_text(text)
        with pytest.raises(FormatError, match=message):
            plots_of(damaged)
    damaged.metrics.unlink()
    damaged.sweep.mkdir()
    (damaged.sweep / "sweep.json").write_text('{"curve": []}')
    with pytest.raises(FormatError, match="not a record of a sweep"):
        plots_of(damaged)


def test_models_without_a_common_space_have_no_cosine(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "apart")
    table: Any = read_table(folder.features)
    columns = ["decoder_cosine", "shift_share", *(name for name in table if name.startswith("nu_"))]
    table[columns] = np.nan
    table.to_parquet(folder.features)
    assert set(named(folder)) == {"relative_norm", "labels"}
