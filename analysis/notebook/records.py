"""The data that notebook HTML is rendered from: examples, latents, runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float32

from ..report.behavior_schema import BehaviorShift
from ..report.wording import Sentence


class Number(NamedTuple):
    """A number of a latent; None if not measured."""

    value: float | int | None
    low: float | None = None
    """Lower bound of its interval, if it has one."""
    high: float | None = None
    """Upper bound of its interval, if it has one."""


@runtime_checkable
class ExampleRecord(Protocol):
    """A passage of a document in which a latent fires; see `latent.Example` for the fields."""

    @property
    def source(self) -> str: ...
    @property
    def document(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def quantile(self) -> float | None: ...
    @property
    def peak(self) -> float: ...
    @property
    def tokens(self) -> tuple[str, ...]: ...
    @property
    def special(self) -> tuple[bool, ...]: ...
    @property
    def template(self) -> tuple[bool, ...]: ...
    @property
    def values(self) -> Float32[np.ndarray, " token"]: ...
    @property
    def reference(self) -> Float32[np.ndarray, " token"]: ...
    @property
    def intervened(self) -> Float32[np.ndarray, " token"]: ...


class LatentRecord(NamedTuple):
    """One latent; see `latent.Latent` for the fields."""

    latent: int
    label: str
    evidence: str
    reason: str
    explanation: str
    numbers: Mapping[str, Number]
    examples: Sequence[ExampleRecord]
    logits: Mapping[str, pd.DataFrame]


class RunRecord(NamedTuple):
    """A run; see `run.Run` for the fields."""

    path: Path
    summary: dict[str, Any] | None
    """None if the run is not analyzed."""
    behaviors: Sequence[BehaviorShift] = ()
    sentences: Sequence[Sentence] = ()
    """The summary of its report."""
