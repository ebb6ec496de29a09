"""The stages that read a dictionary, as the command calls them: `analyze`, `attribute` and `explain`."""

import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from tqdm import tqdm

from crosscoder.activations.batch import ActivationReader
from crosscoder.activations.shards import DOCUMENTS, ShardReader
from crosscoder.activations.user_files import open_files
from crosscoder.config import FileActivations, RunConfig
from crosscoder.config.behavior import Behavior
from crosscoder.config.explanation import ExplanationSettings
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import DataError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.run.tracking import wandb_run
from crosscoder.runtime.device import sparse_device
from crosscoder.runtime.files import write_atomic
from crosscoder.text.documents import Documents

from .checkpoints.monitoring import Monitoring
from .explanations.explanation_column import tell_explanations
from .explanations.firing_rules import learn_rules
from .explanations.sentences import Facts, observation
from .labels.controls import read_controls
from .labels.feature_table import Features, make_features
from .labels.summary import make_summary
from .latents import logit_lens
from .latents.dictionary_view import DictionaryView, PairedView, linear_map_of, view_of
from .latents.examples import choose, examples_table
from .latents.held_out_pass import Pass, PassAccumulator, batches_for
from .latents.mean_difference import describe_difference
from .latents.neighbors import neighbors_of
from .latents.token_context import DocumentContext, RowContext, TokenContext
from .tables.columns import LOGITS
from .tables.histogram_rows import before_sources
from .tables.parquet import write_parquet
from .wandb_panels import log_analysis

logger = logging.getLogger(__name__)


class Material(NamedTuple):
    """What a run folder offers for reading: held-out tokens, what is known of them, and the models where there are any."""

    reader: ActivationReader
    context: TokenContext
    pair: ModelPair | None


def analyze(folder: RunFolder, config: RunConfig) -> None:
    """Write RUN/analysis from RUN/crosscoder and the held-out tokens.

    Raises:
        FormatError: The dictionary or the activations are missing or damaged.
        DataError: There is no held-out token.
        ConfigError, PairError: The models or files of the config cannot be opened.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with wandb_run(folder, config) as wandb, folder.stage("analyze") as stage:
        device = sparse_device("training.device", config.training.device)
        crosscoder = load_crosscoder(folder.crosscoder, device)
        material = open_material(folder, config)
        if not material.reader.n_tokens:
            raise DataError("activations: no held-out token is left to analyze; give more text")
        view = view_of(crosscoder, material.reader.d_models, config.crosscoder.reads, linear_map_of(folder))
        seen = read_through(material, view, config)
        controls = read_controls(folder, config, material.reader, material.context, device)
        nulls = controls.candidacies(config.analysis.rule)
        features = make_features(view, seen.statistics, config.analysis, config.seed, nulls)
        features.columns.update(controls.columns(view))
        monitoring = None
        if seen.chain is not None and isinstance(view, PairedView):
            monitoring = Monitoring(view, seen.chain, features.labels, config)
            features.columns["onset"] = monitoring.onset
        logits = _logits(material, view, seen, config)
        _write_examples(folder, material, view, seen, config)
        table = features.table(_observations(material, view, seen, features, logits))
        summary = make_summary(view, seen.statistics, features, config, folder.read_manifest(), controls)
        summary["plain_difference"] = _plain_difference(material, seen)
        summary["difference_components"] = (
            {} if seen.difference is None else seen.difference.explained_by_components()
        )
        summary["monitoring"] = None if monitoring is None else monitoring.summary()
        if monitoring is not None:
            write_parquet(folder.trajectories, monitoring.trajectories.table())
        write_parquet(folder.logits, logits)
        write_parquet(folder.neighbors, neighbors_of(view, seen.statistics.documents))
        write_parquet(folder.features, table)
        folder.rules.unlink(missing_ok=True)
        learn_rules(folder, config, material.reader, view, material.context)
        tell_explanations(folder)
        found = seen.statistics
        write_parquet(folder.histograms, found.histograms.table(found.source_names, found.source_tokens))
        before_sources(folder).unlink(missing_ok=True)
        write_atomic(folder.summary, json.dumps(summary, indent=2, allow_nan=False) + "\n")
        stage["tokens"] = seen.statistics.n_tokens
        log_analysis(wandb, folder)
    counts = {label: entry["count"] for label, entry in summary["counts"].items() if entry["count"]}
    logger.info("analyze: %s", ", ".join(f"{count} {label}" for label, count in counts.items()))


def attribute(folder: RunFolder, config: RunConfig, behavior: Behavior) -> Path:
    """Write RUN/behaviors/NAME for one behavior; its folder."""
    from .behaviors.attribute import attribute_behavior

    return attribute_behavior(folder, config, behavior).path


def explain(folder: RunFolder, config: RunConfig, settings: ExplanationSettings) -> None:
    """Write RUN/explanations."""
    from .explanations.explain import explain_latents

    explain_latents(folder, config, settings)


def open_material(folder: RunFolder, config: RunConfig) -> Material:
    """The held-out tokens of a run, wherever its activations come from."""
    if isinstance(config.activations, FileActivations):
        sides = open_files(config.activations, config.seed, check=False)
        return Material(sides.held_out, RowContext(sides.document), None)
    assert config.pair is not None  # the config sees to it
    reader = ShardReader(folder.activations, "held_out")
    documents = Documents.load(folder.activations / DOCUMENTS)
    pair = load_pair(config.pair)
    own = None if pair.readers is None else pair.tokenizer_of(1)
    return Material(reader, DocumentContext(documents, pair.tokenizer, own), pair)


def read_through(material: Material, view: DictionaryView, config: RunConfig) -> Pass:
    """One pass over all held-out tokens."""
    gathered = PassAccumulator(view, material.context, config.analysis, config.seed)
    with tqdm(total=material.reader.n_tokens, desc="analyze", unit=" tokens", unit_scale=True) as bar:
        for batch in batches_for(view, material.reader):
            gathered.update(batch)
            bar.update(len(batch.values))
    return gathered.result()


def _write_examples(
    folder: RunFolder, material: Material, view: DictionaryView, seen: Pass, config: RunConfig
) -> None:
    settings = config.analysis
    chosen = choose(seen.top, seen.sample, settings.quantile_examples)
    with tqdm(desc="examples", unit=" tokens", unit_scale=True) as bar:
        table = examples_table(
            material.reader,
            view,
            material.context,
            seen.finder,
            chosen,
            settings.context_tokens,
            bar.update,
        )
    write_parquet(folder.examples, table)


def _logits(material: Material, view: DictionaryView, seen: Pass, config: RunConfig) -> pa.Table:
    """Logit tables of all latents that fired; empty where there are no models to read directions with."""
    if material.pair is None:
        return LOGITS.schema().empty_table()
    assert isinstance(material.context, DocumentContext)
    alive = seen.statistics.documents > 0
    total = len(logit_lens.lens_directions(view)) * int(alive.sum())
    with tqdm(total=total, desc="logit lens", unit=" directions", unit_scale=True) as bar:
        return logit_lens.logits_table(
            view,
            material.pair,
            alive,
            config.analysis.logit_tokens,
            (material.context.vocabulary, material.context.intervened_vocabulary),
            bar.update,
        )


def _plain_difference(material: Material, seen: Pass) -> list[dict[str, object]]:
    if seen.difference is None:
        return []
    vocabulary = (
        material.context.intervened_vocabulary if isinstance(material.context, DocumentContext) else ()
    )
    return describe_difference(seen.difference, material.pair, vocabulary)


def _observations(
    material: Material, view: DictionaryView, seen: Pass, features: Features, logits: pa.Table
) -> list[str]:
    points_at: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    top = logits.filter(pc.field("side") == "top")
    for latent, model, token in zip(
        *(top[name].to_pylist() for name in ("latent", "model", "token")), strict=True
    ):
        points_at[latent][model].append(token)
    peak_tokens: dict[int, list[str]] = defaultdict(list)
    if material.pair is not None:
        shown = material.context.show(seen.top.document, seen.top.position).tokens.to_pylist()
        for latent, token in zip(seen.top.latent.tolist(), shown, strict=True):
            peak_tokens[latent].append(token)
    columns, statistics = features.columns, seen.statistics
    firings = dict(zip(statistics.source_names, statistics.by_source.tolist(), strict=True))
    nothing = np.full(view.n_latents, np.nan)
    relative_norm = columns.get("relative_norm", nothing)
    rates = [columns.get(f"density_{model}") for model in ("reference", "intervened")]
    return [
        observation(
            Facts(
                label=features.labels[latent],
                reason=features.reasons[latent],
                density=float(columns["density"][latent]),
                n_tokens=int(columns["n_tokens"][latent]),
                n_documents=int(columns["n_documents"][latent]),
                firings_by_source={name: counts[latent] for name, counts in firings.items()},
                template_share=float(columns["template_share"][latent]),
                peak_tokens=peak_tokens[latent],
                relative_norm=float(relative_norm[latent]),
                points_at=points_at[latent],
                density_by_model=None
                if rates[0] is None or rates[1] is None
                else (float(rates[0][latent]), float(rates[1][latent])),
            )
        )
        for latent in range(view.n_latents)
    ]
