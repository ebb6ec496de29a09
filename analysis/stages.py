"""The stages `analyze`, `attribute` and `explain`, which read a trained dictionary."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64
from tqdm import tqdm

from crosscoder.config import RunConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.explanation import ExplanationSettings
from crosscoder.config.load import load_config
from crosscoder.config.open_settings import HOOKPOINT, with_value
from crosscoder.errors import DataError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.language_models.pair_models import require_gradients
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import wandb_run
from crosscoder.runtime.files import remove_file, write_atomic

from .change.change_elements import describe_change
from .checkpoints.monitoring import Monitoring
from .discovery.findings_file import Discovery, read_discovery
from .explanations.firing_rules import learn_rules
from .explanations.observations import observations
from .features_file import read_features, require_observations, write_features
from .labels.controls import read_controls
from .labels.feature_table import AskUnselected, Support, make_features
from .labels.run_checks import Reconstruction, check_run, withheld
from .labels.summary import l0_target, make_summary
from .latents import logit_lens
from .latents.dictionary_view import PairedView
from .latents.examples import examples_table, select_examples
from .latents.held_out_pass import Pass
from .latents.mean_difference import LISTED, describe_difference
from .latents.neighbors import neighbors_of
from .latents.readable_lists import NullLists
from .latents.trained_run import TrainedRun
from .latents.unselected_scaling import UnselectedScaling, UnselectedSums, unselected_inputs
from .rank_work import (
    SharedPasses,
    attribute_over_ranks,
    attributed_apart,
    open_run,
    read_held_out,
    set_threads,
)
from .tables.columns import LOGITS
from .tables.histogram_rows import legacy_histograms_path
from .tables.parquet import write_parquet
from .wandb_panels import log_analysis, log_behaviors

logger = logging.getLogger(__name__)


def analyze(folder: RunFolder, config: RunConfig) -> None:
    """Write RUN/analysis from RUN/crosscoder and the held-out tokens.

    Raises:
        FormatError: The dictionary or the activations are missing or damaged.
        DataError: There are no held-out tokens.
        ConfigError, PairError: The models or files of the settings cannot be opened.
    """
    run = open_run(folder, config)
    with wandb_run(folder, config) as wandb, folder.stage("analyze") as stage:
        if not run.reader.n_tokens:
            raise DataError("activations: there are no held-out tokens to analyze; add text")
        view = run.view
        # Before the long pass, so that a model that cannot be loaded is reported at once.
        pair = run.pair if run.has_models else None
        seen, readings = read_held_out(run)
        passes = SharedPasses(run)
        controls = read_controls(folder, config, run.reader.d_models, view.device, readings)
        rebuilt = Reconstruction(seen.statistics.fve, seen.statistics.l0, l0_target(config))
        checks = check_run(rebuilt, controls, config.analysis.conditions)
        support = Support(
            controls.null_candidates(config.analysis.rule),
            controls.replicas,
            _ask_unselected(run, passes),
            withheld(checks),
        )
        features = make_features(view, seen.statistics, config.analysis, config.seed, support)
        features.columns.update(controls.columns(view))
        monitoring = None
        if seen.chain is not None and isinstance(view, PairedView):
            monitoring = Monitoring(view, seen.chain, features.labels, config)
            features.columns["onset"] = monitoring.onset
        nulls, logits = _logits(run, pair, seen)
        _write_examples(run, seen)
        table = features.table(observations(run, seen, features, logits))
        summary = make_summary(view, seen.statistics, features, config, folder.read_manifest(), controls)
        summary["checks"] = [check.as_dict() for check in checks]
        described = describe_change(
            passes.held_out(), features.labels, features.candidates, controls.replicas, passes
        )
        summary["change"] = None if described is None else described.record
        summary["logit_lens"] = logit_lens.count_readable(logits)
        summary["plain_difference"] = _plain_difference(run, pair, seen, nulls)
        summary["difference_components"] = (
            {} if seen.difference is None else seen.difference.explained_by_components()
        )
        summary["monitoring"] = None if monitoring is None else monitoring.summary()
        if monitoring is not None:
            write_parquet(folder.trajectories, monitoring.trajectories.table())
        write_parquet(folder.logits, logits)
        write_parquet(folder.neighbors, neighbors_of(view, seen.statistics.documents))
        remove_file(folder.rules)
        learn_rules(run, table)
        write_features(folder, table)
        found = seen.statistics
        write_parquet(folder.histograms, found.histograms.table(found.source_names, found.source_tokens))
        remove_file(legacy_histograms_path(folder))
        write_atomic(folder.summary, json.dumps(summary, indent=2, allow_nan=False) + "\n")
        stage["tokens"] = seen.statistics.n_tokens
        log_analysis(wandb, folder)
    if summary["withheld"]:
        logger.warning("analyze: nothing is labeled: %s", summary["withheld"])
    counts = {label: entry["count"] for label, entry in summary["counts"].items() if entry["count"]}
    logger.info("analyze: %s", ", ".join(f"{count} {label}" for label, count in counts.items()))


def attribute(folder: RunFolder, config: RunConfig, behavior: Behavior) -> Path:
    """Write RUN/behaviors/NAME for one behavior, and return that folder.

    Raises: See `attribute_each`.
    """
    (path,) = attribute_each(folder, config, [behavior])
    return path


def attribute_each(folder: RunFolder, config: RunConfig, behaviors: Sequence[Behavior]) -> Iterator[Path]:
    """Write RUN/behaviors/NAME for each behavior, and yield that folder. Several ranks attribute different ones at the same time.

    Raises:
        ConfigError: The run has no models (its activations came from files), or a setting of a behavior is not possible.
        DataError, FormatError, PairError: Prompts, dictionary or models cannot be used.
    """
    if not behaviors:
        return
    run = open_run(folder, config)
    run.require_models("a behavior")
    require_observations(folder)
    apart = attributed_apart(config, behaviors)
    waiting = [behavior.name for behavior in behaviors]
    with wandb_run(folder, config) as wandb:
        for some in [behaviors] if apart else [[behavior] for behavior in behaviors]:
            with ExitStack() as stack:
                stages = [stack.enter_context(folder.stage(f"attribute {one.name}")) for one in some]
                attributed = attribute_over_ranks(run, some)
                for stage, found in zip(stages, attributed, strict=True):
                    stage["prompts"], stage["established"] = found.n_prompts, found.established
                    if apart:
                        stage["wall_seconds"] = found.seconds
            for behavior, found in zip(some, attributed, strict=True):
                name = behavior.name
                waiting.remove(name)
                wandb.summary({f"behaviors/{name}/{key}": value for key, value in found.summary.items()})
                log_behaviors(wandb, folder)
                if folder.features.is_file():
                    # Latents that the behavior names get a rule, and their explanations include its evidence.
                    table = read_features(folder)
                    learn_rules(run, table, not_yet=waiting)
                    write_features(folder, table)
                logger.info("attribute: %s, %s", name, found.verdict)
                yield folder.behaviors / name


def check_attributable(config: RunConfig, behaviors: Sequence[Behavior]) -> None:
    """Check, before any long work, that the models have the gradients that the attribution of these behaviors or of findings needs.

    Raises:
        PairError: They do not, because they are quantized in such a way.
        ConfigError, FormatError, ResourceError: A model cannot be loaded.
    """
    found = config.discovery.prompts and config.discovery.attribute
    if config.pair is not None and (found or any(one.gradient_metric is not None for one in behaviors)):
        require_gradients(config.pair)


def discover(folder: RunFolder, config: RunConfig) -> Discovery | None:
    """Write RUN/discovery, and return what was found; None if the search is switched off or the run has no models.

    Raises:
        ConfigError, DataError, FormatError, PairError: The run's text or models cannot be used.
    """
    from .discovery.discover import discover as search_behaviors
    from .discovery.discover import models_to_ask
    from .latents.models_of_run import check_models

    set_threads(config)
    if not config.discovery.prompts or config.pair is None:
        return None
    with wandb_run(folder, config) as wandb, folder.stage("discover") as stage:
        pair = load_pair(models_to_ask(config.pair, config.discovery), middle_if_open=True)
        check_models(folder, pair)
        found = search_behaviors(folder, config, pair)
        stage["prompts"], stage["findings"] = sum(found.prompts.values()), len(found.findings)
        wandb.summary({"discovery/findings": len(found.findings), "discovery/hypotheses": found.hypotheses})
    return found


def explain(folder: RunFolder, config: RunConfig, settings: ExplanationSettings) -> None:
    """Write RUN/explanations.

    Raises:
        ConfigError: The run has no tokens, no latent is selected, or a model is not available.
        ResourceError: The token budget would be exceeded, or an endpoint does not reply.
        FormatError: Dictionary, activations or rules are missing or damaged.
    """
    from .explanations.explain import explain_latents, require_explainable, summary_of

    run = open_run(folder, config)
    require_explainable(run, settings)
    with folder.stage("explain") as stage:
        rows, spent = explain_latents(run, settings)
        stage["latents"], stage["tokens"] = len(rows), spent
    logger.info("explain: %s", summary_of(rows))


def settle_hookpoint(folder: RunFolder, config: RunConfig) -> RunConfig:
    """Choose the hookpoint if the settings leave it open, by the first finding of `discover`, and write it to config.yaml.

    Raises:
        PairError: The models have no decoder layers that correspond.
        ConfigError, DataError, FormatError: The models, or the record of `discover`, cannot be used.
    """
    from .behaviors.hookpoint_choice import choose_layer

    if config.pair is None or config.pair.hookpoint is not None:
        return config
    set_threads(config)
    found = read_discovery(folder.findings)
    files = [finding.behavior for finding in found.findings if finding.behavior] if found is not None else []
    behavior = load_config(folder.path / files[0], (), Behavior) if files else None
    with folder.stage("hookpoint") as stage:
        choice = choose_layer(load_pair(config.pair, middle_if_open=True), behavior, config.tokens)
        stage["hookpoint"], stage["why"] = choice.hookpoint, choice.why
    logger.info("run: pair.hookpoint %s (%s)", choice.hookpoint, choice.why)
    config = with_value(config, HOOKPOINT, choice.hookpoint)
    RunFolder.create(folder.path, config)
    return config


def _ask_unselected(run: TrainedRun, read: SharedPasses) -> AskUnselected | None:
    """Return how latents are measured again on the tokens that one model alone chooses; None if directions cannot be compared."""
    view = run.view
    if not isinstance(view, PairedView) or not view.aligned:
        return None

    def ask(
        latents: Int64[np.ndarray, " asked"],
        chosen_by_intervened: Bool[np.ndarray, " asked"],
        mean_activation: Float64[np.ndarray, " latent"],
    ) -> UnselectedScaling:
        inputs = unselected_inputs(latents, chosen_by_intervened, mean_activation)
        return read(UnselectedSums, read.held_out(), inputs).result()

    return ask


def _write_examples(run: TrainedRun, seen: Pass) -> None:
    settings = run.config.analysis
    selection = select_examples(seen.top, seen.sample, settings.quantile_examples)
    with tqdm(desc="examples", unit=" tokens", unit_scale=True) as bar:
        table = examples_table(
            run.reader, run.view, run.context, seen.finder, selection, settings.context_tokens, bar.update
        )
    write_parquet(run.folder.examples, table)


def _logits(run: TrainedRun, pair: ModelPair | None, seen: Pass) -> tuple[dict[int, NullLists], pa.Table]:
    """Return the lists of random directions, and the logit tables of all latents that fired; both empty if the run has no models."""
    if pair is None:
        return {}, LOGITS.schema().empty_table()
    context, settings, view = run.document_context, run.config.analysis, run.view
    alive, count = seen.statistics.documents > 0, settings.logit_tokens
    with tqdm(
        total=logit_lens.n_read(view, alive), desc="logit lens", unit=" directions", unit_scale=True
    ) as bar:
        nulls = logit_lens.lens_nulls(view, pair, alive, max(count, LISTED), run.config.seed, bar.update)
        table = logit_lens.logits_table(
            view,
            pair,
            alive,
            count,
            (context.vocabulary, context.intervened_vocabulary),
            nulls,
            settings.rule.false_discovery_rate,
            bar.update,
        )
    return nulls, table


def _plain_difference(
    run: TrainedRun, pair: ModelPair | None, seen: Pass, nulls: dict[int, NullLists]
) -> list[dict[str, object]]:
    if seen.difference is None:
        return []
    vocabulary = () if pair is None else run.document_context.intervened_vocabulary
    rate = run.config.analysis.rule.false_discovery_rate
    return describe_difference(seen.difference, pair, vocabulary, nulls.get(1), rate)
