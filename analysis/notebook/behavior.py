"""One behavior of a run: its shift, the table of attributions, and the checks, as the report tells them."""

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
from .frames import with_types
from .markup import behaviors_html


class AttributedBehavior:
    """What a run knows of one behavior."""

    def __init__(self, place: BehaviorFolder, results: BehaviorResults) -> None:
        self._place = place
        self.told: BehaviorShift = behavior_shifts((results,))[0]
        """What the report says of it."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.told.name

    @property
    def description(self) -> str:
        """What it is, in the words of its settings."""
        return self.told.description

    @property
    def unit(self) -> str:
        """Unit of its metric."""
        return self.told.unit

    @property
    def established(self) -> bool:
        """Whether there is a shift above its noise floor, and as large as its settings ask for."""
        return self.told.established

    @property
    def reference(self) -> Estimate:
        """The metric in the reference, on held-out prompts, with its interval."""
        return self.told.reference

    @property
    def intervened(self) -> Estimate:
        """The metric in the intervened model."""
        return self.told.intervened

    @property
    def shift(self) -> Estimate:
        """Their difference."""
        return self.told.shift

    @property
    def noise_floor(self) -> float:
        """What chance reaches."""
        return self.told.floor

    @property
    def sentences(self) -> tuple[str, ...]:
        """The same in words, no stronger than the evidence."""
        return tuple(sentence.text for sentence in self.told.sentences)

    @property
    def explanation(self) -> Explanation | None:
        """Where the shift comes from; None where none is established, or its parts cannot be told apart."""
        return self.told.explanation

    @cached_property
    def attribution(self) -> pd.DataFrame:
        """attribution.parquet by latent: shares of the shift with intervals, rank and evidence.

        Raises `FormatError` where there is none: no shift is established, or its parts cannot be told apart.
        """
        return with_types(self._read(self._place.latents), ATTRIBUTION).set_index("latent")

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """The held-out prompts with both models' values, and their first answers where the metric is of answers."""
        return self._read(self._place.prompts)

    @property
    def checks(self) -> pd.DataFrame:
        """The causal checks, a row each: of which latents (`all named`, or a number), which check, what goes with them as a share of
        the shift, and what random latents reach. Empty where nothing is explained."""
        columns = [
            "latents",
            "check",
            "share",
            "low",
            "high",
            "random_largest",
            "n_random",
            "p_value",
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
                f"{path}: not there, as no shift of {visible(self.name)} is explained; see `sentences` for why"
            )
        return pd.read_parquet(path)

    def __repr__(self) -> str:
        verdict = "established" if self.established else "not established"
        return (
            f"AttributedBehavior({visible(self.name)!r}: shift {self.shift.value:.3g} {self.unit}, {verdict})"
        )

    def _repr_html_(self) -> str:
        return behaviors_html([self.told])


def _check(latents: int | str, kind: str, check: CausalCheck) -> dict[str, Any]:
    share = check.share
    return {
        "latents": latents, "check": kind, "share": share.value, "low": share.low, "high": share.high,
        "random_largest": check.random_largest, "n_random": check.n_random, "p_value": check.p_value, "passed": check.passed,
    }  # fmt: skip
