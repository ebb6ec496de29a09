"""Harvest: run all models over the documents and keep their activations on disk."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

from crosscoder.activations.shard_store import ShardStore, place_of, store_of
from crosscoder.activations.shards import (
    DOCUMENTS,
    MANIFEST,
    Manifest,
    ShardWriter,
    Split,
    SplitRecord,
)
from crosscoder.config import CachedActivations, FileActivations, RunConfig, StreamedActivations
from crosscoder.config.model_names import model_names
from crosscoder.errors import ConfigError, ResourceError
from crosscoder.language_models.pair import ModelPair
from crosscoder.run.folder import RunFolder
from crosscoder.text.documents import Documents

from .extraction import Batch, Read, check_documents, extract, group_batches, median_norms, plan_batches
from .fidelity import check_fidelity
from .harvest_identity import FIDELITY, check_identity, harvest_identity
from .outside_activations import OutsideActivations

logger = logging.getLogger(__name__)

# Required free disk space, as a multiple of the bytes to be written.
DISK_MARGIN = 1.1


def harvest(
    folder: RunFolder,
    config: RunConfig,
    pair: ModelPair,
    documents: Documents,
    outside: OutsideActivations | None = None,
) -> None:
    """Write the activations of all models to the run folder; if training streams, those of held-out documents alone. For those that go to
    a URL, see `harvest_parts.harvest_alone`.

    An interrupted harvest resumes after its last finished shard, and ends in the same bytes as an uninterrupted one. A
    finished harvest is reused. Parts, if any began, have to be joined before (`harvest_parts.join_parts`).

    Args:
        outside: Activations that another program computed; None: the models compute them.

    Raises:
        ConfigError: Activations come from files, or a document is longer than the context of the models.
        FormatError: The folder holds a harvest of another pair, of other texts or of other settings.
        DataError: Activations are NaN or infinite, or those from outside are not those of the models.
        ResourceError: The disk is too small.
    """
    settings = config.activations
    if isinstance(settings, FileActivations):
        raise ConfigError(
            "activations.kind: files are read in place, so there is nothing to harvest; run train directly"
        )
    target = folder.activations
    assert store_of(settings, target) is None
    plans, manifest = prepare(folder, config, pair, documents, outside)
    if manifest.complete:
        reuse(folder, config, pair, documents, manifest)
        return
    if manifest.rows:
        check_disk(folder, settings, pair, documents, plans, manifest.rows)
    for partial in target.rglob(".*.partial"):
        partial.unlink()  # left by a harvest that was killed
    writer = ShardWriter(target, manifest)
    with folder.stage("harvest") as stage:
        describe_inputs(folder, config, pair, documents)
        write_shards(writer, plans, manifest, pair, documents, "harvest", outside and outside.read)
        stage.update(summary(writer.record))


def prepare(
    folder: RunFolder,
    config: RunConfig,
    pair: ModelPair,
    documents: Documents,
    outside: OutsideActivations | None = None,
) -> tuple[dict[Split, list[list[Batch]]], Manifest]:
    """Return the shards to write, and the manifest; if there is none yet, write one without shards, and the documents. Where the settings
    name a URL, what is there counts.

    Raises: See `harvest`.
    """
    settings, target = config.activations, folder.activations
    assert not isinstance(settings, FileActivations)
    check_documents(documents, pair)
    plans = plan_shards(config, settings, documents)
    identity = harvest_identity(config, pair, documents, outside)
    store = store_of(settings, target)
    if store is not None:
        take_over(store, identity)
    if (target / MANIFEST).exists():
        manifest = Manifest.load(target)
        check_identity(manifest, identity, str(target))
    else:
        check_disk(folder, settings, pair, documents, plans, 0)
        recorded = {part: value for part, value in identity.items() if value is not None}
        if outside is not None:
            found = check_fidelity(pair, documents, outside, settings.batch_tokens)
            recorded["outside"] = outside.identity() | {FIDELITY: found}
        norms = median_norms(pair, documents, settings.batch_tokens, config.seed, outside and outside.read)
        manifest = Manifest(
            identity=recorded,
            dtype=settings.dtype,
            d_models=pair.d_models,
            documents_digest=documents.digest(),
            median_norms=norms,
            max_norms=tuple(norm * config.tokens.outlier_multiple for norm in norms),
            sides={side: SplitRecord(n_planned=len(plan)) for side, plan in plans.items()},
        )
        if store is not None:
            # Another process may have come first.
            manifest = store.begin(manifest)
            check_identity(manifest, identity, store.url)
        documents.save(target / DOCUMENTS)
        manifest.save(target)
    if store is not None and not manifest.complete:
        store.begin(manifest)
        if not (target / DOCUMENTS).exists():
            documents.save(target / DOCUMENTS)
        store.put_documents()
    return plans, manifest


def take_over(store: ShardStore, identity: dict[str, Any]) -> None:
    """Take what a URL holds of this harvest into the run folder, unless the folder has the finished manifest.

    Args:
        identity: That of the harvest, as far as it is known (`check_identity`).

    Raises:
        FormatError: It holds another harvest, or a damaged one.
    """
    found = store.look()
    if found is not None:
        check_identity(found, identity, store.url)
        store.take(found)


def reuse(
    folder: RunFolder, config: RunConfig, pair: ModelPair, documents: Documents, manifest: Manifest
) -> None:
    """Say that a finished harvest is used, and note it in the manifest of a run that took it over from a URL."""
    store = store_of(config.activations, folder.activations)
    logger.info("harvest: reusing the finished harvest in %s", place_of(store, folder.activations))
    if store is not None and "harvest" not in folder.read_manifest().get("stages", {}):
        with folder.stage("harvest") as stage:
            describe_inputs(folder, config, pair, documents)
            stage.update(summary(manifest, store))


def describe_inputs(folder: RunFolder, config: RunConfig, pair: ModelPair, documents: Documents) -> None:
    """Note the models and the texts in the manifest of the run."""
    folder.update_manifest("pair", pair.identity())
    describe_data(folder, config, documents)


def describe_data(folder: RunFolder, config: RunConfig, documents: Documents) -> None:
    """Note the texts in the manifest of the run, whose later commands read datasets at the revisions that stand there."""
    folder.update_manifest("data", _describe(config, documents))


def summary(manifest: Manifest, store: ShardStore | None = None) -> dict[str, Any]:
    """What the manifest of the run says of a finished harvest."""
    outside = manifest.identity.get("outside")
    return {
        **({} if store is None else {"store": store.url}),
        **({} if outside is None else {"outside": outside}),
        "tokens": {
            side: sum(shard.rows for shard in record.shards) for side, record in manifest.sides.items()
        },
        "outliers": {side: record.n_outliers for side, record in manifest.sides.items()},
        "median_norms": dict(
            zip(model_names(len(manifest.median_norms)), manifest.median_norms, strict=True)
        ),
    }


def plan_shards(
    config: RunConfig, settings: CachedActivations | StreamedActivations, documents: Documents
) -> dict[Split, list[list[Batch]]]:
    """Assign batches to shards. A shard depends on its own batches alone, so each can be written separately."""
    batch_tokens = min(settings.batch_tokens, settings.shard_tokens)
    sides: tuple[Split, ...] = (
        ("held_out", "train") if isinstance(settings, CachedActivations) else ("held_out",)
    )
    return {
        side: group_batches(
            plan_batches(documents, side == "held_out", batch_tokens, config.seed),
            documents,
            settings.shard_tokens,
        )
        for side in sides
    }


def bytes_needed(n_tokens: int, d_models: Sequence[int], dtype: str) -> int:
    """Bytes of `n_tokens` in shards: the activations, and the document and position of each token."""
    return n_tokens * (sum(d_models) * getattr(torch, dtype).itemsize + 8)


def _describe(config: RunConfig, documents: Documents) -> dict[str, Any]:
    """Describe the texts and the token policy for the manifest of the run."""
    assert config.text is not None
    sources = {}
    for index, name in enumerate(documents.source_names):
        in_source = documents.source == index
        sources[name] = {
            **(documents.readings[index] if documents.readings else {}),
            "documents": int(in_source.sum()),
            "documents_held_out": int((in_source & documents.held_out).sum()),
            "tokens_train": int(documents.unmasked[in_source & ~documents.held_out].sum()),
            "tokens_held_out": int(documents.unmasked[in_source & documents.held_out].sum()),
        }
    policy = config.tokens.model_dump(mode="json")
    aligned = {} if documents.alignment is None else {"alignment": documents.alignment.describe()}
    return {
        "fingerprint": documents.digest(),
        "sources": sources,
        "policy": policy,
        "max_length": config.text.max_length,
        **aligned,
    }


def check_disk(
    folder: RunFolder,
    settings: CachedActivations | StreamedActivations,
    pair: ModelPair,
    documents: Documents,
    plans: dict[Split, list[list[Batch]]],
    n_done: int,
) -> None:
    """Log how much will be written, and refuse if it does not fit on the disk.

    Raises:
        ResourceError: It does not fit.
    """
    unmasked = documents.unmasked
    n_tokens = (
        sum(int(unmasked[batch].sum()) for plan in plans.values() for group in plan for batch in group)
        - n_done
    )
    n_bytes = bytes_needed(n_tokens, pair.d_models, settings.dtype)
    folder.activations.mkdir(parents=True, exist_ok=True)
    free, store = shutil.disk_usage(folder.activations).free, store_of(settings, folder.activations)
    here, remedy = n_bytes, "use activations.kind stream, less text, or another disk"
    if store is not None:
        # The disk takes local copies alone.
        here = min(n_bytes, store.cache.most_bytes)
        remedy = "lower activations.store.cache_gb, or use another disk"
    logger.info(
        "harvest: writing %s tokens (%.2f GB) to %s (%.1f GB free%s)",
        f"{n_tokens:,}", n_bytes / 1e9, place_of(store, folder.activations), free / 1e9, "" if store is None else " for local copies",
    )  # fmt: skip
    if free < here * DISK_MARGIN:
        raise ResourceError(
            f"output: the activations need {here * DISK_MARGIN / 1e9:.2f} GB, but the disk of {folder.activations} has "
            f"{free / 1e9:.2f} GB free; {remedy}"
        )


def write_shards(
    writer: ShardWriter[Any],
    groups: Mapping[Split, Sequence[Sequence[Batch]]],
    manifest: Manifest,
    pair: ModelPair,
    documents: Documents,
    name: str,
    read: Read | None = None,
) -> None:
    """Write the missing shards of the writer's record, in order.

    Args:
        groups: The batches of each shard that the record is about.
        name: What is being done, for the progress bar and the log.
        read: See `extract`.
    """
    unmasked = documents.unmasked
    dtype: torch.dtype = getattr(torch, manifest.dtype)

    def count(groups: Sequence[Sequence[Batch]]) -> int:
        return sum(int(unmasked[batch].sum()) for group in groups for batch in group)

    finished = {side: len(writer.record.sides[side].shards) for side in groups}
    initial = sum(count(group[: finished[side]]) for side, group in groups.items())
    total = sum(count(group) for group in groups.values())
    with tqdm(desc=name, total=total, initial=initial, unit="tok", unit_scale=True) as progress:
        for side, planned in groups.items():
            for group in planned[finished[side] :]:
                parts = []
                for batch in group:
                    parts.append(extract(pair, documents, batch, manifest.max_norms, dtype, read))
                    progress.update(count([[batch]]))
                writer.write(
                    side,
                    torch.cat([part.values for part in parts]),
                    torch.cat([part.document for part in parts]),
                    torch.cat([part.position for part in parts]),
                    sum(part.n_outliers for part in parts),
                )
    writer.flush()
    dropped = sum(side.n_outliers for side in writer.record.sides.values())
    logger.info(
        "%s: finished, %s tokens written, %s dropped as norm outliers",
        name,
        f"{total - dropped:,}",
        f"{dropped:,}",
    )
