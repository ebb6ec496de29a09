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


def write_features(folder: RunFolder, measured: pa.Table | None = None) -> None:
    """Write RUN/analysis/features.parquet.

    Args:
        measured: The columns that `analyze` measured; default: those of the existing file.

    Raises:
        FormatError: A file of the run is damaged, or from an earlier release.
    """
    if measured is None:
        require_observations(folder)
    table: pa.Table = read_table(folder.features, "analyze") if measured is None else measured
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
