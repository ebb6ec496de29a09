"""A finished run for use in a notebook. Loads files on demand and writes none."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from crosscoder.config import RunConfig
from crosscoder.errors import ConfigError, did_you_mean
from crosscoder.run.folder import RunFolder

from ..behaviors.behavior_files import LEVELS, behavior_folders, load_behaviors
from ..plots.stage import plots_of
from ..report.content import short_names
from ..report.label_conditions import is_withheld
from ..report.render import read_report
from ..report.schema import Report
from ..tables.analysis_files import LABELS, AnalysisResults, load_results
from ..tables.columns import FEATURES
from ..tables.metrics_log import read_metrics
from .behavior import AttributedBehavior
from .frames import with_nullable_integers
from .latent import Latent
from .markup import run_html
from .records import RunRecord

if TYPE_CHECKING:
    from crosscoder.dictionary.crosscoder import Crosscoder


class Run:
    """A run: `Run.load("runs/demo")`."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        """Paths of the run's files."""

    @classmethod
    def load(cls, path: str | Path) -> "Run":
        """Open the run at `path`. Raises ConfigError if there is none."""
        return cls(RunFolder.open(Path(path)))

    @property
    def config(self) -> RunConfig:
        """Settings of the run."""
        return self.folder.read_config()

    @cached_property
    def _results(self) -> AnalysisResults:
        return load_results(self.folder)

    @cached_property
    def features(self) -> pd.DataFrame:
        """features.parquet, one row per latent, indexed by latent number.

        `label` and `evidence` are categoricals in their defined order; nullable integers are pandas' `Int32`; other columns are floats, NaN for
        null, or text. `docs/reference/columns.md` describes the columns.

        Raises:
            FormatError: The run is not analyzed.
        """
        table: Any = with_nullable_integers(self._results.features, FEATURES).set_index("latent")
        table["label"] = pd.Categorical(table["label"], LABELS)
        table["evidence"] = pd.Categorical(table["evidence"], LEVELS, ordered=True)
        return table

    def latent(self, latent: int) -> Latent:
        """Return one latent. Raises ConfigError if the number is out of range."""
        n_latents = len(self._results.features)
        if not 0 <= latent < n_latents:
            raise ConfigError(
                f"latent: {latent} is out of range; the dictionary has latents 0 to {n_latents - 1}"
            )
        return Latent(int(latent), self._results)

    def examples(self, latents: Iterable[int] | None = None) -> pd.DataFrame:
        """Return examples.parquet for some latents, or all: one row per example, with lists over its tokens."""
        return self._results.examples(latents).to_pandas()

    def logits(self, latents: Iterable[int] | None = None) -> pd.DataFrame:
        """Return logits.parquet for some latents, or all: one row per top or bottom token."""
        return self._results.logits(latents).to_pandas()

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json: counts per label with intervals, quality of the dictionary, results of the controls."""
        return self._results.summary

    @cached_property
    def behaviors(self) -> dict[str, AttributedBehavior]:
        """All attributed behaviors by name."""
        found = zip(behavior_folders(self.folder), load_behaviors(self.folder), strict=True)
        return {results.name: AttributedBehavior(place, results) for place, results in found}

    @property
    def report(self) -> Report | None:
        """The report as data; None if not written yet. Raises FormatError if another release wrote it."""
        return read_report(self.folder) if (self.folder.report / "report.json").is_file() else None

    @cached_property
    def dictionary(self) -> "Crosscoder":
        """The trained dictionary, on the CPU."""
        from crosscoder.dictionary.storage import load_crosscoder

        return load_crosscoder(self.folder.crosscoder)

    def sae(self, model: str, *, alone: bool = True) -> Any:
        """Return an SAE of SAELens on the raw activations of one model; see `crosscoder.sae`, also for what it raises."""
        from crosscoder.dictionary.dialects.saelens_views import sae

        return sae(self.folder, model, alone=alone)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """metrics.jsonl, one row per line. Raises FormatError if it is missing."""
        return read_metrics(self.folder)

    @property
    def plots(self) -> tuple[str, ...]:
        """Names of the figures that the run has data for. Raises ResourceError if matplotlib is not installed."""
        return tuple(plot.name for plot in plots_of(self.folder))

    def plot(self, name: str) -> Any:
        """Return a figure by name, as a matplotlib `Figure`.

        Raises:
            ConfigError: The run has no figure of that name.
            ResourceError: matplotlib is not installed.
        """
        known = {plot.name: plot for plot in plots_of(self.folder)}
        if name not in known:
            raise ConfigError(
                f"plot: the run has no figure {name!r}{did_you_mean(name, known)}; it has {', '.join(known) or 'none'}"
            )
        return known[name].figure()

    @property
    def analyzed(self) -> bool:
        """Whether the run is analyzed."""
        return self.folder.summary.is_file()

    def __repr__(self) -> str:
        path = str(self.folder.path)
        if not self.analyzed:
            return f"Run({path!r}: not analyzed)"
        counts = {label: entry["count"] for label, entry in self.summary["counts"].items() if entry["count"]}
        labels = ", ".join(f"{counts[label]:,} {label}" for label in LABELS if label in counts)
        if is_withheld(self.summary):
            labels = "nothing is labeled, because the run missed a condition"
        return f"Run({path!r}: {' → '.join(short_names(self.summary))}; {labels})"

    def _repr_html_(self) -> str:
        if not self.analyzed:
            return run_html(RunRecord(self.folder.path, None))
        behaviors = [behavior.reported for behavior in self.behaviors.values()]
        report = self.report
        sentences = () if report is None else tuple(headline.text for headline in report.summary)
        return run_html(RunRecord(self.folder.path, self.summary, behaviors, sentences))
