"""The verb `attribute`: the shift of a behavior, its attribution to latents, and causal checks on held-out prompts.

Writes RUN/behaviors/NAME: behavior.yaml, shift.json, prompts.parquet, and, if a shift is established, attribution.json,
attribution.parquet (one row per latent), tokens.parquet (one row per firing of a named latent) and causal.json.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from crosscoder.config.behavior import Behavior
from crosscoder.config.load import dump_config
from crosscoder.errors import ConfigError
from crosscoder.language_models.pair_models import check_pair_gradients
from crosscoder.runtime.files import write_atomic

from ..latents.trained_run import TrainedRun
from ..tables.columns import PROMPTS, TOKENS
from ..tables.parquet import write_parquet
from .activations import PromptActivations
from .answers import AnswerMeasurement
from .attribution import measure_corners
from .behavior_files import SCHEMA_VERSION, BehaviorFolder
from .carrying_latents import (
    DecomposedShift,
    answer_checks,
    check,
    checker_for,
    decompose_shift,
    decomposition,
    rank,
)
from .change_decomposition import Part
from .dose_response import Cost, dose_response
from .experiment import Experiment, has_shared_space
from .latent_table import Attributed, latent_table
from .layers import patch_layers
from .logit_metrics import CrossEntropy
from .measurement import LogitMeasurement
from .named_latents import Checked, findings
from .patching import INTERVENED, REFERENCE, PatchedRun, unchanged
from .prompt_statistics import Values
from .prompts import Prompt
from .random_parts import latent_mask
from .replicas import repeat, repeat_unshared, stability, trained_replicas, without_gradient
from .shift import Shift, measure_shift
from .unrelated_text import unrelated_prompts
from .unshared_space.activations import Baseline, PerModelActivations, baseline_of
from .unshared_space.attribution import attribute_unshared
from .unshared_space.carrying_latents import (
    check_unshared,
    rank_unshared,
    unshared_decomposition,
    unshared_findings,
)


class AttributedBehavior(NamedTuple):
    """The result for one behavior."""

    files: BehaviorFolder
    n_prompts: int
    shift: Shift
    summary: dict[str, object]
    """Entries of the wandb summary."""


def attribute_behavior(run: TrainedRun, behavior: Behavior) -> AttributedBehavior:
    """Measure, attribute and check one behavior of a run with models.

    Raises:
        ConfigError: A setting of the behavior cannot be used.
        DataError, FormatError, PairError: Prompts, dictionary or models cannot be used.
    """
    files, policy = BehaviorFolder(run.folder.behaviors / behavior.name), run.config.tokens
    pair, view = run.models
    baseline = None if has_shared_space(pair, view) else _baseline(run)
    experiment = Experiment(behavior, pair, view, policy, files.replies, baseline)
    if experiment.metric is not None:
        check_pair_gradients(pair.config, pair.networks)
    # First, because unreadable texts should be reported before any long work.
    unrelated = unrelated_prompts(behavior, run)
    files.clear()
    write_atomic(files.behavior, dump_config(behavior))
    shift = _measure(experiment, files)
    summary: dict[str, object] = {"shift": shift.size.value, "established": shift.established}
    if shift.established and baseline is None:
        summary |= _explain(run, experiment, files, unrelated)
    elif shift.established and baseline is not None and experiment.unshared_claim is not None:
        summary |= _explain_unshared(run, experiment, files, unrelated, baseline)
    return AttributedBehavior(files, len(experiment.prompts), shift, summary)


def _measure(experiment: Experiment, files: BehaviorFolder) -> Shift:
    """Measure the shift; write shift.json and prompts.parquet."""
    behavior, measurement = experiment.behavior, experiment.behavior_measurement
    reference, intervened = (measurement.values(unchanged(model)) for model in (REFERENCE, INTERVENED))
    shift = measure_shift(
        reference, intervened, experiment.repeated(), behavior.shift, behavior.seed, measurement.bounds
    )
    differentiable = experiment.gradient_measurement
    stand_in = None
    if differentiable is not None and differentiable is not measurement:
        one, other = (differentiable.values(unchanged(model)) for model in (REFERENCE, INTERVENED))
        stand_in = measure_shift(
            one, other, None, behavior.shift.model_copy(update={"at_least": 0.0}), behavior.seed
        )
    why = None
    if not shift.established:
        why = "no shift is established, so there is nothing to explain"
    elif not experiment.has_shared_space and differentiable is None:
        why = "the two models share no space, so latents are found by gradients within each model, but the metric has no gradient; give find_with"
    _write_json(
        files.shift,
        {
            "schema_version": SCHEMA_VERSION,
            "name": behavior.name,
            "description": behavior.description,
            "metric": behavior.metric.model_dump(mode="json"),
            "unit": measurement.unit,
            "unrelated": behavior.unrelated,
            "n_prompts": len(experiment.prompts),
            "n_held_out": int(experiment.held_out.sum()),
            "shift": shift.as_dict(),
            "stand_in": None
            if stand_in is None or differentiable is None
            else {"unit": differentiable.unit, **stand_in.as_dict()},
            "explained": why is None,
            "why_not": why,
        },
    )
    _write_prompts(experiment, files, reference, intervened)
    return shift


def _write_prompts(
    experiment: Experiment, files: BehaviorFolder, reference: Values, intervened: Values
) -> None:
    """Write the prompts of the claim set with both models' values and, for generated answers, the first answer of each."""
    measurement = experiment.behavior_measurement
    columns: dict[str, Any] = {
        "prompt": [prompt.text for prompt in experiment.prompts_of(held_out=True)],
        "reference": reference,
        "intervened": intervened,
    }
    if isinstance(measurement, AnswerMeasurement):
        for name, model in (("reference_answer", REFERENCE), ("intervened_answer", INTERVENED)):
            columns[name] = [answers[0] for answers in measurement.unchanged_answers[unchanged(model)]]
    write_parquet(files.prompts, PROMPTS.build(columns))


def _explain(
    run: TrainedRun, experiment: Experiment, files: BehaviorFolder, unrelated_texts: Sequence[Prompt]
) -> dict[str, object]:
    """Attribute the shift and check the latents; return entries of the wandb summary."""
    behavior, policy = experiment.behavior, run.config.tokens
    metric = CrossEntropy()
    side_effects = LogitMeasurement(
        PromptActivations.from_rows(experiment.pair, experiment.view, metric.rows(unrelated_texts), policy),
        metric,
    )
    confidence, seed = behavior.shift.confidence, behavior.seed
    found, claim = decompose_shift(experiment, experiment.find), decompose_shift(experiment, experiment.claim)
    ranking = rank(experiment, found)
    differentiable = experiment.claim.gradient_measurement
    unit = (differentiable or experiment.behavior_measurement).unit
    layers = None
    if experiment.metric is not None and behavior.attribution.layers:
        layers = patch_layers(
            experiment.pair, experiment.metric, experiment.find.prompts, policy, confidence, seed
        )
    _write_json(
        files.attribution,
        {
            "schema_version": SCHEMA_VERSION,
            "unit": unit,
            "find": decomposition(found, ranking, confidence, seed),
            "held_out": decomposition(claim, ranking, confidence, seed),
            "layers": layers,
        },
    )
    both_ends = check(experiment, ranking, found, claim)
    checked, n_latents = both_ends.along, experiment.view.n_latents
    shares = checker_for(experiment, claim)
    causal = {"unit": unit, **findings(shares, n_latents, ranking, both_ends, behavior)}
    causal["stability"] = _stability(run, experiment, found, claim, checked, unit)
    part = Part(latent_mask(checked.named, n_latents))
    if (
        experiment.claim.gradient_measurement is not None
        and experiment.behavior_measurement is not experiment.claim.gradient_measurement
    ):
        corners = measure_corners(experiment.behavior_measurement)
        causal["answers"] = answer_checks(experiment, corners, checked, ranking, experiment.claim.activations)
    else:
        causal["answers"] = None
    cost = Cost(side_effects, confidence, seed)
    (causal["removal_cost"],) = cost.measure([PatchedRun(INTERVENED, INTERVENED, part, -1)])
    causal["steering"] = dose_response(
        differentiable or experiment.behavior_measurement,
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
        name: Attributed(side.attribution.latents, side.corners.total)
        for name, side in (("find", found), ("held_out", claim))
        if side.attribution is not None
    }
    write_parquet(
        files.latents,
        latent_table(experiment.claim.activations.latent_sizes(), ranking, sides, checked, behavior.seed),
    )
    if claim.attribution is not None:
        write_parquet(files.tokens, _token_table(experiment, claim, checked))
    return _summary(checked)


def _explain_unshared(
    run: TrainedRun,
    experiment: Experiment,
    files: BehaviorFolder,
    unrelated_texts: Sequence[Prompt],
    baseline: Baseline,
) -> dict[str, object]:
    """`_explain` for two models that share no space."""
    behavior, pair, view = experiment.behavior, experiment.pair, experiment.view
    policy = run.config.tokens
    confidence, seed = behavior.shift.confidence, behavior.seed
    find, activations = experiment.unshared_find, experiment.unshared_claim
    assert find is not None and activations is not None
    found, claim = (attribute_unshared(side, behavior.attribution) for side in (find, activations))
    ranking = rank_unshared(found)
    _write_json(
        files.attribution,
        {
            "schema_version": SCHEMA_VERSION,
            "unit": activations.unit,
            "find": unshared_decomposition(found, ranking, confidence, seed),
            "held_out": unshared_decomposition(claim, ranking, confidence, seed),
            "layers": None,
        },
    )
    checked = check_unshared(activations, ranking, found, claim, behavior)
    metrics = CrossEntropy(), CrossEntropy()
    unrelated = PerModelActivations(pair, view, metrics, unrelated_texts, policy, baseline)
    causal = unshared_findings(activations, unrelated, ranking, claim, checked, behavior)
    wanted = trained_replicas(run, view) if behavior.checks.replicas else []
    repeated = [repeat_unshared(experiment, run, replica) for replica in wanted]
    causal["stability"] = stability(experiment, checked.along, activations.unit, repeated)
    _write_json(files.causal, {"schema_version": SCHEMA_VERSION, **causal})
    sides = {
        name: Attributed(side.latents, side.total) for name, side in (("find", found), ("held_out", claim))
    }
    within = {
        "attribution_reference": claim.reference.latents.mean(axis=0),
        "attribution_intervened": claim.intervened.latents.mean(axis=0),
    }
    write_parquet(
        files.latents,
        latent_table(activations.latent_sizes(), ranking, sides, checked.along, behavior.seed, within),
    )
    return _summary(checked.along)


def _stability(
    run: TrainedRun,
    experiment: Experiment,
    found: DecomposedShift,
    claim: DecomposedShift,
    checked: Checked,
    unit: str,
) -> dict[str, Any]:
    """Repeat finding and set check with the other trainings of the dictionary."""
    wanted = trained_replicas(run, experiment.view) if experiment.behavior.checks.replicas else []
    if wanted and found.attribution is None:
        return without_gradient(unit)
    repeated = [repeat(experiment, found, claim, replica) for replica in wanted]
    return stability(experiment, checked, unit, repeated)


def _summary(checked: Checked) -> dict[str, object]:
    together = {str(kind): compared.estimate.value for kind, compared in checked.together.items()}
    return {"level": checked.level, **together}


def _baseline(run: TrainedRun) -> Baseline:
    """Return the means over the run's held-out tokens. Raises ConfigError unless the dictionary has a direction per model."""
    if run.config.crosscoder.reads != "paired":
        raise ConfigError(
            f"crosscoder.reads is {run.config.crosscoder.reads!r}, but attribution between two models that share no space needs "
            "a direction per model; use paired"
        )
    return baseline_of(run.reader, run.view)


def _token_table(experiment: Experiment, claim: DecomposedShift, checked: Checked) -> pa.Table:
    """Return the attributions of the named latents at each token of the claim set."""
    assert claim.attribution is not None
    tokens = claim.attribution.tokens
    columns = {name: np.concatenate(getattr(tokens, name)) for name in vars(tokens)}
    named = np.isin(columns["latent"], checked.named)
    table = {name: values[named] for name, values in columns.items()}
    decode = experiment.pair.tokenizer.decode
    return TOKENS.build(table | {"token": [decode([token]) for token in table["token_id"].tolist()]})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
