"""A run as a notebook holds it: `Run.load(path)`, with tables as pandas and pictures of its own."""

from .behavior import AttributedBehavior
from .latent import Example, Latent, Number
from .run import Run

__all__ = ["AttributedBehavior", "Example", "Latent", "Number", "Run"]
