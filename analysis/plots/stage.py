"""The stage `plot`: every figure that a run has numbers for, each as files of its own with its numbers beside it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from crosscoder.errors import ConfigError, FormatError, did_you_mean
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic
from crosscoder.runtime.plotting_extra import require_matplotlib

from ..tables.analysis_files import load_results
from .plot import Plot


def write_plots(folder: RunFolder, to: Path | None = None, formats: Sequence[str] = ("png", "svg")) -> Path:
    """Write every figure in every format, and its numbers as CSV; the folder they lie in, RUN/plots if `to` is left out.

    Raises:
        ResourceError: matplotlib is not installed.
        ConfigError: A format is not known.
        FormatError: A file of the run is damaged, or there is nothing yet to draw.
    """
    require_matplotlib("a figure")
    from .style import FORMATS, Format, rendered

    for kind in formats:
        if kind not in FORMATS:
            raise ConfigError(
                f"--format: {kind!r} is not known{did_you_mean(kind, FORMATS)}; give some of {', '.join(FORMATS)}"
            )
    chosen: list[Format] = [kind for kind in FORMATS if kind in formats]
    plots = plots_of(folder)
    if not plots:
        raise FormatError(f"{folder.path}: nothing to draw yet; run `crosscoder run {folder.path}`")
    place = folder.plots if to is None else to
    for plot in plots:
        figure = plot.figure()
        for kind in chosen:
            write_atomic(place / f"{plot.name}.{kind}", rendered(figure, kind))
        write_atomic(place / f"{plot.name}.csv", plot.csv())
    return place


def plots_of(folder: RunFolder) -> list[Plot]:
    """The figures that the run has numbers for, not drawn yet.

    Raises ResourceError where matplotlib is not installed, FormatError where a file of the run is damaged.
    """
    require_matplotlib("a figure")
    return list(_plots(folder))


def _plots(folder: RunFolder) -> Iterator[Plot]:
    from .behavior_plots import behavior_plots
    from .dictionary_plots import dictionary_plots
    from .progress_plots import training_plots, trajectory_plots

    yield from training_plots(folder)
    if folder.summary.is_file():
        results = load_results(folder)
        yield from dictionary_plots(results)
        yield from trajectory_plots(folder, results)
    yield from behavior_plots(folder)
