"""The pairs of models that the package finds: the toy pair always, SmolLM2 and its adapter where they are installed."""

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


class PreparedPair(NamedTuple):
    """A pair with some of the documents of its demo."""

    name: str
    pair: ModelPair
    documents: Documents
    batch_tokens: int


@contextmanager
def prepared_pairs(config: BenchConfig, *, toy: bool) -> Iterator[list[PreparedPair]]:
    """The pairs, until the end of the block; `toy` leaves the real one out."""
    with tempfile.TemporaryDirectory() as place:
        yield [_prepare(name, settings) for name, settings in _settings(Path(place), config, toy).items()]


@contextmanager
def trained_runs(config: BenchConfig, *, toy: bool) -> Iterator[list[tuple[str, RunFolder, RunConfig]]]:
    """A run folder for each pair, with activations and a dictionary that was trained for a few steps."""
    with tempfile.TemporaryDirectory() as place:
        runs = []
        for name, settings in _settings(Path(place), config, toy).items():
            n_tokens = config.warmup * settings.training.batch_tokens
            short = with_overrides(
                settings,
                [
                    f"training.n_tokens={n_tokens}",
                    "controls={drift: false, identity: false, shuffled: false}",
                ],
            )
            train(short)
            runs.append((name, RunFolder(short.output), short))
        yield runs


def harvest_benchmark(config: BenchConfig, *, toy: bool) -> list[Comparison]:
    """Reading activations out of both models, beside the two forward passes alone."""
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


def _settings(place: Path, config: BenchConfig, toy: bool) -> dict[str, RunConfig]:
    """Settings of the demo for every pair that is there: all of the toy pair's texts, some of the real pair's."""
    found = {"the toy pair": demo_config(place / "toy", toy=True)[0]}
    if not toy:
        real = demo_config(place / "real")[0]
        assert real.pair is not None and real.text is not None
        # Where the real pair is not installed, the demo falls back on the toy pair, which is there already.
        if isinstance(real.pair.intervened, AdapterSource):
            limits = [
                f"text.sources.{index}.limit={config.documents}" for index in range(len(real.text.sources))
            ]
            found[f"{NAME} and its adapter"] = with_overrides(real, limits)
    device = resolve_device("device", config.device).type
    words = [f"pair.device={device}", f"training.device={device}", "wandb.mode=disabled"]
    return {name: with_overrides(settings, words) for name, settings in found.items()}


def _prepare(name: str, settings: RunConfig) -> PreparedPair:
    assert settings.pair is not None and settings.text is not None
    assert isinstance(settings.activations, CachedActivations)
    pair = load_pair(settings.pair)
    documents = tokenize(
        settings.text, settings.tokens, pair.tokenizer, pair.chat_template, settings.seed, pair.readers
    )
    return PreparedPair(name, pair, documents, settings.activations.batch_tokens)
