"""Sweep over k and width: choose the fewest firing latents, and the smallest dictionary, at which the explained difference levels
off.

The variance of intervened - reference that the dictionary explains rises with k and then levels off. Below this elbow, features of
one model are missing (rare ones first); far above it, their directions leak into the other model. The variance explained of the
models themselves hardly shows the elbow.

For each width, one dictionary is trained at the largest k and then trained on at each smaller k in turn, for a share of the first
training. A sweep over many k thus costs one run, plus that share of a run for each further k. The smallest width is chosen whose
best dictionary is as good as the best of all.

`brief_sweep` chooses k for a run that leaves it open, before its training: a chain of shorter trainings that ends once k is too small.
It costs about as much as the training itself, and less for long trainings. Its k is the elbow's times `MARGIN`, or a larger one at
which the dictionary explains as much of each model as the run has to (`analysis.conditions.fve`).

RUN/sweep/latents_M/k_N/   the run folder of each point (config, metrics, dictionary)
RUN/sweep/sweep.json       the curve, the rule and the choice
RUN/sweep/brief/           the same, for a brief sweep
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crosscoder.activations.batch import have_difference
from crosscoder.config import BatchTopK, RunConfig, TopK
from crosscoder.config.open_settings import chosen
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import ConfigError, FormatError
from crosscoder.run.controls import control_config
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic

from .companion_dictionaries import train_companion
from .recipe import FURTHER_SHARE, brief_config, candidate_ks, k_of_width, resolved
from .sources import TokenSource

logger = logging.getLogger(__name__)

FVE_DIFFERENCE = "diff/explained_variance"
_FVE_MODEL = "metrics/explained_variance/"

TOLERANCE = 0.01
"""Loss in explained variance of the difference that is accepted for fewer latents."""

NOISE_GAIN = 0.03
"""Largest gain in explained variance that doubling the latents can bring by fitting noise; a larger gain comes from features."""

MARGIN = 1.2
"""Chosen k as a multiple of the elbow. At the elbow, features that only fire together with others still share a latent with them. A
slightly larger k costs nothing; a much larger one lets a direction of one model leak into the other."""

BELOW = 0.03
"""A brief sweep ends at the first k whose explained variance, of the difference or of a model, is so far below what it has to be."""


class Point(NamedTuple):
    """The explained variance of one dictionary."""

    n_latents: int
    k: int
    explained: float
    """Explained variance of the difference on held-out tokens; NaN if the models do not differ."""

    fve: float = math.nan
    """Explained variance of the model that is explained least; NaN for a diff-SAE, which explains no model."""


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
    config = resolved(config, d_models, source.n_train_tokens)
    if not have_difference(d_models):
        raise ConfigError(
            f"sweep: models of widths {d_models} have no difference to explain; choose k by the explained variance of each model"
        )
    widths = sorted(set(widths)) or [chosen(config.crosscoder.n_latents, "crosscoder.n_latents")]
    if max(ks) > widths[0]:
        raise ConfigError(
            f"sweep: k {max(ks)} is larger than the dictionary of {widths[0]} latents; give smaller k, or more latents"
        )
    points: list[Point] = []
    for width in widths:
        points += sorted(_chain(folder.sweep, config, source, sorted(set(ks), reverse=True), width))
    if any(math.isnan(point.explained) for point in points):
        raise FormatError(f"{folder.path}: the models do not differ, so no k can be chosen")
    result = Sweep(tuple(points), choose(points))
    write_atomic(folder.sweep / "sweep.json", json.dumps(_record(result), indent=2) + "\n")
    return result


def brief_sweep(folder: RunFolder, config: RunConfig, source: TokenSource) -> tuple[int, str]:
    """Choose k for a run that leaves it open; return it and why. Finished points are not trained again.

    Models of different width, and models that do not differ at all, have no difference to explain: k then follows from the width.

    Args:
        config: Settings in which only k is open.
    """
    width_rule = k_of_width(source.d_models)
    if not have_difference(source.d_models):
        return width_rule, "an eighth of the width: models of different widths have no difference to explain"
    n_latents = chosen(config.crosscoder.n_latents, "crosscoder.n_latents")
    brief, output = brief_config(config), folder.sweep / "brief"
    points: list[Point] = []
    ks, floor = candidate_ks(config, source.d_models), config.analysis.conditions.fve
    logger.info("sweep: k is open; trying %s, in short trainings", ", ".join(map(str, ks)))
    for point in _chain(output, brief, source, ks, n_latents):
        if math.isnan(point.explained):
            return width_rule, "an eighth of the width: the models do not differ"
        points.append(point)
        best = max(one.explained for one in points)
        if point.explained < best - BELOW or point.fve < floor - BELOW:
            break
    k, why = choose_k(points, floor)
    record = _record(Sweep(tuple(sorted(points)), Point(n_latents, k, math.nan)))
    write_atomic(output / "sweep.json", json.dumps(record, indent=2) + "\n")
    return k, why


def choose_k(points: Sequence[Point], floor: float) -> tuple[int, str]:
    """Choose k from the points of one width; return it and why.

    Args:
        floor: The variance of each model that the dictionary has to explain. Between two k, it is interpolated over log k.
    """
    points = sorted(points)
    largest, least = points[-1].k, elbow({point.k: point.explained for point in points})
    k = min(largest, math.ceil(MARGIN * least))
    tried = ", ".join(f"{point.k}: {100 * point.explained:.1f} %" for point in points)
    why = f"{MARGIN:g} times {least}, the smallest k that explains the difference as well as larger ones ({tried})"
    enough = _reaching(points, floor)
    if enough is None:
        return (
            largest,
            f"the largest k tried; none explains {100 * floor:.0f} % of each model ({_percent(points)})",
        )
    if enough > k:
        return enough, f"the smallest k that explains {100 * floor:.0f} % of each model ({_percent(points)})"
    return k, why


def _reaching(points: Sequence[Point], floor: float) -> int | None:
    """The smallest k from which on each model is explained up to `floor`; 0 if no model is, None if that is never reached."""
    if any(math.isnan(point.fve) for point in points):
        return 0
    if points[-1].fve < floor:
        return None
    reached = points[-1]
    for point in reversed(points[:-1]):
        if point.fve < floor:
            part = (floor - point.fve) / (reached.fve - point.fve)
            return math.ceil(point.k * (reached.k / point.k) ** part)
        reached = point
    return reached.k


def _percent(points: Sequence[Point]) -> str:
    return ", ".join(f"{point.k}: {100 * point.fve:.1f} %" for point in points)


def _chain(
    output: Path, config: RunConfig, source: TokenSource, ks: Sequence[int], n_latents: int
) -> Iterator[Point]:
    """Train one dictionary at each k in turn, in descending order, and yield its points."""
    previous: Crosscoder | None = None
    for k in ks:
        trained = train_companion(
            _point_config(n_latents, k, output, config, first=previous is None), source, {}, previous
        )
        previous = load_crosscoder(trained.crosscoder)
        point = Point(n_latents, k, *_explained(trained))
        logger.info(
            "sweep: k %d with %d latents explains %.1f %% of the variance of the difference",
            k,
            n_latents,
            100 * point.explained,
        )
        yield point


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
            | ({} if math.isnan(point.fve) else {"least_explained_variance": point.fve})
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


def _point_config(n_latents: int, k: int, output: Path, config: RunConfig, *, first: bool) -> RunConfig:
    sparsity = config.crosscoder.sparsity.model_copy(update={"k": k})
    training: dict[str, Any] = {}
    if not first:
        training = {
            "n_tokens": max(
                1, math.ceil(FURTHER_SHARE * chosen(config.training.n_tokens, "training.n_tokens"))
            ),
            # Training starts from the dictionary of a larger k.
            "k_anneal": 0.0,
            "start_from": None,
        }
    return control_config(
        config,
        output / f"latents_{n_latents}" / f"k_{k}",
        crosscoder=config.crosscoder.model_copy(update={"n_latents": n_latents, "sparsity": sparsity}),
        training=config.training.model_copy(update=training),
    )


def _explained(folder: RunFolder) -> tuple[float, float]:
    """Explained variance of the difference, and of the model that is explained least; NaN for what does not exist."""
    evaluation = folder.read_manifest()["evaluation"]
    value = evaluation[FVE_DIFFERENCE]
    of_models = [found for name, found in evaluation.items() if name.startswith(_FVE_MODEL)]
    if f"{_FVE_MODEL}difference" in evaluation or None in of_models:
        of_models = [math.nan]
    return math.nan if value is None else float(value), min(of_models)
