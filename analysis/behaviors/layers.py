"""Which layer carries how much of a shift: each layer's activations exchanged between the models, with no dictionary."""

from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from crosscoder.config import TokenPolicy
from crosscoder.language_models.pair import ModelPair

from .activations import PromptActivations
from .attribution import PatchingCorners
from .measurement import LogitMeasurement
from .metrics import LogitMetric
from .patching import INTERVENED, REFERENCE, PatchedRun, unchanged
from .prompt_statistics import Resamples, Values
from .prompts import Prompt, batches

PROMPTS = 12
"""Prompts that layers are compared on, at most: each layer is a few passes over all of them."""


def patch_layers(
    pair: ModelPair,
    metric: LogitMetric,
    prompts: Sequence[Prompt],
    policy: TokenPolicy,
    confidence: float,
    seed: int,
) -> list[dict[str, Any]] | None:
    """For the output of every decoder layer the share of the shift that stands there, and the share that is done above it.

    None where the hookpoint is no decoder layer, so that there is no list of them, or the two models' layers do not correspond.
    """
    layer, other = pair.layer(0), pair.layer(1)
    models: list[Any] = list(pair.models[:2])
    n_layers = models[0].config.num_hidden_layers
    if layer is None or layer != other or n_layers != models[1].config.num_hidden_layers:
        return None
    parent = pair.hookpoints[0].rpartition(".")[0]
    rows = metric.rows(prompts[:: max(1, -(-len(prompts) // PROMPTS))])
    resamples = Resamples(1 + max(row.prompt for row in rows), confidence, seed)
    paths = [f"{parent}.{index}" for index in range(n_layers)]
    own = batches(rows, pair.tokenizer, policy)
    # One pass a model, rather than one up to each layer.
    outputs = [
        [pair.outputs(paths, batch.token_ids, batch.attention, model) for model in (REFERENCE, INTERVENED)]
        for batch in own
    ]
    plain: tuple[Values, Values] | None = None
    found = []
    for index in tqdm(range(n_layers), desc="layers", unit="layer", leave=False):
        layer_outputs = [tuple(side[index] for side in sides) for sides in outputs]
        activations = PromptActivations(pair.with_hookpoint(paths[index]), None, own, layer_outputs)
        corners = _corners(LogitMeasurement(activations, metric), plain)
        plain = corners.reference, corners.intervened
        found.append(
            {
                "layer": index,
                "hookpoint": index == layer,
                "represented": resamples.ratio(corners.represented, corners.total).as_dict(),
                "above": resamples.ratio(corners.above, corners.total).as_dict(),
            }
        )
    return found


def _corners(measurement: LogitMeasurement, plain: tuple[Values, Values] | None) -> PatchingCorners:
    """The models as they are do not depend on the layer; below the first layer that differs nothing can be exchanged."""
    reference, intervened = plain or (
        measurement.values(unchanged(REFERENCE)),
        measurement.values(unchanged(INTERVENED)),
    )
    activations = measurement.activations
    sides = [activations.of_batch(index)[:2] for index in range(len(activations.batches))]
    if all(torch.equal(*side) for side in sides):
        return PatchingCorners(reference, intervened, intervened, reference)
    return PatchingCorners(
        reference,
        intervened,
        measurement.values(PatchedRun(INTERVENED, REFERENCE)),
        measurement.values(PatchedRun(REFERENCE, INTERVENED)),
    )
