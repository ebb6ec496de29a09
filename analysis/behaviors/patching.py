"""Which model is run, from whose activations, and with what part of the change put in or taken out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from .change_decomposition import Change, Part

REFERENCE, INTERVENED = 0, 1


@dataclass(frozen=True)
class PatchedRun:
    """The layers of one model above its hookpoint, run from what stands there in one of the two models."""

    model: int
    start: int
    part: Part | None = None
    sign: int = 1
    """Of the part: 1 puts it in, -1 takes it out."""

    constant: Float[Tensor, " d_model"] | None = None
    """Added to every token that the dictionary reads."""

    reconstructed: bool = False
    """Start from what the dictionary rebuilds of the activations."""

    @property
    def is_unchanged(self) -> bool:
        """Whether this is a model as it is."""
        return self.start == self.model and not self.needs_change and self.constant is None

    @property
    def needs_change(self) -> bool:
        """Whether the activations of both models are needed."""
        return self.part is not None or self.reconstructed


def unchanged(model: int) -> PatchedRun:
    """A model as it is."""
    return PatchedRun(model, model)


def starting_point(
    run: PatchedRun,
    activations: Sequence[Float[Tensor, "row token _"]],
    kept: Bool[Tensor, "row token"],
    change: Callable[[], Change],
) -> Float[Tensor, "row token d_model"]:
    """The activations that a run starts from.

    Args:
        activations: Of both models.
        kept: The tokens that the dictionary reads.
        change: The change on these tokens; asked for only where the run needs it.
    """
    start = change().reconstruction(run.start) if run.reconstructed else activations[run.start]
    if run.part is not None:
        start = start.float() + run.sign * change().part(run.part).to(start.device)
    if run.constant is not None:
        start = start.float() + kept.to(start.device)[..., None] * run.constant.to(start.device)
    return start
