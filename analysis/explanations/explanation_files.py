"""What was said of latents and how well it holds, read back and checked."""

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

WAYS = ("detection", "fuzzing")
"""How explanations are scored."""

FAMILY_NAMES = {
    "token": "token",
    "previous_token": "previous token",
    "pair": "previous and current token",
    "source": "source",
    "place": "place",
}
"""Of the families of rules (`token_families`), in words."""


class WrittenFolder:
    """RUN/explanations."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def table(self) -> Path:
        """One row a latent, author and judge."""
        return self.path / "explanations.parquet"

    @property
    def replies(self) -> Path:
        """Every prompt with its reply."""
        return self.path / "replies.jsonl"

    @property
    def settings(self) -> Path:
        """The settings of the last `explain`."""
        return self.path / "settings.yaml"


def read_written(folder: RunFolder) -> dict[int, list[dict[str, Any]]]:
    """Rows of explanations.parquet by latent; none for a run without.

    Raises `FormatError` where the file is damaged or of another release.
    """
    found: dict[int, list[dict[str, Any]]] = {}
    for row in read_rows(WrittenFolder(folder.explanations).table, WRITTEN.schema(), "explain"):
        found.setdefault(row["latent"], []).append(row)
    return found


@dataclass(frozen=True)
class RuleScore:
    """A row of rules.parquet; without a rule, `reason` says why, and what belongs to the rule is None."""

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
    """Tokens on which it fires in the documents that it is scored on."""
    n_documents: int
    """Documents of those in which it fires."""
    n_tokens: int
    """Tokens of those documents and of the others that it is scored on."""
    n_firings_found_on: int
    n_documents_found_on: int


def read_rules(folder: RunFolder) -> dict[int, RuleScore]:
    """Rules by latent; none for a run without.

    Raises `FormatError` where the file is damaged or of another release.
    """
    rows = read_rows(folder.rules, RULES.schema(), "analyze")
    return {row["latent"]: RuleScore(items=tuple(row.pop("items") or ()), **row) for row in rows}


class MeanScores(NamedTuple):
    """Over the latents that have both: with their own explanation, and with that of another latent."""

    own: float
    control: float
    n: int


def mean_scores(rows: Iterable[Mapping[str, Any]]) -> dict[str, MeanScores]:
    """By way of scoring; one that no latent was scored by is left out."""
    found = {}
    for way in WAYS:
        pairs = [
            (row[way], row[f"{way}_control"])
            for row in rows
            if row[way] is not None and row[f"{way}_control"] is not None
        ]
        if pairs:
            own, control = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
            found[way] = MeanScores(own, control, len(pairs))
    return found


def read_rows(path: Path, expected: pa.Schema, verb: str) -> list[dict[str, Any]]:
    """Rows of a Parquet file with exactly these columns; none where there is no file."""
    if not path.is_file():
        return []
    with readable(path, verb):
        table = pq.read_table(path)
    if not table.schema.equals(expected):
        raise FormatError(f"{path}: not the columns of this release; run crosscoder {verb} again")
    return table.to_pylist()
