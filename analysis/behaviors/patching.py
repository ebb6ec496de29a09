"""Patched runs: which model is run, from which model's activations, and which part of the change is added or removed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from .change_decomposition import Change, Part

REFERENCE, INTERVENED = 0, 1


@dataclass(frozen=True)
class PatchedRun:
    """A model run forward from its hookpoint, starting from the activations of one of the two models."""

    model: int
    start: int
    part: Part | None = None
    sign: int = 1
    """Sign of the part: 1 inserts it, -1 removes it."""

    constant: Float[Tensor, " d_model"] | None = None
    """Added at every token that the dictionary reads."""

    reconstructed: bool = False
    """Whether to start from the dictionary's reconstruction of the activations."""

    @property
    def is_unchanged(self) -> bool:
        """Whether this is an unpatched model."""
        return self.start == self.model and not self.needs_change and self.constant is None

    @property
    def needs_change(self) -> bool:
        """Whether the activations of both models are needed."""
        return self.part is not None or self.reconstructed


def unchanged(model: int) -> PatchedRun:
    """Return the run of an unpatched model."""
    return PatchedRun(model, model)


def starting_point(
    run: PatchedRun,
    activations: Sequence[Float[Tensor, "row token _"]],
    kept: Bool[Tensor, "row token"],
    change: Callable[[], Change],
) -> Float[Tensor, "row token d_model"]:
    """Return the activations that a run starts from.

    Args:
        activations: Activations of both models.
        kept: The tokens that the dictionary reads.
        change: Returns the change on these tokens; called only if the run needs it.
    """
    start = change().reconstruction(run.start) if run.reconstructed else activations[run.start]
    if run.part is not None:
        start = start.float() + run.sign * change().part(run.part).to(start.device)
    if run.constant is not None:
        start = start.float() + kept.to(start.device)[..., None] * run.constant.to(start.device)
    return start
