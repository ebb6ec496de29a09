"""Functions that need both `training` and `analysis`. The two do not import each other, so both are loaded by name and on demand, and
`--help` works without them. Functions that run in other processes are defined here, because a new process cannot import the command's
module.
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
    """Import a module of this project, never one of the same name from the working directory."""
    package = name.partition(".")[0]
    ours = Path(__file__).resolve().parents[2] / package
    spec = importlib.util.find_spec(package)
    folders = (
        [] if spec is None else [Path(folder).resolve() for folder in spec.submodule_search_locations or ()]
    )
    if ours not in folders[:1]:
        origin = spec.origin if spec is not None else None
        found = origin or (str(folders[0]) if folders else "nothing")
        raise CrosscoderError(
            f"{package}: Python finds {found}, expected {ours}; "
            "use the console command `crosscoder`, or run from another folder"
        )
    return import_module(name)


def train_and_analyze(config: RunConfig) -> RunFolder:
    """Train and analyze one run."""
    module("training.stages").train(config)
    folder = RunFolder.open(config.output)
    module("analysis.stages").analyze(folder, config)
    return folder


def choose_k(config: RunConfig, ks: Sequence[int]) -> int:
    """Return the k that a sweep over `ks` chooses."""
    return int(module("training.stages").sweep(config, ks).chosen.k)


_PLANTED_BATCHES = 4


def bench_analysis(config: Any, device: Any, toy: bool) -> Iterator[Any]:
    """Time the analysis pass relative to encoding alone: on planted tokens with a dictionary of the benchmark's shape, and on a
    briefly trained dictionary of each pair."""
    crosscoder, batches = module("training.bench.step").planted_reading(config, device, _PLANTED_BATCHES)
    yield _analysis_table(str(config.shape), crosscoder, batches, config, config.shape.d_models, "paired")
    storage, shards = module("crosscoder.dictionary.storage"), module("crosscoder.activations.shards")
    with module("training.bench.pairs").trained_runs(config, toy=toy) as runs:
        for name, folder, run_config in runs:
            reader = shards.ShardReader(folder.activations, "train")
            batches = list(reader.batches(run_config.training.batch_tokens))
            crosscoder = storage.load_crosscoder(folder.crosscoder, device)
            reads = run_config.crosscoder.reads
            yield _analysis_table(name, crosscoder, batches, config, reader.d_models, reads)


def bench_page(config: Any) -> Iterator[Any]:
    """Time the page of synthetic runs: how long it takes to build, and how fast it responds."""
    yield from module("analysis.bench.page").page_benchmark(config.page_latents, config.repeats)


def _analysis_table(
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
    return comparison.table()
