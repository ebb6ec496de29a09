"""The verb `evaluate discovery`: searches every organism of a zoo without being told, and scores what was found.

OUTPUT/embedded                      the reference and the texts
OUTPUT/reference_answers.parquet     the reference's answers, which all pairs share
OUTPUT/cases/NAME/result.json        the scores of an organism; one that has them is not searched again
OUTPUT/cases/NAME/findings.json      what was found, as `discover` writes it
OUTPUT/cases/NAME/answers.parquet    the answers, from which an interrupted search continues
OUTPUT/results.md                    the tables
"""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crosscoder.config import RunConfig
from crosscoder.config.load import with_overrides
from crosscoder.demo.settings import prepare_reference
from crosscoder.errors import ConfigError
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.runtime.files import make_folder, read_json, write_atomic
from crosscoder.runtime.processes import run_in_processes

from ..behaviors.patching import INTERVENED, REFERENCE
from ..discovery.answer_store import AnswerStore
from ..discovery.discover import answers_made_with, record_of
from ..discovery.findings_file import write_discovery
from ..discovery.probes import choose_probes
from ..discovery.search import PromptReader, search
from ..discovery.subjects import Clock, Subject
from .finding_scores import score_search
from .recall_tables import markdown
from .zoo_folder import Organism, read_organisms

logger = logging.getLogger(__name__)

_MINUTES = 120
"""Limit of a search: it is measured, so that it must not be cut."""

RESULTS = "results.md"


def evaluate_discovery(
    zoo: Path, output: Path, *, only: Sequence[str] = (), overrides: Sequence[str] = (), workers: int = 1
) -> list[dict[str, Any]]:
    """Search the organisms without a result, in `workers` processes with one thread each, and write the tables.

    No nulls are searched beside each pair: the zoo has pairs without a behavior.

    Returns:
        The results of all organisms, by name.

    Raises:
        ConfigError: There is no such organism, or a result in `output` was made with other settings.
        DataError: The reference's package is not installed.
        FormatError: A card or a result is damaged.
        ResourceError: A worker died, for example of too little memory.
    """
    organisms = read_organisms(zoo, only)
    make_folder(output, "OUTPUT")
    reference, texts = prepare_reference(output / "embedded")
    configs = [_config(one, output, reference, texts, overrides) for one in organisms]
    results = {
        one.name: found
        for one, config in zip(organisms, configs, strict=True)
        if (found := _stored(output, one, config)) is not None
    }
    jobs = [
        (one, config, output)
        for one, config in zip(organisms, configs, strict=True)
        if one.name not in results
    ]
    if jobs:
        # In a process of its own, like every search, so that seconds of one thread are counted.
        list(run_in_processes(_answer_reference, [(jobs[0][1], output)], workers=1))
    with tqdm(total=len(organisms), initial=len(results), desc="evaluate discovery", unit="pair") as bar:
        for number, result in run_in_processes(search_organism, jobs, workers):
            results[jobs[number][0].name] = result
            bar.update()
            logger.info("%s: %.0f s", jobs[number][0].name, result["seconds"])
    write_results(output)
    return [results[one.name] for one in organisms]


def write_results(output: Path) -> None:
    """Write results.md from every organism with a result.

    Raises:
        ConfigError: The organisms were searched with different settings.
        FormatError: A result is damaged.
    """
    results = [_read(path) for path in sorted((output / "cases").glob("*/result.json"))]
    for one in results[1:]:
        if one["settings"] != results[0]["settings"]:
            raise ConfigError(
                f"{output}: {results[0]['name']} and {one['name']} were searched with different settings; choose another output, or "
                f"remove one of them from {output / 'cases'}"
            )
    write_atomic(output / RESULTS, markdown(results))


def search_organism(organism: Organism, config: RunConfig, output: Path) -> dict[str, Any]:
    """Search one organism, score what was found, and write result.json."""
    folder = output / "cases" / organism.name
    pair = _pair(config)
    store = AnswerStore(folder / "answers.parquet", answers_made_with(config, pair))
    shared = _shared_answers(output, config)
    probes = choose_probes(config, pair)
    texts = [probe.prompt.text for probe in probes]
    store.add("reference", texts, [answer for text in texts if (answer := shared.get("reference", text))])
    models = tuple(_subject(model, pair, config, store) for model in (REFERENCE, INTERVENED))
    reader = PromptReader(pair, config.tokens)
    before = time.process_time()
    found = search((models[0], models[1]), probes, reader, config.discovery, config.seed)
    seconds = time.process_time() - before
    write_discovery(folder / "findings.json", record_of(found, (), config.discovery, found.incomplete))
    result = {
        "name": organism.name,
        "description": organism.description,
        "kind": organism.kind,
        "tuning": organism.tuning,
        "valid": organism.valid,
        "settings": _settings(config),
        "seconds": seconds,
        "reference_seconds": json.loads(_seconds_file(output).read_text(encoding="utf-8")),
        "answer_tokens": sum(len(answer.token_ids) for side in found.asked.answers for answer in side),
        **score_search(found, organism, reader, (models[0], models[1]), config),
    }
    write_atomic(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def _answer_reference(config: RunConfig, output: Path) -> None:
    """Sample the reference's answers to the prompts of the first round."""
    shared = _shared_answers(output, config)
    pair = _pair(config)
    prompts = [probe.prompt for probe in choose_probes(config, pair)]
    if all(shared.get("reference", prompt.text) for prompt in prompts) and _seconds_file(output).is_file():
        return
    before = time.process_time()
    _subject(REFERENCE, pair, config, shared).answers(prompts)
    write_atomic(_seconds_file(output), f"{time.process_time() - before:.1f}\n")


def _pair(config: RunConfig) -> ModelPair:
    assert config.pair is not None, "the settings of an organism have a pair"
    return load_pair(config.pair)


def _subject(model: int, pair: ModelPair, config: RunConfig, store: AnswerStore) -> Subject:
    name = ("reference", "intervened")[model]
    return Subject(name, pair, model, config.discovery, config.seed, store, Clock(config.discovery.minutes))


def _shared_answers(output: Path, config: RunConfig) -> AnswerStore:
    return AnswerStore(output / "reference_answers.parquet", _settings(config))


def _seconds_file(output: Path) -> Path:
    return output / "reference_seconds.json"


def _config(
    organism: Organism, output: Path, reference: Path, texts: dict[str, Path], overrides: Sequence[str]
) -> RunConfig:
    """Return the settings of a pair: a user's defaults, but for the time and the nulls."""
    intervened = organism.folder.resolve().as_posix()
    config = RunConfig.model_validate(
        {
            "output": output / "cases" / organism.name,
            "pair": {
                "reference": {"model": str(reference.resolve())},
                "intervened": {"adapter": intervened} if organism.is_adapter else {"model": intervened},
                # A search reads answers, and represents prompts by a layer of its own choice.
                "hookpoint": "model.layers.15",
            },
            "text": {"sources": [{"name": name, "path": path.resolve()} for name, path in texts.items()]},
            "discovery": {"minutes": _MINUTES, "nulls": []},
            "threads": 1,
        }
    )
    config = with_overrides(config, overrides)
    if config.pair is None:
        raise ConfigError("pair: the zoo says which models are compared; leave this override out")
    return config


def _settings(config: RunConfig) -> dict[str, Any]:
    """Return what must be equal for all pairs of a table."""
    shared = config.model_dump(mode="json", include={"seed", "discovery", "text", "tokens"})
    return {**shared, "reference": config.model_dump(mode="json")["pair"]["reference"]}


def _stored(output: Path, organism: Organism, config: RunConfig) -> dict[str, Any] | None:
    path = output / "cases" / organism.name / "result.json"
    if not path.is_file():
        return None
    result = _read(path)
    if result.get("settings") != _settings(config):
        raise ConfigError(
            f"{path}: made with other settings than these; choose another output, or remove {path.parent}"
        )
    return result


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, "remove it to search the pair again")
