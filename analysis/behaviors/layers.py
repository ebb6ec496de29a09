"""The share of a shift at each layer: activation patching between the models layer by layer, without a dictionary."""

from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from crosscoder.config import TokenPolicy
from crosscoder.language_models.decoder_layers import find_decoder_layers
from crosscoder.language_models.pair import ModelPair

from .activations import PromptActivations
from .attribution import PatchingCorners
from .logit_metrics import LogitMetric
from .measurement import LogitMeasurement
from .patching import INTERVENED, REFERENCE, PatchedRun, unchanged
from .prompt_statistics import Resamples, Values
from .prompts import Prompt, batches

PROMPTS = 24
"""Maximum number of prompts, because each layer needs several passes over all of them. Every nth is taken, which leaves more than half of
that number: enough for intervals (`MIN_PROMPTS`)."""


def patch_layers(
    pair: ModelPair,
    metric: LogitMetric,
    prompts: Sequence[Prompt],
    policy: TokenPolicy,
    confidence: float,
    seed: int,
) -> list[dict[str, Any]] | None:
    """Return the share of the shift represented at the output of each decoder layer, and the share from the layers above it.

    None if the hookpoint is not a decoder layer or the layers of the two models do not correspond.
    """
    layer, other = pair.layer(0), pair.layer(1)
    found = find_decoder_layers(pair.models[0])
    if layer is None or layer != other or found is None or found != find_decoder_layers(pair.models[1]):
        return None
    parent, n_layers = found
    rows = metric.rows(prompts[:: max(1, -(-len(prompts) // PROMPTS))])
    resamples = Resamples(1 + max(row.prompt for row in rows), confidence, seed)
    paths = [f"{parent}.{index}" for index in range(n_layers)]
    formed = batches(rows, pair.tokenizer, policy, pair.max_positions)
    # One pass per model instead of one per layer.
    outputs = [
        [pair.outputs(paths, batch.token_ids, batch.attention, model) for model in (REFERENCE, INTERVENED)]
        for batch in formed
    ]
    unchanged_values: tuple[Values, Values] | None = None
    entries = []
    for index in tqdm(range(n_layers), desc="layers", unit="layer", leave=False):
        layer_outputs = [tuple(side[index] for side in sides) for sides in outputs]
        activations = PromptActivations(pair.with_hookpoint(paths[index]), None, formed, layer_outputs)
        corners = _corners(LogitMeasurement(activations, metric), unchanged_values)
        unchanged_values = corners.reference, corners.intervened
        entries.append(
            {
                "layer": index,
                "hookpoint": index == layer,
                "represented": resamples.ratio(corners.represented, corners.total).as_dict(),
                "above": resamples.ratio(corners.above, corners.total).as_dict(),
            }
        )
    return entries


def _corners(
    measurement: LogitMeasurement, unchanged_values: tuple[Values, Values] | None
) -> PatchingCorners:
    """Measure the corners; unchanged models do not depend on the layer, and equal activations need no patching."""
    reference, intervened = unchanged_values or (
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
