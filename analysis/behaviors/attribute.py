"""The verb `attribute`: a behavior's shift, where it comes from, and whether that holds on prompts that nothing was found with.

Writes RUN/behaviors/NAME: behavior.yaml, shift.json, prompts.parquet, and, where a shift is established, attribution.json,
attribution.parquet (one row a latent), tokens.parquet (one row a firing of a named latent) and causal.json.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from crosscoder.config import TokenPolicy
from crosscoder.config.behavior import Behavior
from crosscoder.config.load import dump_config
from crosscoder.errors import ConfigError
from crosscoder.runtime.files import write_atomic

from ..latents.trained_run import TrainedRun
from ..tables.columns import PROMPTS, TOKENS
from ..tables.parquet import write_parquet
from .activations import PromptActivations
from .answers import AnswerMeasurement
from .attribution import measure_corners
from .behavior_files import SCHEMA_VERSION, BehaviorFolder
from .causal import chosen
from .change_decomposition import Part
from .dose_response import Cost, dose_response
from .experiment import Experiment, exchangeable
from .latent_table import Attributed, latent_table
from .layers import patch_layers
from .measurement import LogitMeasurement
from .metrics import CrossEntropy
from .named_latents import Checked, findings
from .patching import INTERVENED, REFERENCE, PatchedRun, unchanged
from .prompt_statistics import Values
from .prompts import Prompt
from .shared_space import Found, check, checker_of, decomposition, in_answers, rank, take_apart
from .shift import Shift, measure_shift
from .unrelated_text import unrelated_prompts
from .unshared_space.activations import Baseline, OwnActivations, baseline_of
from .unshared_space.attribution import attribute_apart
from .unshared_space.causal import check_apart, own_decomposition, own_findings, rank_apart


class AttributedBehavior(NamedTuple):
    """What was found of one behavior."""

    place: BehaviorFolder
    n_prompts: int
    shift: Shift
    summary: dict[str, object]
    """For the summary of a wandb run."""


def attribute_behavior(run: TrainedRun, behavior: Behavior) -> AttributedBehavior:
    """Measure, explain and check one behavior of a run that has models.

    Raises:
        ConfigError: A setting of the behavior cannot be used.
        DataError, FormatError, PairError: Prompts, dictionary or models cannot be used.
    """
    place, policy = BehaviorFolder(run.folder.behaviors / behavior.name), run.config.tokens
    pair, view = run.models
    baseline = None if exchangeable(pair, view) else _baseline(run)
    experiment = Experiment(behavior, pair, view, policy, place.replies, baseline)
    # Before any long work: texts that cannot be read are reported at once.
    unrelated = unrelated_prompts(behavior, run)
    place.clear()
    write_atomic(place.behavior, dump_config(behavior))
    shift = _measure(experiment, place)
    summary: dict[str, object] = {"shift": shift.size.value, "established": shift.established}
    if shift.established and baseline is None:
        summary |= _explain(experiment, place, unrelated, policy)
    elif shift.established and baseline is not None and experiment.own_claim is not None:
        summary |= _explain_apart(experiment, place, unrelated, policy, baseline)
    return AttributedBehavior(place, len(experiment.prompts), shift, summary)


def _measure(experiment: Experiment, place: BehaviorFolder) -> Shift:
    """The shift itself: shift.json and prompts.parquet."""
    behavior, claimed = experiment.behavior, experiment.claimed
    reference, intervened = (claimed.values(unchanged(model)) for model in (REFERENCE, INTERVENED))
    shift = measure_shift(
        reference, intervened, experiment.repeated(), behavior.shift, behavior.seed, claimed.bounds
    )
    measured = experiment.measured
    stand_in = None
    if measured is not None and measured is not claimed:
        one, other = (measured.values(unchanged(model)) for model in (REFERENCE, INTERVENED))
        stand_in = measure_shift(
            one, other, None, behavior.shift.model_copy(update={"at_least": 0.0}), behavior.seed
        )
    why = None
    if not shift.established:
        why = "no shift is established, so there is nothing to explain"
    elif not experiment.exchangeable and measured is None:
        why = "the two models share no space, so latents are found by gradients within each, and the metric has none; give find_with"
    _write_json(
        place.shift,
        {
            "schema_version": SCHEMA_VERSION,
            "name": behavior.name,
            "description": behavior.description,
            "metric": behavior.metric.model_dump(mode="json"),
            "unit": claimed.unit,
            "unrelated": behavior.unrelated,
            "n_prompts": len(experiment.prompts),
            "n_held_out": int(experiment.held_out.sum()),
            "shift": shift.as_dict(),
            "stand_in": None
            if stand_in is None or measured is None
            else {"unit": measured.unit, **stand_in.as_dict()},
            "explained": why is None,
            "why_not": why,
        },
    )
    _write_prompts(experiment, place, reference, intervened)
    return shift


def _write_prompts(
    experiment: Experiment, place: BehaviorFolder, reference: Values, intervened: Values
) -> None:
    """The prompts of the claim with both models' values, and their first answers where there are any."""
    claimed = experiment.claimed
    columns: dict[str, Any] = {
        "prompt": [prompt.text for prompt in experiment.prompts_of(held_out=True)],
        "reference": reference,
        "intervened": intervened,
    }
    if isinstance(claimed, AnswerMeasurement):
        for name, model in (("reference_answer", REFERENCE), ("intervened_answer", INTERVENED)):
            columns[name] = [own[0] for own in claimed.seen[unchanged(model)]]
    write_parquet(place.prompts, PROMPTS.build(columns))


def _explain(
    experiment: Experiment, place: BehaviorFolder, unrelated_texts: Sequence[Prompt], policy: TokenPolicy
) -> dict[str, object]:
    """Everything after the shift; what a summary of the run has to say of it."""
    behavior = experiment.behavior
    metric = CrossEntropy()
    elsewhere = LogitMeasurement(
        PromptActivations.of_rows(experiment.pair, experiment.view, metric.rows(unrelated_texts), policy),
        metric,
    )
    confidence, seed = behavior.shift.confidence, behavior.seed
    found, claim = take_apart(experiment, experiment.find), take_apart(experiment, experiment.claim)
    ranking = rank(experiment, found)
    measured = experiment.claim.measured
    layers = None
    if experiment.metric is not None and behavior.attribution.layers:
        layers = patch_layers(
            experiment.pair, experiment.metric, experiment.find.prompts, policy, confidence, seed
        )
    _write_json(
        place.attribution,
        {
            "schema_version": SCHEMA_VERSION,
            "unit": (measured or experiment.claimed).unit,
            "find": decomposition(found, confidence, seed),
            "held_out": decomposition(claim, confidence, seed),
            "layers": layers,
        },
    )
    checked = check(experiment, ranking, found, claim)
    causal = findings(checker_of(experiment, claim), experiment.view.n_latents, ranking, checked, behavior)
    part = Part(chosen(checked.named, experiment.view.n_latents))
    if experiment.claim.measured is not None and experiment.claimed is not experiment.claim.measured:
        corners = measure_corners(experiment.claimed)
        causal["answers"] = in_answers(experiment, corners, checked, ranking, experiment.claim.reading)
    else:
        causal["answers"] = None
    cost = Cost(elsewhere, confidence, seed)
    (causal["removal_cost"],) = cost.of([PatchedRun(INTERVENED, INTERVENED, part, -1)])
    causal["steering"] = dose_response(
        measured or experiment.claimed,
        claim.corners,
        experiment.find.reading,
        part,
        cost,
        behavior.checks.doses,
        confidence,
        seed,
    )
    _write_json(place.causal, {"schema_version": SCHEMA_VERSION, **causal})
    sides = {
        name: Attributed(one.attribution.latents, one.corners.total)
        for name, one in (("find", found), ("held_out", claim))
        if one.attribution is not None
    }
    write_parquet(
        place.latents, latent_table(experiment.claim.reading.sizes(), ranking, sides, checked, behavior.seed)
    )
    if claim.attribution is not None:
        write_parquet(place.tokens, _token_table(experiment, claim, checked))
    return _told(checked)


def _explain_apart(
    experiment: Experiment,
    place: BehaviorFolder,
    unrelated_texts: Sequence[Prompt],
    policy: TokenPolicy,
    baseline: Baseline,
) -> dict[str, object]:
    """Everything after the shift, for two models that share no space; what a summary of the run has to say of it."""
    behavior, pair, view = experiment.behavior, experiment.pair, experiment.view
    confidence, seed = behavior.shift.confidence, behavior.seed
    find, reading = experiment.own_find, experiment.own_claim
    assert find is not None and reading is not None
    found, claim = (attribute_apart(one, behavior.attribution) for one in (find, reading))
    ranking = rank_apart(found)
    _write_json(
        place.attribution,
        {
            "schema_version": SCHEMA_VERSION,
            "unit": reading.unit,
            "find": own_decomposition(found, confidence, seed),
            "held_out": own_decomposition(claim, confidence, seed),
            "layers": None,
        },
    )
    checked = check_apart(reading, ranking, found, claim, behavior)
    metrics = CrossEntropy(), CrossEntropy()
    elsewhere = OwnActivations(pair, view, metrics, unrelated_texts, policy, baseline)
    causal = own_findings(reading, elsewhere, ranking, claim, checked, behavior)
    _write_json(place.causal, {"schema_version": SCHEMA_VERSION, **causal})
    sides = {name: Attributed(one.latents, one.total) for name, one in (("find", found), ("held_out", claim))}
    within = {
        "attribution_reference": claim.reference.latents.mean(axis=0),
        "attribution_intervened": claim.intervened.latents.mean(axis=0),
    }
    write_parquet(
        place.latents, latent_table(reading.sizes(), ranking, sides, checked, behavior.seed, within)
    )
    return _told(checked)


def _told(checked: Checked) -> dict[str, object]:
    together = {str(kind): one.estimate.value for kind, one in checked.together.items()}
    return {"level": checked.level, **together}


def _baseline(run: TrainedRun) -> Baseline:
    """Means over the run's held-out tokens. Raises ConfigError for a dictionary with one direction for both models."""
    if run.config.crosscoder.reads != "paired":
        raise ConfigError(
            f"crosscoder.reads is {run.config.crosscoder.reads!r}, but behaviors of two models that share no space are attributed along "
            "directions of each; use paired"
        )
    return baseline_of(run.reader, run.view)


def _token_table(experiment: Experiment, claim: Found, checked: Checked) -> pa.Table:
    """Attributions of the named latents on each token of the prompts of the claim."""
    assert claim.attribution is not None
    places = claim.attribution.places
    columns = {name: np.concatenate(getattr(places, name)) for name in vars(places)}
    named = np.isin(columns["latent"], checked.named)
    table = {name: values[named] for name, values in columns.items()}
    decode = experiment.pair.tokenizer.decode
    return TOKENS.build(table | {"token": [decode([token]) for token in table["token_id"].tolist()]})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
