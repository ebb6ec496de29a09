"""The kinds of fields that a report is made of.

Numbers stand in number fields or in the `numbers` of a `Sentence`, never in words alone. A field of plain `str` holds the report's own
words and no number; text that others wrote is `Quoted`, and a page `Address` leads to the page.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["pass", "fail", "not measured"]
Evidence = Literal["observed", "associated", "causal"]

Quoted = Annotated[str, Field(json_schema_extra={"x-text": "quoted"})]
"""Text from models, data sets, settings and the machine: names, paths, digests, commands, versions, pieces of documents."""

Address = Annotated[str, Field(json_schema_extra={"x-text": "address"})]
"""A link, relative to the folder of the report."""

Retold = Annotated[str, Field(json_schema_extra={"x-text": "retold"})]
"""A sentence that an earlier stage wrote; the numbers it was made from are in `numbers` beside it."""

Count = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class ReportPart(BaseModel):
    """Base of everything in a report: frozen, and a key that is not known is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        # What is written is complete: null, not absence, stands for what was not measured.
        json_schema_serialization_defaults_required=True,
    )
