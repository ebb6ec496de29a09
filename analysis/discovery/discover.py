"""The verb `discover`: writes RUN/discovery/findings.json, answers.parquet, candidates.parquet, nulls.json, and a file for each behavior.

Needs only the models and the text of a run, no dictionary.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from crosscoder.config import DiscoveryConfig, PairConfig, RunConfig
from crosscoder.errors import FormatError
from crosscoder.language_models.identity import digest_json
from crosscoder.language_models.pair import ModelPair
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import remove_folder, write_atomic

from ..behaviors.generation import why_no_answers
from ..behaviors.patching import INTERVENED, REFERENCE
from ..tables.columns import CANDIDATES
from ..tables.parquet import write_parquet
from .answer_store import AnswerStore
from .behavior_of_finding import write_behavior
from .finding_records import changed_share, finding_records
from .findings_file import Discovery, NullSearch, read_discovery, write_discovery
from .joining_answers import lacks_answers, require_answers, write_joining
from .probes import Probe, choose_probes
from .search import PromptReader, SearchResult, search
from .subjects import Clock, Subject, TimeSpent

logger = logging.getLogger(__name__)

_VERSION = 5
"""Raised with every change of the search, so that runs are searched again."""

_IRRELEVANT = ("hookpoint", "d_model", "model", "revision", "adapter")
"""Parts of a model's identity that its answers do not depend on: where it is read, and where it lies; its weights have digests."""

_BITS = 8
_NULL_NAMES = {
    "itself": "the reference is compared with itself",
    "rounded": f"the reference is compared with itself after rounding its weights to {_BITS} bits",
    "benign": "the reference is compared with the benign model",
}


def models_to_ask(pair: PairConfig, settings: DiscoveryConfig) -> PairConfig:
    """Return the settings of a pair, with the benign model of the search behind its snapshots: an adapter then shares the reference's
    weights."""
    if settings.benign is None:
        return pair
    return pair.model_copy(update={"snapshots": (*pair.snapshots, settings.benign)})


def discover(folder: RunFolder, config: RunConfig, pair: ModelPair) -> Discovery:
    """Search for changed behaviors and write the record. A search that is finished is not made again, so that edited behaviors stay.

    Args:
        pair: The models that `models_to_ask` names.

    Raises:
        ConfigError, DataError, FormatError, PairError: The run's text or models cannot be used, or answers join the text (`text.answers`), but
            there are none.
    """
    settings = config.discovery
    probes = choose_probes(config, pair)
    made_with = _made_with(config, pair, probes)
    if not lacks_answers(folder, config) and (finished := _finished(folder, made_with)) is not None:
        logger.info("discover: finished before, with the same models, prompts and settings")
        return finished
    store = AnswerStore(folder.discovery / "answers.parquet", answers_made_with(config, pair))
    clock = Clock(settings.minutes)

    def subject(name: str, model: int, bits: int | None = None) -> Subject:
        return Subject(name, pair, model, settings, config.seed, store, clock, bits)

    models = subject("reference", REFERENCE), subject("intervened", INTERVENED)
    benign = len(pair.models) - 1
    reader = PromptReader(pair, config.tokens)
    readers = {"benign": PromptReader(pair, config.tokens, benign)}
    why_not = _why_not(pair, probes, settings)
    found = None if why_not else _searched(models, probes, reader, config)
    nulls, missing = [], []
    for kind in settings.searched_nulls if found is not None else ():
        # Another benign model has other answers.
        name = f"null: {kind}" + (f" {_benign_digest(pair)[:12]}" if kind == "benign" else "")
        null = subject(name, benign if kind == "benign" else REFERENCE, _BITS if kind == "rounded" else None)
        searched = _searched((models[0], null), probes, readers.get(kind, reader), config)
        if searched is None:
            missing.append(kind)
        else:
            nulls.append((kind, searched))
    incomplete = why_not or _why_incomplete(found, missing)
    record = record_of(found, nulls, settings, incomplete).model_copy(update={"made_with": made_with})
    write_joining(folder, config, pair, found)
    _write(folder, record, found, nulls, models)
    logger.info("discover: %d findings of %d hypotheses", len(record.findings), record.hypotheses)
    if incomplete:
        logger.warning("discover: incomplete: %s", incomplete)
    require_answers(folder, config, why_not)
    return record


def answers_made_with(config: RunConfig, pair: ModelPair) -> dict[str, Any]:
    """Return everything that answers depend on beside their prompt."""
    settings = config.discovery.model_dump(include={"answer_tokens", "temperature"})
    models = {
        name: {key: value for key, value in side.items() if key not in _IRRELEVANT}
        if isinstance(side, dict)
        else side
        for name, side in pair.identity().items()
        if config.discovery.benign is None or name != pair.model_names[-1]
    }
    return {"seed": config.seed, "pair": models, **settings}


def _benign_digest(pair: ModelPair) -> str:
    """Return a digest of the benign model, the last that was loaded."""
    return digest_json(pair.identity()[pair.model_names[-1]])


def _made_with(config: RunConfig, pair: ModelPair, probes: Sequence[Probe]) -> str:
    """Return a digest of everything that the search depends on, apart from its time."""
    return digest_json(
        {
            "version": _VERSION,
            "answers": answers_made_with(config, pair),
            "prompts": [[probe.prompt.text, probe.find] for probe in probes],
            "settings": config.discovery.model_dump(mode="json", exclude={"minutes", "attribute"}),
            "tokens": config.tokens.model_dump(mode="json"),
            "benign": None if config.discovery.benign is None else _benign_digest(pair),
        }
    )


def _finished(folder: RunFolder, made_with: str) -> Discovery | None:
    """Return the record of a finished search with this digest; None if there is none, or a behavior that it wrote is gone."""
    former = _former(folder)
    if former is None or former.made_with != made_with or former.incomplete is not None:
        return None
    files = [folder.path / finding.behavior for finding in former.findings if finding.behavior is not None]
    return former if all(path.is_file() for path in files) else None


def _former(folder: RunFolder) -> Discovery | None:
    # A record that cannot be read is written anew.
    with suppress(FormatError):
        return read_discovery(folder.findings)
    return None


def _why_not(pair: ModelPair, probes: Sequence[Probe], settings: DiscoveryConfig) -> str | None:
    """Return why these models cannot be searched at all; None if they can."""
    if (why := why_no_answers(pair)) is not None:
        return why
    if not probes:
        return (
            f"no prompt is short enough for the models to read it with an answer of {settings.answer_tokens} tokens; lower "
            "discovery.answer_tokens, or give text that the tokenizer knows"
        )
    return None


def _searched(
    models: tuple[Subject, Subject], probes: Sequence[Probe], reader: PromptReader, config: RunConfig
) -> SearchResult | None:
    """Return the result of a search; None if there was no time even for its first round."""
    try:
        return search(models, probes, reader, config.discovery, config.seed)
    except TimeSpent:
        return None


def _why_incomplete(found: SearchResult | None, missing: Sequence[str]) -> str | None:
    if found is None:
        return "its time (discovery.minutes) was spent before both models had answered every prompt, so nothing was tested"
    if missing:
        named = ", ".join(missing)
        return (
            found.incomplete
            or f"its time (discovery.minutes) was spent before these nulls were searched: {named}"
        )
    return found.incomplete


def record_of(
    found: SearchResult | None,
    nulls: Sequence[tuple[str, SearchResult]],
    settings: DiscoveryConfig,
    incomplete: str | None,
) -> Discovery:
    """Return the record of a search.

    Args:
        found: The result; None if nothing was tested.
        nulls: Kinds and results of the nulls.
        incomplete: Why the search stopped early; None if it did not.
    """
    probes = [] if found is None else found.asked.probes
    return Discovery(
        prompts=dict(Counter(probe.origin for probe in probes)),
        find_prompts=sum(probe.find for probe in probes),
        claim_prompts=sum(not probe.find for probe in probes),
        answer_tokens=settings.answer_tokens,
        temperature=settings.temperature,
        false_discovery_rate=settings.false_discovery_rate,
        least_difference=settings.least_difference,
        hypotheses=0 if found is None else len(found.tested),
        findings=() if found is None else finding_records(found),
        nulls=tuple(
            NullSearch(
                name=_NULL_NAMES[kind],
                hypotheses=len(null.tested),
                findings=len(null.findings),
                found=tuple(one.hypothesis.effect.text for one in null.findings),
            )
            for kind, null in nulls
        ),
        changed_prompts=None if found is None else changed_share(found),
        incomplete=incomplete,
    )


def _write(
    folder: RunFolder,
    record: Discovery,
    found: SearchResult | None,
    nulls: Sequence[tuple[str, SearchResult]],
    models: tuple[Subject, Subject],
) -> None:
    folder.discovery.mkdir(parents=True, exist_ok=True)
    _remove_former(folder, {finding.name for finding in record.findings})
    for finding, tested in zip(record.findings, found.findings if found else (), strict=True):
        if finding.behavior is not None and found is not None:
            write_behavior(folder.path / finding.behavior, finding, tested, found, models)
    rows = [] if found is None else _candidate_rows("pair", found)
    for kind, null in nulls:
        rows += _candidate_rows(kind, null)
    write_parquet(
        folder.discovery / "candidates.parquet", pa.Table.from_pylist(rows, schema=CANDIDATES.schema())
    )
    content = [one.model_dump(mode="json") for one in record.nulls]
    write_atomic(folder.discovery / "nulls.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    write_discovery(folder.findings, record)


def _remove_former(folder: RunFolder, names: set[str]) -> None:
    """Remove the behaviors of a former search, with their attribution, that this one does not find."""
    former = _former(folder)
    for finding in () if former is None else former.findings:
        if finding.name not in names and finding.behavior is not None:
            (folder.path / finding.behavior).unlink(missing_ok=True)
            remove_folder(folder.behaviors / finding.name)


def _candidate_rows(name: str, result: SearchResult) -> list[dict[str, Any]]:
    return [
        {
            "search": name,
            "direction": one.hypothesis.direction,
            "effect": one.hypothesis.effect.kind,
            "text": one.hypothesis.effect.text,
            "trigger": one.hypothesis.trigger.kind,
            "trigger_words": list(one.hypothesis.trigger.words),
            "n_prompts": one.with_trigger.n,
            "rate_reference": one.with_trigger.reference.value,
            "rate_intervened": one.with_trigger.intervened.value,
            "auroc": None if one.auroc is None else one.auroc.value,
            "p_value": one.p_value,
            "q_value": one.q_value,
            "finding": any(one is finding for finding in result.findings),
        }
        for one in result.tested
    ]
