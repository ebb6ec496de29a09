"""Sweep over k and width: choose the fewest firing latents, and the smallest dictionary, at which the explained difference levels
off.

The variance of intervened - reference that the dictionary explains rises with k and then levels off. Below this elbow, features of
one model are missing (rare ones first); far above it, their directions leak into the other model. The variance explained of the
models themselves hardly shows the elbow.

For each width, one dictionary is trained at the largest k and then trained on at each smaller k in turn, for a share of the first
training. A sweep over many k thus costs one run, plus that share of a run for each further k. The smallest width is chosen whose
best dictionary is as good as the best of all.

RUN/sweep/latents_M/k_N/   the run folder of each point (config, metrics, dictionary)
RUN/sweep/sweep.json       the curve, the rule and the choice
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from crosscoder.activations.batch import have_difference
from crosscoder.config import BatchTopK, RunConfig, TopK
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.controls import control_config
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic

from .companion_dictionaries import train_companion
from .sources import TokenSource

logger = logging.getLogger(__name__)

FVE_DIFFERENCE = "diff/explained_variance"

TOLERANCE = 0.01
"""Loss in explained variance of the difference that is accepted for fewer latents."""

NOISE_GAIN = 0.03
"""Largest gain in explained variance that doubling the latents can bring by fitting noise; a larger gain comes from features."""

MARGIN = 1.2
"""Chosen k as a multiple of the elbow. At the elbow, features that only fire together with others still share a latent with them. A
slightly larger k costs nothing; a much larger one lets a direction of one model leak into the other."""

FURTHER_SHARE = 0.25
"""Tokens of the training at each further k, as a share of those at the first."""


class Point(NamedTuple):
    """The explained variance of one dictionary."""

    n_latents: int
    k: int
    explained: float
    """Explained variance of the difference on held-out tokens."""


class Sweep(NamedTuple):
    """The result of a sweep."""

    points: tuple[Point, ...]
    """Sorted by n_latents, then k."""

    chosen: Point


def default_ks(k: int) -> tuple[int, ...]:
    """Eight values from half the configured k to three times k."""
    return tuple(sorted({max(1, round(k * factor)) for factor in (0.5, 0.65, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0)}))


def sweep(
    folder: RunFolder,
    config: RunConfig,
    source: TokenSource,
    ks: Sequence[int],
    widths: Sequence[int] = (),
) -> Sweep:
    """Train at every k, from the largest down, for every width, and choose. Finished points are not trained again.

    Args:
        widths: Numbers of latents; if empty, the configured one.

    Raises:
        ConfigError: The kind of dictionary has no k, a k is larger than a width, or the models have no difference.
    """
    sparsity = config.crosscoder.sparsity
    if not isinstance(sparsity, BatchTopK | TopK):
        raise ConfigError(
            f"crosscoder.sparsity: {sparsity.kind} has no k to sweep over; use batch_topk or topk"
        )
    d_models = source.d_models
    if not have_difference(d_models):
        raise ConfigError(
            f"sweep: models of widths {d_models} have no difference to explain; choose k by the explained variance of each model"
        )
    widths = sorted(set(widths)) or [config.crosscoder.n_latents]
    if max(ks) > widths[0]:
        raise ConfigError(
            f"sweep: k {max(ks)} is larger than the dictionary of {widths[0]} latents; give smaller k, or more latents"
        )
    points = [point for width in widths for point in _sweep_width(folder, config, source, ks, width)]
    result = Sweep(tuple(points), choose(points))
    write_atomic(folder.sweep / "sweep.json", json.dumps(_record(result), indent=2) + "\n")
    return result


def _sweep_width(
    folder: RunFolder, config: RunConfig, source: TokenSource, ks: Sequence[int], n_latents: int
) -> list[Point]:
    """Train one dictionary from the largest k down; return its points by ascending k."""
    points: list[Point] = []
    previous: Crosscoder | None = None
    for k in sorted(set(ks), reverse=True):
        trained = train_companion(
            _point_config(n_latents, k, folder, config, first=previous is None), source, {}, previous
        )
        previous = load_crosscoder(trained.crosscoder)
        points.insert(0, Point(n_latents, k, _explained(trained)))
        logger.info(
            "sweep: k %d with %d latents explains %.1f %% of the variance of the difference",
            k,
            n_latents,
            100 * points[0].explained,
        )
    return points


def choose(points: Sequence[Point]) -> Point:
    """Choose k for each width by `smallest_k`, then the smallest width within `TOLERANCE` of the best."""
    by_width: dict[int, dict[int, Point]] = {}
    for point in points:
        by_width.setdefault(point.n_latents, {})[point.k] = point
    best: dict[int, Point] = {}
    for width, of_k in by_width.items():
        best[width] = of_k[smallest_k({k: point.explained for k, point in of_k.items()})]
    most = max(point.explained for point in best.values())
    return next(best[width] for width in sorted(best) if best[width].explained >= most - TOLERANCE)


def _record(result: Sweep) -> dict[str, Any]:
    return {
        "measure": FVE_DIFFERENCE,
        "tolerance": TOLERANCE,
        "curve": [
            {"n_latents": point.n_latents, "k": point.k, FVE_DIFFERENCE: point.explained}
            for point in result.points
        ],
        "chosen": {"n_latents": result.chosen.n_latents, "k": result.chosen.k},
    }


def elbow(curve: Mapping[int, float]) -> int:
    """The smallest k beyond which further latents gain only by fitting noise.

    That gain is the slope between the two largest k, limited by `NOISE_GAIN`. No k above the elbow explains more than the line of
    that slope through the elbow, within `TOLERANCE`.
    """
    ks = sorted(curve)
    last = (curve[ks[-1]] - curve[ks[-2]]) / (ks[-1] - ks[-2]) if len(ks) > 1 else 0.0
    slope = min(max(0.0, last), NOISE_GAIN / ks[-1])
    below = [
        k
        for k in ks
        if any(curve[further] - slope * (further - k) > curve[k] + TOLERANCE for further in ks if further > k)
    ]
    return min(k for k in ks if k > max(below, default=0))


def smallest_k(curve: Mapping[int, float]) -> int:
    """The smallest swept k of at least `MARGIN` times the elbow; the largest if there is none."""
    least = MARGIN * elbow(curve)
    return min((k for k in curve if k >= least), default=max(curve))


def _point_config(n_latents: int, k: int, folder: RunFolder, config: RunConfig, *, first: bool) -> RunConfig:
    sparsity = config.crosscoder.sparsity.model_copy(update={"k": k})
    training: dict[str, Any] = {}
    if not first:
        training = {
            "n_tokens": max(1, math.ceil(FURTHER_SHARE * config.training.n_tokens)),
            # Training starts from the dictionary of a larger k.
            "k_anneal": 0.0,
            "start_from": None,
        }
    return control_config(
        config,
        folder.sweep / f"latents_{n_latents}" / f"k_{k}",
        crosscoder=config.crosscoder.model_copy(update={"n_latents": n_latents, "sparsity": sparsity}),
        training=config.training.model_copy(update=training),
    )


def _explained(folder: RunFolder) -> float:
    value = folder.read_manifest()["evaluation"][FVE_DIFFERENCE]
    if value is None:
        raise FormatError(f"{folder.path}: the models do not differ, so no k can be chosen")
    return float(value)
