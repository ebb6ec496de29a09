"""Requirements that a run must meet, as settings: `crosscoder report RUN --require FILE`.

    comparability: {common_frame: {at_most: 0.02}}
    validity: {specificity: {verdict: pass}, robustness: {at_least: 0.8}}

A requirement demands the report's own verdict or limits the measured value. A value that was not measured fails. Nothing here imports
torch.
"""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from . import Settings


class Demand(Settings):
    """What one requirement demands of its value and verdict."""

    verdict: Literal["pass"] | None = Field(
        default=None, description="pass: the report's own verdict, by its own threshold, must be pass"
    )
    at_most: float | None = Field(default=None, description="largest accepted value")
    at_least: float | None = Field(default=None, description="smallest accepted value")

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if self.verdict is None and self.at_most is None and self.at_least is None:
            raise ValueError("demands nothing; give verdict: pass, at_most or at_least")
        return self

    def fulfilled_by(self, value: float | None, verdict: str) -> bool:
        """Whether a measured value and the report's verdict meet the demand; a missing value meets no limit."""
        limited = self.at_most is not None or self.at_least is not None
        if limited and value is None:
            return False
        return (
            (self.verdict is None or verdict == self.verdict)
            and (self.at_most is None or value is None or value <= self.at_most)
            and (self.at_least is None or value is None or value >= self.at_least)
        )

    def __str__(self) -> str:
        named = (("at least", self.at_least), ("at most", self.at_most))
        limits = [f"{name} {bound:g}" for name, bound in named if bound is not None]
        return " and ".join(([self.verdict] if self.verdict else []) + limits)


_DEMAND = "what this requirement demands; null: nothing"


class Comparability(Settings):
    """Can the two models be compared?"""

    contract: Demand | None = Field(default=None, description=_DEMAND)
    common_frame: Demand | None = Field(default=None, description=_DEMAND)
    change: Demand | None = Field(default=None, description=_DEMAND)


class Validity(Settings):
    """Is the explanation of the change correct?"""

    faithfulness: Demand | None = Field(default=None, description=_DEMAND)
    specificity: Demand | None = Field(default=None, description=_DEMAND)
    robustness: Demand | None = Field(default=None, description=_DEMAND)


class Actionability(Settings):
    """Can someone act on the explanation?"""

    lever: Demand | None = Field(default=None, description=_DEMAND)
    legibility: Demand | None = Field(default=None, description=_DEMAND)


class Monitoring(Settings):
    """Would a later or an unexplained change be noticed?"""

    trajectory: Demand | None = Field(default=None, description=_DEMAND)
    coverage: Demand | None = Field(default=None, description=_DEMAND)


class Requirements(Settings):
    """What a run demands of each requirement that the report measures."""

    comparability: Comparability = Field(
        default=Comparability(), description="whether the two models can be compared"
    )
    validity: Validity = Field(
        default=Validity(), description="whether the explanation of the change is correct"
    )
    actionability: Actionability = Field(
        default=Actionability(), description="whether someone can act on the explanation"
    )
    monitoring: Monitoring = Field(
        default=Monitoring(), description="whether a later or an unexplained change would be noticed"
    )

    def demands(self) -> Iterator[tuple[str, Demand]]:
        """Yield `(family.name, demand)` for every requirement that is set."""
        for family in type(self).model_fields:
            block = getattr(self, family)
            for name in type(block).model_fields:
                demand = getattr(block, name)
                if demand is not None:
                    yield f"{family}.{name}", demand
