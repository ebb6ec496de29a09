"""`controls`: the dictionaries that the claims of a run are measured against."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from .block import Settings


class ControlsConfig(Settings):
    """Further dictionaries that a run's claims are measured against. All but `runs` are trained by the run; each costs one
    training, `identity` and `shuffled` a tenth of one in a long run. In a run with snapshots, seeds are trained on all models and the other
    controls on the reference and the intervened model only: they test whether a latent is new or lost, not when."""

    drift: bool = Field(
        default=True,
        description="null pair: differs as much as the real pair but in no feature; gives the q-values and the expected number of false "
        "labels",
    )
    intermittent: bool = Field(
        default=True,
        description="a second null pair, in which each token differs as much as in the real pair, in directions that repeat no feature: what "
        "is rare and large stays so; q-values take the larger rate of the two",
    )
    identity: bool = Field(
        default=True,
        description="the reference compared with itself: nothing should be found where nothing changed",
    )
    shuffled: bool = Field(
        default=True,
        description="each token of one model paired with a different token of the other: everything should be found where nothing is shared",
    )
    seeds: int = Field(
        default=2,
        ge=0,
        le=100,
        description="trainings from further seeds, each on one half of the training documents; a label that claims a change needs the latent "
        "to be found again by all of them (analysis.rule.replications)",
    )
    difference: bool = Field(
        default=False,
        description="a diff-SAE, to check which claimed directions another method finds, and one trained on a difference without sparse "
        "structure, as its null",
    )
    workers: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None,
        description="controls trained in parallel; null: as many as threads and memory allow, if that is faster (on a CPU, with "
        "activations on disk)",
    )
    runs: tuple[Path, ...] = Field(
        default=(),
        description="finished runs with the same settings on pairs that differ in nothing of interest (e.g. a benign fine-tune), used as "
        "nulls in addition to `drift`",
    )

    @classmethod
    def none(cls) -> Self:
        """Return the settings without any control."""
        return cls(drift=False, intermittent=False, identity=False, shuffled=False, seeds=0)
