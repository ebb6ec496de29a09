"""What behaviors say of latents, in the column `evidence` of features.parquet."""

import pyarrow as pa
import pyarrow.parquet as pq

from crosscoder.folder import RunFolder

from ..tables import write_parquet
from .results import evidence_by_latent


def merge_evidence(folder: RunFolder) -> None:
    """Set the column to the strongest evidence of any behavior, `observed` where there is none; nothing without an analysis."""
    if not folder.features.is_file():
        return
    table = pq.read_table(folder.features)
    found = evidence_by_latent(folder)
    levels = [found.get(latent, "observed") for latent in table["latent"].to_pylist()]
    column = pa.array(levels, type=table.schema.field("evidence").type)
    index = table.schema.get_field_index("evidence")
    write_parquet(folder.features, table.set_column(index, table.schema.field("evidence"), column))
