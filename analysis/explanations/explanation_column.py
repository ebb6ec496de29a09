"""The columns `evidence` and `explanation` of features.parquet, made anew whenever something that they tell of is.

What a behavior says of a latent comes after the analysis, and so do further rules. So an explanation is never edited: what analysis
observes stays in the column `observation`, and everything else is told from its own file each time.
"""

import pyarrow as pa
import pyarrow.parquet as pq

from crosscoder.errors import FormatError
from crosscoder.run.folder import RunFolder

from ..behaviors.behavior_files import evidence_by_latent, load_behaviors
from ..tables.parquet import write_parquet
from .evidence_words import doubt_sentence, evidence_sentence, rule_sentence
from .explanation_files import read_rules

_TOLD_OF = ("latent", "label", "template_share", "q_value", "seed_stability", "n_tokens", "observation")


def require_observations(folder: RunFolder) -> None:
    """Raise FormatError where the analysis of an earlier release is there, whose explanations cannot be told anew."""
    if folder.features.is_file() and "observation" not in pq.read_schema(folder.features).names:
        raise FormatError(f"{folder.features}: no column observation; run crosscoder analyze again")


def tell_explanations(folder: RunFolder) -> None:
    """Set both columns from what the run holds now; nothing without an analysis.

    Raises `FormatError` where a file of the run is damaged or of an earlier release.
    """
    if not folder.features.is_file():
        return
    require_observations(folder)
    table = pq.read_table(folder.features)
    levels, behaviors, rules = evidence_by_latent(folder), load_behaviors(folder), read_rules(folder)
    without_tokens = folder.read_config().pair is None
    told = []
    for row in table.select(_TOLD_OF).to_pylist():
        parts = [row["observation"]]
        if row["n_tokens"]:
            parts += [
                rule_sentence(rules.get(row["latent"])),
                evidence_sentence(row["latent"], behaviors),
                doubt_sentence(row, without_tokens),
            ]
        told.append(" ".join(part for part in parts if part))
    columns = {
        "evidence": [levels.get(latent, "observed") for latent in table["latent"].to_pylist()],
        "explanation": told,
    }
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    write_parquet(folder.features, table)
