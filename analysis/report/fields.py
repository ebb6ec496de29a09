"""The types of fields in a report.

Numbers are in number fields or in the `numbers` of a `Sentence`, never only in words. A field of plain `str` has the report's own
words and no number; text from elsewhere is `Quoted`, and a link is an `Address`.
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
"""A sentence that an earlier stage wrote; its numbers are in the field `numbers` of the same object."""

Count = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class ReportPart(BaseModel):
    """Base class of the parts of a report: frozen, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        # Written reports are complete: what was not measured is null, not absent.
        json_schema_serialization_defaults_required=True,
    )
