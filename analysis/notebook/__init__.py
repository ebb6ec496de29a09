"""Access to a run from a notebook: `Run.load(path)`, with tables as pandas and HTML for display."""

from .behavior import AttributedBehavior
from .latent import Example, Latent, Number
from .run import Run

__all__ = ["AttributedBehavior", "Example", "Latent", "Number", "Run"]
