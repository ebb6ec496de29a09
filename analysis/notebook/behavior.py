"""One behavior of a run: its shift, the table of attributions, and the causal checks, as in the report."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pandas as pd

from crosscoder.errors import FormatError

from ..behaviors.behavior_files import BehaviorFolder, BehaviorResults
from ..report.behavior_schema import BehaviorShift, CausalCheck, Estimate, Explanation
from ..report.behavior_shifts import behavior_shifts
from ..report.phrases import visible
from ..tables.columns import ATTRIBUTION
from .frames import with_nullable_integers
from .markup import behaviors_html


class AttributedBehavior:
    """The results of a run on one behavior."""

    def __init__(self, folder: BehaviorFolder, results: BehaviorResults) -> None:
        self._folder = folder
        self.reported: BehaviorShift = behavior_shifts((results,))[0]
        """The behavior's entry in the report."""

    @property
    def name(self) -> str:
        """Name of the behavior."""
        return self.reported.name

    @property
    def description(self) -> str:
        """Description from its settings."""
        return self.reported.description

    @property
    def unit(self) -> str:
        """Unit of its metric."""
        return self.reported.unit

    @property
    def established(self) -> bool:
        """Whether the shift lies above its noise floor and is as large as its settings require."""
        return self.reported.established

    @property
    def reference(self) -> Estimate:
        """Value of the metric in the reference on held-out prompts, with interval."""
        return self.reported.reference

    @property
    def intervened(self) -> Estimate:
        """Value of the metric in the intervened model on held-out prompts, with interval."""
        return self.reported.intervened

    @property
    def shift(self) -> Estimate:
        """Intervened - reference, with interval."""
        return self.reported.shift

    @property
    def noise_floor(self) -> float:
        """Largest shift that chance explains, in the unit of the metric."""
        return self.reported.floor

    @property
    def sentences(self) -> tuple[str, ...]:
        """The report's sentences on the shift."""
        return tuple(sentence.text for sentence in self.reported.sentences)

    @property
    def explanation(self) -> Explanation | None:
        """Decomposition of the shift; None if no shift is established or its parts cannot be separated."""
        return self.reported.explanation

    @cached_property
    def attribution(self) -> pd.DataFrame:
        """attribution.parquet by latent: shares of the shift with intervals, rank and evidence.

        Raises:
            FormatError: The file does not exist, because no shift is established or its parts cannot be separated.
        """
        return with_nullable_integers(self._read(self._folder.latents), ATTRIBUTION).set_index("latent")

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """Held-out prompts with both models' values, and their first answers if the metric scores answers."""
        return self._read(self._folder.prompts)

    @property
    def checks(self) -> pd.DataFrame:
        """The causal checks, one per row: latents (`all named`, or a number), kind of check, resulting share of the shift with
        interval, and the result of random latents. Empty without an explanation."""
        columns = [
            "latents",
            "check",
            "share",
            "low",
            "high",
            "random_mean",
            "random_largest",
            "n_random",
            "p_value",
            "p_adjusted",
            "made",
            "passed",
        ]
        return pd.DataFrame(list(self._checks()), columns=pd.Index(columns))

    def _checks(self) -> Iterator[dict[str, Any]]:
        found = self.explanation
        if found is None:
            return
        together = {"necessity": found.necessity, "sufficiency": found.sufficiency}
        answers = {
            "necessity in answers": found.answers_necessity,
            "sufficiency in answers": found.answers_sufficiency,
        }
        for kind, check in (together | answers).items():
            if check is not None:
                yield _check("all named", kind, check)
        for latent in found.latents:
            for kind, check in (("necessity", latent.necessity), ("sufficiency", latent.sufficiency)):
                if check is not None:
                    yield _check(latent.latent, kind, check)

    def _read(self, path: Any) -> pd.DataFrame:
        if not path.is_file():
            raise FormatError(
                f"{path}: not found, because no shift of {visible(self.name)} is explained; `sentences` states why"
            )
        return pd.read_parquet(path)

    def __repr__(self) -> str:
        verdict = "established" if self.established else "not established"
        return (
            f"AttributedBehavior({visible(self.name)!r}: shift {self.shift.value:.3g} {self.unit}, {verdict})"
        )

    def _repr_html_(self) -> str:
        return behaviors_html([self.reported])


def _check(latents: int | str, kind: str, check: CausalCheck) -> dict[str, Any]:
    share = check.share
    return {
        "latents": latents, "check": kind, "share": share.value, "low": share.low, "high": share.high,
        "random_mean": check.random_mean, "random_largest": check.random_largest, "n_random": check.n_random,
        "p_value": check.p_value, "p_adjusted": check.p_adjusted, "made": check.made, "passed": check.passed,
    }  # fmt: skip
