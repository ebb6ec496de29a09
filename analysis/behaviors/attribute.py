"""The verb `attribute`: a behavior's shift, where it comes from, and whether that holds on prompts that nothing was found with.

Writes RUN/behaviors/NAME: behavior.yaml, shift.json, prompts.parquet, and, where a shift is established, attribution.json,
attribution.parquet (one row a latent), tokens.parquet (one row a firing of a named latent) and causal.json.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int64

from crosscoder.activations.shards import DOCUMENTS, ShardReader
from crosscoder.config import RunConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.load import dump_config
from crosscoder.errors import ConfigError, DataError, did_you_mean
from crosscoder.language_models.pair import ModelPair
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import wandb_run
from crosscoder.runtime.files import write_atomic
from crosscoder.text.documents import Documents
from crosscoder.text.text_files import read_file

from ..explanations.explanation_column import require_observations, tell_explanations
from ..explanations.firing_rules import learn_rules
from ..latents.dictionary_view import DictionaryView
from ..latents.run_models import load_models, require_models
from ..latents.token_context import DocumentContext
from ..tables.columns import PROMPTS, TOKENS
from ..tables.parquet import write_parquet
from ..wandb_panels import log_behaviors
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
from .prompts import OwnTokens, Prompt, encode
from .shared_space import Found, check, checker_of, decomposition, in_answers, rank, take_apart
from .shift import Shift, measure_shift
from .unshared_space.activations import Baseline, OwnActivations, baseline_of
from .unshared_space.attribution import attribute_apart
from .unshared_space.causal import check_apart, own_decomposition, own_findings, rank_apart

logger = logging.getLogger(__name__)

_ELSEWHERE_TOKENS = 64
"""Of each unrelated text are read."""


def attribute_behavior(folder: RunFolder, config: RunConfig, behavior: Behavior) -> BehaviorFolder:
    """Measure, explain and check one behavior of a finished run.

    Raises:
        ConfigError: The run has no models (activations came from files), or a setting of the behavior cannot be used.
        DataError, FormatError, PairError: Prompts, dictionary or models cannot be used.
    """
    require_models(folder, config, "a behavior")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    require_observations(folder)
    place = BehaviorFolder(folder.behaviors / behavior.name)
    with wandb_run(folder, config) as wandb, folder.stage(f"attribute {behavior.name}") as stage:
        pair, view = load_models(folder, config)
        baseline = None if exchangeable(pair, view) else _baseline(folder, config, view)
        experiment = Experiment(behavior, pair, view, config.tokens, place.replies, baseline)
        # Before any long work: texts that cannot be read are told at once.
        elsewhere = _elsewhere(experiment, folder)
        place.clear()
        write_atomic(place.behavior, dump_config(behavior))
        shift = _measure(experiment, place)
        stage["prompts"] = len(experiment.prompts)
        stage["established"] = shift.established
        told: dict[str, object] = {"shift": shift.size.value, "established": shift.established}
        if shift.established and baseline is None:
            told |= _explain(experiment, place, elsewhere, config)
        elif shift.established and baseline is not None and experiment.own_claim is not None:
            told |= _explain_apart(experiment, place, elsewhere, config, baseline)
        wandb.summary({f"behaviors/{behavior.name}/{key}": value for key, value in told.items()})
        log_behaviors(wandb, folder)
    _tell(folder, config, pair, view)
    logger.info("attribute: %s, %s", behavior.name, shift.verdict)
    return place


def _tell(folder: RunFolder, config: RunConfig, pair: ModelPair, view: DictionaryView) -> None:
    """Bring explanations in line with what was found, and look for a rule of the latents that it names."""
    if folder.features.is_file():
        documents = Documents.load(folder.activations / DOCUMENTS)
        reader = ShardReader(folder.activations, "held_out")
        learn_rules(folder, config, reader, view, DocumentContext(documents, pair.tokenizer))
        tell_explanations(folder)


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
    experiment: Experiment, place: BehaviorFolder, elsewhere_prompts: Sequence[Prompt], config: RunConfig
) -> dict[str, object]:
    """Everything after the shift; what a summary of the run has to say of it."""
    behavior = experiment.behavior
    metric = CrossEntropy()
    elsewhere = LogitMeasurement(
        PromptActivations.of_rows(
            experiment.pair, experiment.view, metric.rows(elsewhere_prompts), config.tokens
        ),
        metric,
    )
    confidence, seed = behavior.shift.confidence, behavior.seed
    found, claim = take_apart(experiment, experiment.find), take_apart(experiment, experiment.claim)
    ranking = rank(experiment, found)
    measured = experiment.claim.measured
    layers = None
    if experiment.metric is not None and behavior.attribution.layers:
        layers = patch_layers(
            experiment.pair, experiment.metric, experiment.find.prompts, config.tokens, confidence, seed
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
    elsewhere_prompts: Sequence[Prompt],
    config: RunConfig,
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
    elsewhere = OwnActivations(pair, view, metrics, elsewhere_prompts, config.tokens, baseline)
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


def _baseline(folder: RunFolder, config: RunConfig, view: DictionaryView) -> Baseline:
    """Means over the run's held-out tokens. Raises ConfigError for a dictionary with one direction for both models."""
    if config.crosscoder.reads != "paired":
        raise ConfigError(
            f"crosscoder.reads is {config.crosscoder.reads!r}, but behaviors of two models that share no space are attributed along "
            "directions of each; use paired"
        )
    return baseline_of(ShardReader(folder.activations, "held_out"), view)


def _elsewhere(experiment: Experiment, folder: RunFolder) -> list[Prompt]:
    """Unrelated texts: those of the behavior's settings, or held-out documents of the run; some of them, cut."""
    behavior, pair = experiment.behavior, experiment.pair
    if isinstance(behavior.elsewhere, Path):
        prompts = encode(read_file(behavior.elsewhere, "elsewhere"), pair)
    else:
        documents = Documents.load(folder.activations / DOCUMENTS)
        prompts = [_prompt_of(documents, int(index)) for index in _unrelated(documents, behavior.elsewhere)]
    every = max(1, -(-len(prompts) // behavior.elsewhere_limit))
    cut = [prompt.cut(_ELSEWHERE_TOKENS) for prompt in prompts[::every]]
    if not cut:
        raise DataError(f"elsewhere: {behavior.elsewhere} holds no text; give some, or leave the setting out")
    return cut


def _prompt_of(documents: Documents, index: int) -> Prompt:
    """A document in the tokens that the models read."""
    aligned, own = documents.alignment, None
    if aligned is not None:
        places = aligned.places[documents.offsets[index] : documents.offsets[index + 1]]
        own = OwnTokens(documents.tokens_of(index, 1).astype(np.int64), places)
    return Prompt("", documents.tokens_of(index).astype(np.int64), own)


def _unrelated(documents: Documents, sources: tuple[str, ...] | None) -> Int64[np.ndarray, " document"]:
    """Held-out documents of some sources, or of all. Raises ConfigError for a source that the run does not have."""
    names = documents.source_names
    for source in sources or ():
        if source not in names:
            raise ConfigError(
                f"elsewhere: the run has no text source {source!r}{did_you_mean(source, names)}; it has {', '.join(names)}"
            )
    found = documents.side(held_out=True)
    wanted = [names.index(source) for source in sources or names]
    return found[np.isin(documents.source[found], wanted)]


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
