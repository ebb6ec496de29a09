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

from crosscoder.behavior import Behavior
from crosscoder.config import RunConfig
from crosscoder.documents import Documents
from crosscoder.errors import ConfigError, DataError, did_you_mean
from crosscoder.folder import RunFolder, write_atomic
from crosscoder.pair import ModelPair
from crosscoder.settings import dump_config
from crosscoder.shards import DOCUMENTS, ShardReader
from crosscoder.texts import read_file
from crosscoder.tracking import wandb_run

from ..columns import PROMPTS, TOKENS
from ..explanations.firing_rules import learn_rules
from ..explanations.telling import require_observations, tell_explanations
from ..observers import Observer
from ..panels import log_behaviors
from ..run_models import load_models, require_models
from ..tables import write_parquet
from ..token_context import DocumentContext
from .answers import AnswerMeasurement
from .causal import chosen
from .change import Part
from .decomposition import measure_corners
from .explanation import Found, check, checker_of, decomposition, in_answers, rank, take_apart
from .latent_table import Attributed, latent_table
from .layers import patch_layers
from .measurement import LogitMeasurement
from .metrics import CrossEntropy
from .named_latents import Checked, findings
from .own_attribution import attribute_apart
from .own_explanation import check_apart, own_decomposition, own_findings, rank_apart
from .own_reading import Baseline, OwnReading, baseline_of
from .prompts import OwnTokens, Prompt, encode
from .reading import Reading
from .results import SCHEMA_VERSION, BehaviorFolder
from .runs import INTERVENED, REFERENCE, Run, unchanged
from .shift import Shift, measure_shift
from .statistics import Values
from .steering import Cost, dose_response
from .subject import Subject, exchangeable

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
        pair, observer = load_models(folder, config)
        baseline = None if exchangeable(pair, observer) else _baseline(folder, config, observer)
        subject = Subject(behavior, pair, observer, config.tokens, place.replies, baseline)
        # Before any long work: texts that cannot be read are told at once.
        elsewhere = _elsewhere(subject, folder)
        place.clear()
        write_atomic(place.behavior, dump_config(behavior))
        shift = _measure(subject, place)
        stage["prompts"] = len(subject.prompts)
        stage["established"] = shift.established
        told: dict[str, object] = {"shift": shift.size.value, "established": shift.established}
        if shift.established and baseline is None:
            told |= _explain(subject, place, elsewhere, config)
        elif shift.established and baseline is not None and subject.own_claim is not None:
            told |= _explain_apart(subject, place, elsewhere, config, baseline)
        wandb.summary({f"behaviors/{behavior.name}/{key}": value for key, value in told.items()})
        log_behaviors(wandb, folder)
    _tell(folder, config, pair, observer)
    logger.info("attribute: %s, %s", behavior.name, shift.verdict)
    return place


def _tell(folder: RunFolder, config: RunConfig, pair: ModelPair, observer: Observer) -> None:
    """Bring explanations in line with what was found, and look for a rule of the latents that it names."""
    if folder.features.is_file():
        documents = Documents.load(folder.activations / DOCUMENTS)
        reader = ShardReader(folder.activations, "held_out")
        learn_rules(folder, config, reader, observer, DocumentContext(documents, pair.tokenizer))
        tell_explanations(folder)


def _measure(subject: Subject, place: BehaviorFolder) -> Shift:
    """The shift itself: shift.json and prompts.parquet."""
    behavior, claimed = subject.behavior, subject.claimed
    reference, intervened = (claimed.values(unchanged(model)) for model in (REFERENCE, INTERVENED))
    shift = measure_shift(
        reference, intervened, subject.repeated(), behavior.shift, behavior.seed, claimed.bounds
    )
    measured = subject.measured
    stand_in = None
    if measured is not None and measured is not claimed:
        one, other = (measured.values(unchanged(model)) for model in (REFERENCE, INTERVENED))
        stand_in = measure_shift(
            one, other, None, behavior.shift.model_copy(update={"at_least": 0.0}), behavior.seed
        )
    why = None
    if not shift.established:
        why = "no shift is established, so there is nothing to explain"
    elif not subject.exchangeable and measured is None:
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
            "n_prompts": len(subject.prompts),
            "n_held_out": int(subject.held_out.sum()),
            "shift": shift.as_dict(),
            "stand_in": None
            if stand_in is None or measured is None
            else {"unit": measured.unit, **stand_in.as_dict()},
            "explained": why is None,
            "why_not": why,
        },
    )
    _write_prompts(subject, place, reference, intervened)
    return shift


def _write_prompts(subject: Subject, place: BehaviorFolder, reference: Values, intervened: Values) -> None:
    """The prompts of the claim with both models' values, and their first answers where there are any."""
    claimed = subject.claimed
    columns: dict[str, Any] = {
        "prompt": [prompt.text for prompt in subject.prompts_of(held_out=True)],
        "reference": reference,
        "intervened": intervened,
    }
    if isinstance(claimed, AnswerMeasurement):
        for name, model in (("reference_answer", REFERENCE), ("intervened_answer", INTERVENED)):
            columns[name] = [own[0] for own in claimed.seen[unchanged(model)]]
    write_parquet(place.prompts, PROMPTS.build(columns))


def _explain(
    subject: Subject, place: BehaviorFolder, elsewhere_prompts: Sequence[Prompt], config: RunConfig
) -> dict[str, object]:
    """Everything after the shift; what a summary of the run has to say of it."""
    behavior = subject.behavior
    metric = CrossEntropy()
    elsewhere = LogitMeasurement(
        Reading.of_rows(subject.pair, subject.observer, metric.rows(elsewhere_prompts), config.tokens), metric
    )
    confidence, seed = behavior.shift.confidence, behavior.seed
    found, claim = take_apart(subject, subject.find), take_apart(subject, subject.claim)
    ranking = rank(subject, found)
    measured = subject.claim.measured
    layers = None
    if subject.metric is not None and behavior.attribution.layers:
        layers = patch_layers(
            subject.pair, subject.metric, subject.find.prompts, config.tokens, confidence, seed
        )
    _write_json(
        place.attribution,
        {
            "schema_version": SCHEMA_VERSION,
            "unit": (measured or subject.claimed).unit,
            "find": decomposition(found, confidence, seed),
            "held_out": decomposition(claim, confidence, seed),
            "layers": layers,
        },
    )
    checked = check(subject, ranking, found, claim)
    causal = findings(checker_of(subject, claim), subject.observer.n_latents, ranking, checked, behavior)
    part = Part(chosen(checked.named, subject.observer.n_latents))
    if subject.claim.measured is not None and subject.claimed is not subject.claim.measured:
        corners = measure_corners(subject.claimed)
        causal["answers"] = in_answers(subject, corners, checked, ranking, subject.claim.reading)
    else:
        causal["answers"] = None
    cost = Cost(elsewhere, confidence, seed)
    (causal["removal_cost"],) = cost.of([Run(INTERVENED, INTERVENED, part, -1)])
    causal["steering"] = dose_response(
        measured or subject.claimed,
        claim.corners,
        subject.find.reading,
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
        place.latents, latent_table(subject.claim.reading.sizes(), ranking, sides, checked, behavior.seed)
    )
    if claim.attribution is not None:
        write_parquet(place.tokens, _token_table(subject, claim, checked))
    return _told(checked)


def _explain_apart(
    subject: Subject,
    place: BehaviorFolder,
    elsewhere_prompts: Sequence[Prompt],
    config: RunConfig,
    baseline: Baseline,
) -> dict[str, object]:
    """Everything after the shift, for two models that share no space; what a summary of the run has to say of it."""
    behavior, pair, observer = subject.behavior, subject.pair, subject.observer
    confidence, seed = behavior.shift.confidence, behavior.seed
    find, reading = subject.own_find, subject.own_claim
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
    elsewhere = OwnReading(pair, observer, metrics, elsewhere_prompts, config.tokens, baseline)
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


def _baseline(folder: RunFolder, config: RunConfig, observer: Observer) -> Baseline:
    """Means over the run's held-out tokens. Raises ConfigError for a dictionary with one direction for both models."""
    if config.crosscoder.reads != "paired":
        raise ConfigError(
            f"crosscoder.reads is {config.crosscoder.reads!r}, but behaviors of two models that share no space are attributed along "
            "directions of each; use paired"
        )
    return baseline_of(ShardReader(folder.activations, "held_out"), observer)


def _elsewhere(subject: Subject, folder: RunFolder) -> list[Prompt]:
    """Unrelated texts: those of the behavior's settings, or held-out documents of the run; some of them, cut."""
    behavior, pair = subject.behavior, subject.pair
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


def _token_table(subject: Subject, claim: Found, checked: Checked) -> pa.Table:
    """Attributions of the named latents on each token of the prompts of the claim."""
    assert claim.attribution is not None
    places = claim.attribution.places
    columns = {name: np.concatenate(getattr(places, name)) for name in vars(places)}
    named = np.isin(columns["latent"], checked.named)
    table = {name: values[named] for name, values in columns.items()}
    decode = subject.pair.tokenizer.decode
    return TOKENS.build(table | {"token": [decode([token]) for token in table["token_id"].tolist()]})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
