"""Writes features.parquet.

`analyze` measures most columns. Two depend on files that other verbs write later: `evidence` on the behaviors, and `explanation` on the
column `observation`, the rules and the behaviors. A verb that changes these files calls `write_features`, which recomputes both columns.
"""

import pyarrow as pa
import pyarrow.parquet as pq

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from .behaviors.behavior_files import evidence_by_latent, load_behaviors
from .explanations.evidence_words import caveat_sentence, evidence_sentence, rule_sentence
from .explanations.explanation_files import read_rules
from .tables.parquet import read_table, write_parquet

_EXPLAINED_BY = (
    "latent",
    "label",
    "template_share",
    "q_value",
    "seed_stability",
    "n_tokens",
    "observation",
)


def read_features(folder: RunFolder) -> pa.Table:
    """Return features.parquet. Raises FormatError if it is missing, damaged, or from an earlier release."""
    require_observations(folder)
    return read_table(folder.features, "analyze")


def write_features(folder: RunFolder, table: pa.Table) -> None:
    """Write RUN/analysis/features.parquet: the columns that `analyze` measured, with `evidence` and `explanation` made anew.

    Raises:
        FormatError: Another file of the run is damaged, or from an earlier release.
    """
    levels, behaviors, rules = evidence_by_latent(folder), load_behaviors(folder), read_rules(folder)
    without_tokens = folder.read_config().pair is None
    explanations = []
    for row in table.select(_EXPLAINED_BY).to_pylist():
        parts = [row["observation"]]
        if row["n_tokens"]:
            parts += [
                rule_sentence(rules.get(row["latent"])),
                evidence_sentence(row["latent"], behaviors),
                caveat_sentence(row, without_tokens),
            ]
        explanations.append(" ".join(part for part in parts if part))
    columns = {
        "evidence": [levels.get(latent, "observed") for latent in table["latent"].to_pylist()],
        "explanation": explanations,
    }
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    write_parquet(folder.features, table)


def require_observations(folder: RunFolder) -> None:
    """Raise FormatError for an analysis of an earlier release, whose explanations cannot be recomputed."""
    if folder.features.is_file() and "observation" not in pq.read_schema(folder.features).names:
        raise FormatError(f"{folder.features}: no column observation; run crosscoder analyze again")
