"""The other dictionaries of a run (`crosscoder.controls`), trained by the same recipe.

Each is a run folder of its own without a harvest: it reads the tokens of the run that it belongs to.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self, assert_never

from jaxtyping import Float
from torch import Tensor

from crosscoder.activations import ActivationReader, have_difference
from crosscoder.changes import Change, ChangedReader, Coarser, Mixed, Shuffled
from crosscoder.config import RunConfig
from crosscoder.controls import Control, controls_of
from crosscoder.drift import Drift
from crosscoder.errors import ConfigError
from crosscoder.folder import RunFolder

from .beside import train_beside
from .sources import SourceState, TokenSource


class ChangedSource:
    """The tokens of another source, seen as those of another pair."""

    def __init__(self, source: TokenSource, change: Change) -> None:
        self.d_models, self.n_train_tokens = change.widths(source.d_models), source.n_train_tokens
        self._source, self._change = source, change

    def batches(
        self, batch_tokens: int, state: SourceState | None = None
    ) -> Iterator[tuple[Float[Tensor, "token width"], SourceState]]:
        """See `TokenSource.batches`."""
        for values, after in self._source.batches(batch_tokens, state):
            yield self._change.apply(values), after

    def sample(self, n_tokens: int) -> Float[Tensor, "token width"]:
        """See `TokenSource.sample`."""
        return self._change.apply(self._source.sample(n_tokens))

    def held_out(self) -> ActivationReader:
        """See `TokenSource.held_out`."""
        return ChangedReader(self._source.held_out(), self._change)

    def reordered(self, seed: int) -> Self:
        """See `TokenSource.reordered`."""
        return type(self)(self._source.reordered(seed), self._change)


class Trained(NamedTuple):
    """A control and what its dictionary explains of held-out tokens."""

    name: str
    evaluation: dict[str, float | None]


def train_controls(folder: RunFolder, config: RunConfig, source: TokenSource) -> list[Trained]:
    """Train the controls that the settings ask for, one after the other; those that are finished are left as they are."""
    trained = []
    for control in controls_of(config, folder.path):
        own = train_beside(control.config, _seen_by(control, source), {"control": control.name})
        trained.append(Trained(control.name, own.read_manifest()["evaluation"]))
    return trained


def _seen_by(control: Control, source: TokenSource) -> TokenSource:
    """What a control reads of the tokens of its run."""
    d_models, own = source.d_models, RunFolder(control.config.output)
    match control.kind:
        case "seed":
            return source.reordered(control.config.seed)
        case "difference" | "difference_mixed":
            if not have_difference(d_models):
                raise ConfigError(
                    f"controls.difference: needs two models of equal width, found widths {d_models}; switch it off"
                )
            reordered = source.reordered(control.config.seed)
            return reordered if control.kind == "difference" else ChangedSource(reordered, Mixed(d_models))
        case "identity":
            return ChangedSource(source, Coarser(d_models))
        case "shuffled":
            return ChangedSource(source, Shuffled(d_models))
        case "drift":
            if own.drift.exists():
                return ChangedSource(source, Drift.load(own.drift))
            drift = Drift.fit(
                source.sample(control.config.training.calibration_tokens), d_models, control.config.seed
            )
            drift.save(own.drift)
            return ChangedSource(source, drift)
        case _:
            assert_never(control.kind)
