"""The pairs that benchmarks use: always the toy pair, and SmolLM2 with its adapter if they are installed."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from crosscoder.config import AdapterSource, CachedActivations, RunConfig
from crosscoder.config.load import with_overrides
from crosscoder.demo.settings import demo_config
from crosscoder.demo.smollm2 import NAME
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.device import resolve_device
from crosscoder.runtime.timing import Comparison, compare
from crosscoder.text.documents import Documents, tokenize

from ..stages import train
from .harvest_speed import harvest_passes
from .settings import BenchConfig

_BATCH_TOKENS = 512
"""Tokens of a step of the brief training of a pair whose settings leave them open."""


class PreparedPair(NamedTuple):
    """A loaded pair with tokenized documents of its demo."""

    name: str
    pair: ModelPair
    documents: Documents
    batch_tokens: int


@contextmanager
def prepared_pairs(config: BenchConfig, *, toy: bool) -> Iterator[list[PreparedPair]]:
    """Provide the pairs for the duration of the block; with `toy`, the toy pair alone."""
    with tempfile.TemporaryDirectory() as folder:
        yield [_prepare(name, settings) for name, settings in _settings(Path(folder), config, toy).items()]


@contextmanager
def trained_runs(config: BenchConfig, *, toy: bool) -> Iterator[list[tuple[str, RunFolder, RunConfig]]]:
    """Provide a run folder for each pair, with activations and a dictionary trained for a few steps."""
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for name, settings in _settings(Path(folder), config, toy).items():
            batch_tokens = settings.training.batch_tokens or _BATCH_TOKENS
            short = with_overrides(
                settings,
                [
                    f"training.batch_tokens={batch_tokens}",
                    f"training.n_tokens={config.warmup * batch_tokens}",
                    "controls={drift: false, intermittent: false, identity: false, shuffled: false, seeds: 0}",
                ],
            )
            train(short)
            runs.append((name, RunFolder(short.output), short))
        yield runs


def harvest_benchmark(config: BenchConfig, *, toy: bool) -> list[Comparison]:
    """Compare extracting activations from both models with their forward passes alone."""
    with prepared_pairs(config, toy=toy) as pairs:
        return [
            compare(
                f"Harvest: {prepared.name}",
                harvest_passes(prepared.pair, prepared.documents, prepared.batch_tokens),
                reference="bare",
                repeats=config.repeats,
                device=prepared.pair.device,
                settings={
                    "batch_tokens": prepared.batch_tokens,
                    "documents": prepared.documents.n_documents,
                    "hookpoint": prepared.pair.hookpoints[0],
                },
            )
            for prepared in pairs
        ]


def _settings(folder: Path, config: BenchConfig, toy: bool) -> dict[str, RunConfig]:
    """Demo settings of each available pair, with all texts of the toy pair and some of those of the real pair."""
    available = {"the toy pair": demo_config(folder / "toy", toy=True)[0]}
    if not toy:
        real = demo_config(folder / "real")[0]
        assert real.pair is not None and real.text is not None
        # If the real pair is not installed, the demo falls back on the toy pair, which is already included.
        if isinstance(real.pair.intervened, AdapterSource):
            limits = [
                f"text.sources.{index}.limit={config.documents}" for index in range(len(real.text.sources))
            ]
            available[f"{NAME} and its adapter"] = with_overrides(real, limits)
    device = resolve_device("device", config.device).type
    overrides = [f"pair.device={device}", f"training.device={device}", "wandb.mode=disabled"]
    return {name: with_overrides(settings, overrides) for name, settings in available.items()}


def _prepare(name: str, settings: RunConfig) -> PreparedPair:
    assert settings.pair is not None and settings.text is not None
    assert isinstance(settings.activations, CachedActivations)
    pair = load_pair(settings.pair)
    documents = tokenize(
        settings.text, settings.tokens, pair.tokenizer, pair.chat_template, settings.seed, pair.readers
    )
    return PreparedPair(name, pair, documents, settings.activations.batch_tokens)
