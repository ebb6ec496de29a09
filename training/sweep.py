"""How many latents may fire, and how many there should be: the fewest at which the difference is explained as well as it will be.

What the dictionary explains of intervened - reference rises with k and then stops; below the bend, features of one model are
left out (rare ones first), and far above it, their directions leak into the other model. Variance explained of the models
themselves hardly shows the bend.

One dictionary walks down: it is trained at the largest k, and from there goes on at each smaller k for a share of that
training. So a sweep over many k costs little more than one run and a part of one for each further k. Every width has a walk of
its own; of the widths, the smallest is taken whose best is as good as that of all.

RUN/sweep/latents_M/k_N/   the run of each (config, metrics, dictionary)
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

from .companion import train_companion
from .sources import TokenSource

logger = logging.getLogger(__name__)

FVE_DIFFERENCE = "diff/explained_variance"

TOLERANCE = 0.01
"""Variance explained of the difference that may be given up for fewer latents."""

NOISE_GAIN = 0.03
"""Variance explained that twice as many latents may gain by fitting noise, at most; where more is gained, more is found."""

MARGIN = 1.2
"""How far above the bend k is taken. At the bend itself features that fire only beside others still share a latent with them; a
little more costs nothing, and far more lets a direction of one model leak into the other."""

FURTHER_SHARE = 0.25
"""Length of the training at each further k, as a share of the first."""


class Point(NamedTuple):
    """What one dictionary explains."""

    n_latents: int
    k: int
    explained: float
    """Variance explained of the difference, on held-out tokens."""


class Sweep(NamedTuple):
    """What a sweep found."""

    points: tuple[Point, ...]
    """By n_latents, then k."""

    chosen: Point


def default_ks(k: int) -> tuple[int, ...]:
    """From half of the configured k to three times it, in steps of about a quarter."""
    return tuple(sorted({max(1, round(k * factor)) for factor in (0.5, 0.65, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0)}))


def sweep(
    folder: RunFolder,
    config: RunConfig,
    source: TokenSource,
    ks: Sequence[int],
    widths: Sequence[int] = (),
) -> Sweep:
    """Train at every k, from the largest down, for every width, and choose. Finished ones are left as they are.

    Args:
        widths: Numbers of latents; none: the configured one.

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
            f"sweep: models of widths {d_models} have no difference to explain; choose k by the variance explained of each"
        )
    widths = sorted(set(widths)) or [config.crosscoder.n_latents]
    if max(ks) > widths[0]:
        raise ConfigError(
            f"sweep: k {max(ks)} is more than {widths[0]} latents; give smaller k, or more latents"
        )
    points = [point for width in widths for point in _walk(folder, config, source, ks, width)]
    found = Sweep(tuple(points), choose(points))
    write_atomic(folder.sweep / "sweep.json", json.dumps(_record(found), indent=2) + "\n")
    return found


def _walk(
    folder: RunFolder, config: RunConfig, source: TokenSource, ks: Sequence[int], n_latents: int
) -> list[Point]:
    """One dictionary from the largest k down; its points from the smallest up."""
    points: list[Point] = []
    before: Crosscoder | None = None
    for k in sorted(set(ks), reverse=True):
        own = train_companion(
            _config_at(n_latents, k, folder, config, first=before is None), source, {}, before
        )
        before = load_crosscoder(own.crosscoder)
        points.insert(0, Point(n_latents, k, _explained(own)))
        logger.info(
            "sweep: k %d of %d latents explains %.1f %% of the difference",
            k,
            n_latents,
            100 * points[0].explained,
        )
    return points


def choose(points: Sequence[Point]) -> Point:
    """k for each width, as `smallest_k` has it, and of the widths the smallest whose explained share is that of the best."""
    by_width: dict[int, dict[int, Point]] = {}
    for point in points:
        by_width.setdefault(point.n_latents, {})[point.k] = point
    best: dict[int, Point] = {}
    for width, of_k in by_width.items():
        best[width] = of_k[smallest_k({k: point.explained for k, point in of_k.items()})]
    most = max(point.explained for point in best.values())
    return next(best[width] for width in sorted(best) if best[width].explained >= most - TOLERANCE)


def _record(found: Sweep) -> dict[str, Any]:
    return {
        "measure": FVE_DIFFERENCE,
        "tolerance": TOLERANCE,
        "curve": [
            {"n_latents": point.n_latents, "k": point.k, FVE_DIFFERENCE: point.explained}
            for point in found.points
        ],
        "chosen": {"n_latents": found.chosen.n_latents, "k": found.chosen.k},
    }


def bend(curve: Mapping[int, float]) -> int:
    """The smallest k from which on nothing is gained but what every further latent gains by fitting noise.

    That gain is the slope between the two largest k, as far as `NOISE_GAIN` allows. From the bend on, no k explains more
    than the line of that slope says, but for `TOLERANCE`.
    """
    ks = sorted(curve)
    last = (curve[ks[-1]] - curve[ks[-2]]) / (ks[-1] - ks[-2]) if len(ks) > 1 else 0.0
    slope = min(max(0.0, last), NOISE_GAIN / ks[-1])
    short = [
        k
        for k in ks
        if any(curve[further] - slope * (further - k) > curve[k] + TOLERANCE for further in ks if further > k)
    ]
    return min(k for k in ks if k > max(short, default=0))


def smallest_k(curve: Mapping[int, float]) -> int:
    """The smallest swept k that is `MARGIN` times the bend; the largest where none is."""
    wanted = MARGIN * bend(curve)
    return min((k for k in curve if k >= wanted), default=max(curve))


def _config_at(n_latents: int, k: int, folder: RunFolder, config: RunConfig, *, first: bool) -> RunConfig:
    sparsity = config.crosscoder.sparsity.model_copy(update={"k": k})
    training: dict[str, Any] = {}
    if not first:
        training = {
            "n_tokens": max(1, math.ceil(FURTHER_SHARE * config.training.n_tokens)),
            # It begins where a larger k ended.
            "k_anneal": 0.0,
            "start_from": None,
        }
    return control_config(
        config,
        folder.sweep / f"latents_{n_latents}" / f"k_{k}",
        crosscoder=config.crosscoder.model_copy(update={"n_latents": n_latents, "sparsity": sparsity}),
        training=config.training.model_copy(update=training),
    )


def _explained(own: RunFolder) -> float:
    value = own.read_manifest()["evaluation"][FVE_DIFFERENCE]
    if value is None:
        raise FormatError(f"{own.path}: the models do not differ, so there is no k to choose")
    return float(value)
