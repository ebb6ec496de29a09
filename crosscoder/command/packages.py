"""What needs `training` and `analysis` at once. They do not know each other, so both are loaded by name, and on demand: the
command answers `--help` without them. Functions that other processes run lie here and not in the command, whose module a new
process cannot import.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ..config import RunConfig
from ..errors import CrosscoderError
from ..run.folder import RunFolder


def module(name: str) -> ModuleType:
    """Import a module of this project, never a namesake from the working directory."""
    package = name.partition(".")[0]
    ours = Path(__file__).resolve().parents[2] / package
    spec = importlib.util.find_spec(package)
    places = (
        [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    )
    if ours not in places[:1]:
        origin = spec.origin if spec is not None else None
        found = origin or (str(places[0]) if places else "nothing")
        raise CrosscoderError(
            f"{package}: Python finds {found}, expected {ours}; "
            "use the console command `crosscoder`, or run from another folder"
        )
    return import_module(name)


def train_and_analyze(config: RunConfig) -> RunFolder:
    """A run from its settings to its table of features."""
    module("training.stages").train(config)
    folder = RunFolder.open(config.output)
    module("analysis.stages").analyze(folder, config)
    return folder


def choose_k(config: RunConfig, ks: Sequence[int]) -> int:
    """What a sweep over `ks` chooses."""
    return int(module("training.stages").sweep(config, ks).chosen.k)


_PLANTED_BATCHES = 4


def bench_analysis(config: Any, device: Any, toy: bool) -> Iterator[Any]:
    """The pass over tokens that analysis makes, beside encoding them: on planted tokens with a dictionary of the shape that steps
    are measured at, and on a dictionary of each pair, trained briefly."""
    crosscoder, batches = module("training.bench.step").planted_reading(config, device, _PLANTED_BATCHES)
    yield _analysis_figures(str(config.shape), crosscoder, batches, config, config.shape.d_models, "paired")
    storage, shards = module("crosscoder.dictionary.storage"), module("crosscoder.activations.shards")
    with module("training.bench.pairs").trained_runs(config, toy=toy) as runs:
        for name, folder, run_config in runs:
            reader = shards.ShardReader(folder.activations, "train")
            batches = list(reader.batches(run_config.training.batch_tokens))
            crosscoder = storage.load_crosscoder(folder.crosscoder, device)
            reads = run_config.crosscoder.reads
            yield _analysis_figures(name, crosscoder, batches, config, reader.d_models, reads)


def bench_page(config: Any) -> Iterator[Any]:
    """The static page of made-up runs: what it costs to build, and how fast it answers."""
    yield from module("analysis.bench.page").page_benchmark(config.page_latents, config.repeats)


def _analysis_figures(
    name: str, crosscoder: Any, batches: Any, config: Any, d_models: tuple[int, ...], reads: str
) -> Any:
    view = module("analysis.latents.dictionary_view").view_of(crosscoder, d_models, reads)
    comparison = module("crosscoder.runtime.timing").compare(
        f"Analysis: {name}",
        module("analysis.bench.analysis_pass").analysis_passes(view, batches),
        reference="encode",
        repeats=config.repeats,
        device=view.device,
        settings=crosscoder.config.model_dump(mode="json"),
    )
    return comparison.figures()
