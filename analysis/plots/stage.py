"""The stage `plot`: writes every figure that a run has data for, with its data as CSV."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from crosscoder.errors import ConfigError, FormatError, did_you_mean
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic

from ..tables.analysis_files import load_results
from .plot import Plot


def write_plots(folder: RunFolder, to: Path | None = None, formats: Sequence[str] = ("png", "svg")) -> Path:
    """Write every figure in every format, and its data as CSV, to `to` (default RUN/plots); return that folder.

    Raises:
        ConfigError: A format is unknown.
        FormatError: A file of the run is damaged, or the run has nothing to draw yet.
    """
    from .style import FORMATS, Format, figure_bytes

    for kind in formats:
        if kind not in FORMATS:
            raise ConfigError(
                f"--format: {kind!r} is unknown{did_you_mean(kind, FORMATS)}; available formats are {', '.join(FORMATS)}"
            )
    chosen: list[Format] = [kind for kind in FORMATS if kind in formats]
    plots = plots_of(folder)
    if not plots:
        raise FormatError(f"{folder.path}: nothing to draw yet; run `crosscoder run {folder.path}`")
    target = folder.plots if to is None else to
    for plot in plots:
        figure = plot.figure()
        for kind in chosen:
            write_atomic(target / f"{plot.name}.{kind}", figure_bytes(figure, kind))
        write_atomic(target / f"{plot.name}.csv", plot.csv())
    return target


def plots_of(folder: RunFolder) -> list[Plot]:
    """Return the figures that the run has data for, not drawn yet.

    Raises:
        FormatError: A file of the run is damaged.
    """
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
