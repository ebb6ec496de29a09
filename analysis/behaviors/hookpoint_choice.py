"""Which decoder layer a dictionary should read, where the settings leave it open.

The residual stream at the last layer carries every change, but says little about where it comes from; below the layers that make the
change there is nothing to explain. So the layer is the earliest at which most of a behavior's shift is represented.
"""

from typing import Any, NamedTuple

from crosscoder.config import TokenPolicy
from crosscoder.config.behavior import Behavior
from crosscoder.language_models.decoder_layers import find_decoder_layers
from crosscoder.language_models.pair import ModelPair

from .layers import patch_layers
from .logit_metrics import build_metric
from .prompts import read_prompts, split

LEAST_REPRESENTED = 0.8
"""Share of the shift that counts as most of it."""

_SHARE_OF_DEPTH = (2, 3)


class LayerChoice(NamedTuple):
    """The layer that a dictionary should read."""

    hookpoint: str
    why: str
    """One clause, with its numbers."""

    layers: list[dict[str, Any]] | None
    """Of each layer the share of the shift that is represented there, as in attribution.json; None if no behavior decided."""


def choose_layer(pair: ModelPair, behavior: Behavior | None, policy: TokenPolicy) -> LayerChoice:
    """Return the earliest decoder layer at which most of the shift of a behavior is represented; without one, two thirds of the depth.

    The find set of the behavior decides, so that its claim set stays fresh.

    Args:
        pair: Its hookpoint is a decoder layer.

    Raises:
        ConfigError, DataError, FormatError: Prompts or metric cannot be used.
    """
    found = find_decoder_layers(pair.models[0])
    assert found is not None, "the hookpoint of the pair is a decoder layer"
    path, n_layers = found
    if behavior is None or behavior.gradient_metric is None:
        return _by_depth(path, n_layers, "no behavior was found that a gradient can explain")
    if pair.readers is not None or len(set(pair.d_models[:2])) > 1:
        return _by_depth(path, n_layers, "the two models share no space, so that no layer can be patched")
    prompts = read_prompts(behavior, pair)
    held_out = split(len(prompts), behavior.held_out, behavior.seed)
    finds = [prompt for prompt, held in zip(prompts, held_out, strict=True) if not held]
    metric = build_metric(behavior.gradient_metric, pair.tokenizer)
    layers = patch_layers(pair, metric, finds, policy, behavior.shift.confidence, behavior.seed)
    for entry in layers or ():
        share = entry["represented"]["value"]
        if share is not None and share >= LEAST_REPRESENTED:
            why = f"the earliest layer at which at least {LEAST_REPRESENTED:.0%} of the shift of {behavior.name} is present: {share:.1%}"
            return LayerChoice(f"{path}.{entry['layer']}", why, layers)
    return _by_depth(
        path, n_layers, f"no layer carries {LEAST_REPRESENTED:.0%} of the shift of {behavior.name}"
    )


def _by_depth(path: str, n_layers: int, because: str) -> LayerChoice:
    part, whole = _SHARE_OF_DEPTH
    return LayerChoice(
        f"{path}.{n_layers * part // whole}", f"two thirds of the depth, a rule of thumb: {because}", None
    )
