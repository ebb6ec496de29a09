"""Rules and explanations of latents with their scores: reading and validating the files."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from ..tables.columns import RULES, WRITTEN
from ..tables.parquet import readable

SCORE_KINDS = ("detection", "fuzzing")
"""The scores of an explanation."""

FAMILY_NAMES = {
    "token": "token",
    "previous_token": "previous token",
    "pair": "previous and current token",
    "source": "source",
    "place": "place",
}
"""Names of the families of rules (`token_families`) in text."""


class ExplanationFolder:
    """RUN/explanations."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def table(self) -> Path:
        """One row per latent, author and judge."""
        return self.path / "explanations.parquet"

    @property
    def replies(self) -> Path:
        """Every prompt with its reply."""
        return self.path / "replies.jsonl"

    @property
    def settings(self) -> Path:
        """The settings of the last `explain`."""
        return self.path / "settings.yaml"


def read_explanations(folder: RunFolder) -> dict[int, list[dict[str, Any]]]:
    """Return the rows of explanations.parquet by latent; empty without the file.

    Raises:
        FormatError: The file is damaged or has the columns of another release.
    """
    found: dict[int, list[dict[str, Any]]] = {}
    for row in read_rows(ExplanationFolder(folder.explanations).table, WRITTEN.schema(), "explain"):
        found.setdefault(row["latent"], []).append(row)
    return found


@dataclass(frozen=True)
class RuleScore:
    """A row of rules.parquet; without a rule, `reason` states why and the fields of the rule are None."""

    latent: int
    reason: str | None
    family: str | None
    items: tuple[str, ...]
    negated: bool | None
    text: str | None
    bits_saved: float | None
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None
    activation_auroc: float | None
    activation_auroc_low: float | None
    activation_auroc_high: float | None
    n_firings: int
    """Tokens of the claim set on which the latent fires."""
    n_documents: int
    """Documents of the claim set in which it fires."""
    n_tokens: int
    """All tokens of the claim set."""
    n_firings_found_on: int
    n_documents_found_on: int


def read_rules(folder: RunFolder) -> dict[int, RuleScore]:
    """Return the rules by latent; empty without the file.

    Raises:
        FormatError: The file is damaged or has the columns of another release.
    """
    rows = read_rows(folder.rules, RULES.schema(), "analyze")
    return {row["latent"]: RuleScore(items=tuple(row.pop("items") or ()), **row) for row in rows}


class MeanScores(NamedTuple):
    """Mean scores with the latents' own and with another latent's explanation, over latents that have both."""

    own: float
    control: float
    n: int


def mean_scores(rows: Iterable[Mapping[str, Any]]) -> dict[str, MeanScores]:
    """Return the mean of each kind of score; kinds without scores are omitted."""
    found = {}
    for kind in SCORE_KINDS:
        pairs = [
            (row[kind], row[f"{kind}_control"])
            for row in rows
            if row[kind] is not None and row[f"{kind}_control"] is not None
        ]
        if pairs:
            own, control = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
            found[kind] = MeanScores(own, control, len(pairs))
    return found


def read_rows(path: Path, expected: pa.Schema, verb: str) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file; empty without the file. Raises FormatError if the columns differ from `expected`."""
    if not path.is_file():
        return []
    with readable(path, verb):
        table = pq.read_table(path)
    if not table.schema.equals(expected):
        raise FormatError(f"{path}: its columns are not those of this release; run crosscoder {verb} again")
    return table.to_pylist()
