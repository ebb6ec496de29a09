"""Survey of a pair before any dictionary: how much and where the predictions differ, which tokens the intervened model prefers,
and how far the activations differ at each layer. It takes full forward passes over held-out documents, and no training.

The survey is the baseline for a dictionary: a change that shows here needs no latents to be found.
"""

from .passes import layer_lines, survey, survey_layers

__all__ = ["layer_lines", "survey", "survey_layers"]
