"""`controls`: what the claims of a run are measured against."""

from pathlib import Path

from pydantic import Field

from .block import Count, Settings


class ControlsConfig(Settings):
    """Other dictionaries that a run's claims are measured against. All but `runs` are trained beside the run's own; each costs a
    training, `identity` and `shuffled` a tenth of one. Of a run with snapshots, seeds read all models, as another run would; the
    other controls read its two ends alone, so that they bear on what is new or lost at the end, not on when."""

    drift: bool = Field(
        default=True,
        description="a null: a pair that differs as much and in no feature; from it come the q-values and the number of false "
        "labels to expect",
    )
    identity: bool = Field(
        default=True,
        description="the reference against itself: whether anything is found where nothing changed",
    )
    shuffled: bool = Field(
        default=True,
        description="tokens of one model beside other tokens of the other: whether everything is found where nothing is shared",
    )
    seeds: int = Field(
        default=0,
        ge=0,
        description="further seeds, to see which latents are found again; 2 or more say something",
    )
    difference: bool = Field(
        default=False,
        description="a diff-SAE, to see which claimed directions another method finds, and one on a difference without structure, "
        "to see whether to believe it",
    )
    workers: Count | None = Field(
        default=None,
        description="controls trained side by side; none: as many as threads and memory allow, where it is worth it (on a CPU, "
        "from activations on disk)",
    )
    runs: tuple[Path, ...] = Field(
        default=(),
        description="finished runs of the same recipe on pairs whose change carries nothing of interest (a benign fine-tuning): "
        "nulls beside `drift`",
    )
