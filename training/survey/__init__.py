"""What two models differ in before any dictionary: how much their predictions differ and where, which tokens the intervened
model prefers, and at which layers their activations part. Some whole forward passes over held-out documents, no training.

A dictionary has to add to this: what is plain here needs no latent to be seen.
"""

from .passes import layer_lines, survey, survey_layers

__all__ = ["layer_lines", "survey", "survey_layers"]
