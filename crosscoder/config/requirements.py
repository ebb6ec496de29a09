"""What a run has to fulfill before it is released, as settings: `crosscoder report RUN --require FILE`.

    comparability: {common_frame: {at_most: 0.02}}
    validity: {specificity: {verdict: pass}, robustness: {at_least: 0.8}}

The report's own verdict, or a limit of one's own on the value. What is not measured is not fulfilled. Nothing here imports torch.
"""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from . import Settings


class Demand(Settings):
    """What one requirement has to be."""

    verdict: Literal["pass"] | None = Field(
        default=None, description="pass: as the report judges it, by its own threshold"
    )
    at_most: float | None = Field(default=None, description="the largest value that is accepted")
    at_least: float | None = Field(default=None, description="the smallest value that is accepted")

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.verdict is None and self.at_most is None and self.at_least is None:
            raise ValueError("asks for nothing; give verdict: pass, at_most or at_least")
        return self

    def fulfilled_by(self, value: float | None, verdict: str) -> bool:
        """Whether a measured value and the report's verdict are what is asked; a value that is missing is within no limit."""
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


_ANY = "what the requirement of this name has to be; left out: nothing is asked"


class Comparability(Settings):
    """Can the two models be compared?"""

    contract: Demand | None = Field(default=None, description=_ANY)
    common_frame: Demand | None = Field(default=None, description=_ANY)
    change: Demand | None = Field(default=None, description=_ANY)


class Validity(Settings):
    """Is what is said of the change so?"""

    faithfulness: Demand | None = Field(default=None, description=_ANY)
    specificity: Demand | None = Field(default=None, description=_ANY)
    robustness: Demand | None = Field(default=None, description=_ANY)


class Actionability(Settings):
    """Can somebody act on it?"""

    lever: Demand | None = Field(default=None, description=_ANY)
    legibility: Demand | None = Field(default=None, description=_ANY)


class Monitoring(Settings):
    """Would a later or an unexplained change be noticed?"""

    trajectory: Demand | None = Field(default=None, description=_ANY)
    coverage: Demand | None = Field(default=None, description=_ANY)


class Requirements(Settings):
    """What is asked of each of the requirements that the report measures."""

    comparability: Comparability = Comparability()
    validity: Validity = Validity()
    actionability: Actionability = Actionability()
    monitoring: Monitoring = Monitoring()

    def demands(self) -> Iterator[tuple[str, Demand]]:
        """Everything that is asked, by `family.name`."""
        for family in type(self).model_fields:
            block = getattr(self, family)
            for name in type(block).model_fields:
                demand = getattr(block, name)
                if demand is not None:
                    yield f"{family}.{name}", demand
