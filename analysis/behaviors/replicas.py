"""Whether a causal claim holds in other trainings of the dictionary.

Finding and the check of the named latents together are repeated with every dictionary that the run trained with another seed. Models,
prompts, their split and the metric are the same; only the dictionary differs. The check is that of the metric latents are found with,
not of generated answers.

The cost for each training is one pass of its dictionary over the prompts and the patched runs of the check: at most 1 + `BRIEF_DRAWS` for
necessity and as many for sufficiency. Gradients are reused between models that share a space, and computed again otherwise.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.run.folder import RunFolder

from ..latents.dictionary_view import DictionaryView, linear_map_of, view_of
from ..latents.trained_run import TrainedRun
from .activations import PromptActivations
from .attribution import attribute_along
from .carrying_latents import DecomposedShift, rank
from .causal import Checker, Compared, Kind, Shares, checks_as_dict, passes
from .experiment import Experiment, Side
from .measurement import LogitMeasurement
from .named_latents import Checked, brief_draws, check_set
from .patching import INTERVENED
from .random_parts import PartNorms, RandomParts
from .ranking import Ranking
from .unshared_space.activations import PerModelActivations, baseline_of
from .unshared_space.attribution import attribute_unshared
from .unshared_space.carrying_latents import WithinModelChecker, rank_unshared

SAME_DIRECTION = 0.9
"""Cosine from which two latents add the same direction to the shift."""


class Replica(NamedTuple):
    """Another training of the run's dictionary."""

    name: str
    view: DictionaryView


class Repeated(NamedTuple):
    """The named latents and their set check with another dictionary."""

    replica: Replica
    named: tuple[int, ...]
    together: dict[Kind, Compared]

    def passed(self, confidence: float) -> bool | None:
        """Whether the latents together pass a check, False if none carries the shift; None if the check is not made."""
        return passes(self.together, confidence) if self.named else False


def trained_replicas(run: TrainedRun, view: DictionaryView) -> list[Replica]:
    """Load the run's dictionary as trained with other seeds; those that are not trained are left out.

    Args:
        view: The run's own dictionary, on the same models.

    Raises:
        FormatError: A dictionary is damaged.
    """
    found, linear_map = [], linear_map_of(run.folder)
    # Folders rather than `controls_of`: what each was trained with does not matter here, and a setting may have been open before training.
    for number in range(1, run.config.controls.seeds + 1):
        folder = RunFolder(run.folder.path / "controls" / f"seed_{number}")
        if folder.crosscoder.is_dir():
            dictionary = load_crosscoder(folder.crosscoder, view.device)
            found.append(
                Replica(folder.path.name, view_of(dictionary, view.d_models, view.reads, linear_map))
            )
    return found


def repeat(
    experiment: Experiment, found: DecomposedShift, claim: DecomposedShift, replica: Replica
) -> Repeated:
    """Find latents with another dictionary and check them together, with the gradients and the corners of the first."""
    behavior = experiment.behavior
    find, check = (_read_by(side, replica.view) for side in (experiment.find, experiment.claim))
    ranking = rank(experiment, _attributed(found, find, replica.view))
    checker = Checker(check, claim.corners, behavior.shift.confidence, behavior.seed)
    return _checked(experiment, replica, checker, check.activations, ranking)


def repeat_unshared(experiment: Experiment, run: TrainedRun, replica: Replica) -> Repeated:
    """`repeat` for two models that share no space; reads the run's held-out tokens for the mean code of the other dictionary."""
    behavior, baseline = experiment.behavior, baseline_of(run.reader, replica.view)
    metrics = experiment.metrics
    assert metrics is not None
    find, check = (
        PerModelActivations(
            experiment.pair,
            replica.view,
            metrics,
            experiment.prompts_of(held_out),
            run.config.tokens,
            baseline,
        )
        for held_out in (False, True)
    )
    found, claim = (attribute_unshared(side, behavior.attribution) for side in (find, check))
    shares = WithinModelChecker(check, claim, behavior)
    return _checked(experiment, replica, shares, check, rank_unshared(found))


def stability(
    experiment: Experiment, checked: Checked, unit: str, repeated: Sequence[Repeated]
) -> dict[str, Any]:
    """Return the section `stability` of causal.json.

    A training counts if its check is made: `causal` of `trainings`, this run's among them.
    """
    confidence = experiment.behavior.shift.confidence
    levels = [checked.set_passed, *(one.passed(confidence) for one in repeated)]
    made = [level for level in levels if level is not None]
    why = None
    if not experiment.behavior.checks.replicas:
        why = "checks.replicas is off"
    elif not repeated:
        why = "the run has no dictionary of another seed (controls.seeds)"
    elif levels[0] is None or len(made) < 2:
        why = "the check of the named latents together is not made"
    if why is not None:
        return _not_made(why, unit)
    return {
        "made": True,
        "why_not": None,
        "unit": unit,
        "trainings": len(made),
        "causal": sum(made),
        "draws": brief_draws(experiment.behavior),
        "cosine": SAME_DIRECTION,
        "each": [_entry(experiment.view, checked.named, one, confidence) for one in repeated],
    }


def without_gradient(unit: str) -> dict[str, Any]:
    """Return the section `stability` of a metric without a gradient."""
    return _not_made(
        "without a gradient latents are found by patching them one by one, which is not repeated for other trainings; give find_with",
        unit,
    )


def _not_made(why: str, unit: str) -> dict[str, Any]:
    return {
        "made": False,
        "why_not": why,
        "unit": unit,
        "trainings": None,
        "causal": None,
        "draws": 0,
        "cosine": SAME_DIRECTION,
        "each": [],
    }


def _entry(
    view: DictionaryView, named: tuple[int, ...], repeated: Repeated, confidence: float
) -> dict[str, Any]:
    cosines = _cosines(view, named, repeated.replica.view)
    same = cosines[:, list(repeated.named)] >= SAME_DIRECTION
    matched = int(same[linear_sum_assignment(same, maximize=True)].sum())
    return {
        "training": repeated.replica.name,
        "named": list(repeated.named),
        "set_passed": repeated.passed(confidence),
        "together": checks_as_dict(repeated.together, confidence),
        "again": list(_found_again(named, cosines, repeated.named)),
        "agreement": matched / max(1, len(named) + len(repeated.named) - matched),
    }


def _found_again(
    named: Sequence[int], cosines: Float64[np.ndarray, "named latent"], others: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yield for each named latent the most similar one of the other dictionary, and whether it is found again and named again."""
    for latent, row in zip(named, cosines, strict=True):
        nearest = int(row.argmax())
        again = bool(row[nearest] >= SAME_DIRECTION)
        yield {
            "latent": latent,
            "nearest": nearest,
            "cosine": float(row[nearest]),
            "found": again,
            "named": bool(row[list(others)].max(initial=-1.0) >= SAME_DIRECTION),
        }


def _cosines(
    view: DictionaryView, named: Sequence[int], other: DictionaryView
) -> Float64[np.ndarray, "named latent"]:
    """Return the cosines between what latents of two dictionaries add to the shift."""
    one, two = (_directions(each) for each in (view, other))
    return (normalize(one[list(named)], dim=1) @ normalize(two, dim=1).T).double().cpu().numpy()


def _directions(view: DictionaryView) -> Any:
    """Return the directions that are patched: of the shift, or, between models that share no space, of the intervened model."""
    return view.weighted_shift_directions() if view.comparable else view.raw[INTERVENED]


def _read_by(side: Side, view: DictionaryView) -> LogitMeasurement:
    """Return the metric on a set of prompts, whose change another dictionary decomposes."""
    before, measurement = side.activations, side.gradient_measurement
    assert measurement is not None
    read = [before.of_batch(index) for index in range(len(before.batches))]
    return LogitMeasurement(PromptActivations(before.pair, view, before.batches, read), measurement.metric)


def _attributed(
    before: DecomposedShift, measurement: LogitMeasurement, view: DictionaryView
) -> DecomposedShift:
    """Return the attributions to the latents of another dictionary."""
    first = before.attribution
    assert first is not None
    corners = before.corners
    return DecomposedShift(
        corners,
        attribute_along(measurement, first.gradients, first.steps, corners.represented, view.n_latents),
    )


def _checked(
    experiment: Experiment, replica: Replica, shares: Shares, activations: PartNorms, ranking: Ranking
) -> Repeated:
    behavior = experiment.behavior
    named = tuple(ranking.along[: behavior.checks.latents])
    random = RandomParts(activations, behavior.seed)
    together = check_set(
        shares,
        activations,
        random,
        named,
        ranking.contribution,
        brief_draws(behavior),
        behavior.shift.confidence,
    )
    return Repeated(replica, named, together)
