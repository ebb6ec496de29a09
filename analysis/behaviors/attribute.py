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
from .causal import latent_mask
from .change_decomposition import Part
from .dose_response import Cost, dose_response
from .experiment import Experiment, has_shared_space
from .latent_table import Attributed, latent_table
from .layers import patch_layers
from .measurement import LogitMeasurement
from .metrics import CrossEntropy
from .named_latents import Checked, findings
from .patching import INTERVENED, REFERENCE, PatchedRun, unchanged
from .prompt_statistics import Values
from .prompts import Prompt
from .shared_space import (
    DecomposedShift,
    answer_checks,
    check,
    checker_for,
    decompose_shift,
    decomposition,
    rank,
)
from .shift import Shift, measure_shift
from .unrelated_text import unrelated_prompts
from .unshared_space.activations import Baseline, PerModelActivations, baseline_of
from .unshared_space.attribution import attribute_unshared
from .unshared_space.causal import check_unshared, rank_unshared, unshared_decomposition, unshared_findings


class AttributedBehavior(NamedTuple):
    """What was found of one behavior."""

    files: BehaviorFolder
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
    files, policy = BehaviorFolder(run.folder.behaviors / behavior.name), run.config.tokens
    pair, view = run.models
    baseline = None if has_shared_space(pair, view) else _baseline(run)
    experiment = Experiment(behavior, pair, view, policy, files.replies, baseline)
    # Before any long work: texts that cannot be read are reported at once.
    unrelated = unrelated_prompts(behavior, run)
    files.clear()
    write_atomic(files.behavior, dump_config(behavior))
    shift = _measure(experiment, files)
    summary: dict[str, object] = {"shift": shift.size.value, "established": shift.established}
    if shift.established and baseline is None:
        summary |= _explain(experiment, files, unrelated, policy)
    elif shift.established and baseline is not None and experiment.unshared_claim is not None:
        summary |= _explain_unshared(experiment, files, unrelated, policy, baseline)
    return AttributedBehavior(files, len(experiment.prompts), shift, summary)


def _measure(experiment: Experiment, files: BehaviorFolder) -> Shift:
    """The shift itself: shift.json and prompts.parquet."""
    behavior, claimed = experiment.behavior, experiment.behavior_measurement
    reference, intervened = (claimed.values(unchanged(model)) for model in (REFERENCE, INTERVENED))
    shift = measure_shift(
        reference, intervened, experiment.repeated(), behavior.shift, behavior.seed, claimed.bounds
    )
    measured = experiment.gradient_measurement
    stand_in = None
    if measured is not None and measured is not claimed:
        one, other = (measured.values(unchanged(model)) for model in (REFERENCE, INTERVENED))
        stand_in = measure_shift(
            one, other, None, behavior.shift.model_copy(update={"at_least": 0.0}), behavior.seed
        )
    why = None
    if not shift.established:
        why = "no shift is established, so there is nothing to explain"
    elif not experiment.has_shared_space and measured is None:
        why = "the two models share no space, so latents are found by gradients within each, and the metric has none; give find_with"
    _write_json(
        files.shift,
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
    _write_prompts(experiment, files, reference, intervened)
    return shift


def _write_prompts(
    experiment: Experiment, files: BehaviorFolder, reference: Values, intervened: Values
) -> None:
    """The prompts of the claim with both models' values, and their first answers where there are any."""
    claimed = experiment.behavior_measurement
    columns: dict[str, Any] = {
        "prompt": [prompt.text for prompt in experiment.prompts_of(held_out=True)],
        "reference": reference,
        "intervened": intervened,
    }
    if isinstance(claimed, AnswerMeasurement):
        for name, model in (("reference_answer", REFERENCE), ("intervened_answer", INTERVENED)):
            columns[name] = [own[0] for own in claimed.unchanged_answers[unchanged(model)]]
    write_parquet(files.prompts, PROMPTS.build(columns))


def _explain(
    experiment: Experiment, files: BehaviorFolder, unrelated_texts: Sequence[Prompt], policy: TokenPolicy
) -> dict[str, object]:
    """Everything after the shift; what a summary of the run has to say of it."""
    behavior = experiment.behavior
    metric = CrossEntropy()
    elsewhere = LogitMeasurement(
        PromptActivations.from_rows(experiment.pair, experiment.view, metric.rows(unrelated_texts), policy),
        metric,
    )
    confidence, seed = behavior.shift.confidence, behavior.seed
    found, claim = decompose_shift(experiment, experiment.find), decompose_shift(experiment, experiment.claim)
    ranking = rank(experiment, found)
    measured = experiment.claim.gradient_measurement
    layers = None
    if experiment.metric is not None and behavior.attribution.layers:
        layers = patch_layers(
            experiment.pair, experiment.metric, experiment.find.prompts, policy, confidence, seed
        )
    _write_json(
        files.attribution,
        {
            "schema_version": SCHEMA_VERSION,
            "unit": (measured or experiment.behavior_measurement).unit,
            "find": decomposition(found, confidence, seed),
            "held_out": decomposition(claim, confidence, seed),
            "layers": layers,
        },
    )
    checked = check(experiment, ranking, found, claim)
    causal = findings(checker_for(experiment, claim), experiment.view.n_latents, ranking, checked, behavior)
    part = Part(latent_mask(checked.named, experiment.view.n_latents))
    if (
        experiment.claim.gradient_measurement is not None
        and experiment.behavior_measurement is not experiment.claim.gradient_measurement
    ):
        corners = measure_corners(experiment.behavior_measurement)
        causal["answers"] = answer_checks(experiment, corners, checked, ranking, experiment.claim.activations)
    else:
        causal["answers"] = None
    cost = Cost(elsewhere, confidence, seed)
    (causal["removal_cost"],) = cost.measure([PatchedRun(INTERVENED, INTERVENED, part, -1)])
    causal["steering"] = dose_response(
        measured or experiment.behavior_measurement,
        claim.corners,
        experiment.find.activations,
        part,
        cost,
        behavior.checks.doses,
        confidence,
        seed,
    )
    _write_json(files.causal, {"schema_version": SCHEMA_VERSION, **causal})
    sides = {
        name: Attributed(one.attribution.latents, one.corners.total)
        for name, one in (("find", found), ("held_out", claim))
        if one.attribution is not None
    }
    write_parquet(
        files.latents,
        latent_table(experiment.claim.activations.latent_sizes(), ranking, sides, checked, behavior.seed),
    )
    if claim.attribution is not None:
        write_parquet(files.tokens, _token_table(experiment, claim, checked))
    return _summary(checked)


def _explain_unshared(
    experiment: Experiment,
    files: BehaviorFolder,
    unrelated_texts: Sequence[Prompt],
    policy: TokenPolicy,
    baseline: Baseline,
) -> dict[str, object]:
    """Everything after the shift, for two models that share no space; what a summary of the run has to say of it."""
    behavior, pair, view = experiment.behavior, experiment.pair, experiment.view
    confidence, seed = behavior.shift.confidence, behavior.seed
    find, activations = experiment.unshared_find, experiment.unshared_claim
    assert find is not None and activations is not None
    found, claim = (attribute_unshared(one, behavior.attribution) for one in (find, activations))
    ranking = rank_unshared(found)
    _write_json(
        files.attribution,
        {
            "schema_version": SCHEMA_VERSION,
            "unit": activations.unit,
            "find": unshared_decomposition(found, confidence, seed),
            "held_out": unshared_decomposition(claim, confidence, seed),
            "layers": None,
        },
    )
    checked = check_unshared(activations, ranking, found, claim, behavior)
    metrics = CrossEntropy(), CrossEntropy()
    elsewhere = PerModelActivations(pair, view, metrics, unrelated_texts, policy, baseline)
    causal = unshared_findings(activations, elsewhere, ranking, claim, checked, behavior)
    _write_json(files.causal, {"schema_version": SCHEMA_VERSION, **causal})
    sides = {name: Attributed(one.latents, one.total) for name, one in (("find", found), ("held_out", claim))}
    within = {
        "attribution_reference": claim.reference.latents.mean(axis=0),
        "attribution_intervened": claim.intervened.latents.mean(axis=0),
    }
    write_parquet(
        files.latents,
        latent_table(activations.latent_sizes(), ranking, sides, checked, behavior.seed, within),
    )
    return _summary(checked)


def _summary(checked: Checked) -> dict[str, object]:
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


def _token_table(experiment: Experiment, claim: DecomposedShift, checked: Checked) -> pa.Table:
    """Attributions of the named latents on each token of the prompts of the claim."""
    assert claim.attribution is not None
    tokens = claim.attribution.tokens
    columns = {name: np.concatenate(getattr(tokens, name)) for name in vars(tokens)}
    named = np.isin(columns["latent"], checked.named)
    table = {name: values[named] for name, values in columns.items()}
    decode = experiment.pair.tokenizer.decode
    return TOKENS.build(table | {"token": [decode([token]) for token in table["token_id"].tolist()]})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
