"""How stable a dictionary is: which of its latents independent trainings find again, and what it explains, for several recipes.

For each recipe, one dictionary is trained on all training tokens and two more as long with other seeds, each on another half of the
training documents: as the controls `seed_N` of a run. Counted are latents that fire on at least `LEAST_DENSITY` of the held-out tokens. One is found again
if both other dictionaries have a latent whose concatenated decoder rows of all models have a cosine of at least 0.9 (or 0.7) with its
own. Without a run, the tokens are those of a planted pair, whose features a good recipe finds every time.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from crosscoder.config import FileActivations, RunConfig
from crosscoder.config.load import with_overrides
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import ConfigError
from crosscoder.planted import PlantedPair
from crosscoder.run.controls import control_config
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.timing import BenchmarkTable

from ..block_order import HALVES
from ..companion_dictionaries import train_companion
from ..recipe import k_is_open, resolved
from ..sources import CachedSource, TokenSource, open_source
from .planted_activations import PlantedReader
from .settings import StabilityConfig

logger = logging.getLogger(__name__)

LEAST_DENSITY = 0.001
"""Share of the held-out tokens on which a latent has to fire to be counted."""

SAME, SIMILAR = 0.9, 0.7
"""Cosines at which a latent counts as found again."""

_CHUNK = 4096


class Stability(NamedTuple):
    """One recipe, measured."""

    recipe: str
    n_counted: int
    """Latents that are counted."""

    same: float
    """Share of them that both other trainings find again, at a cosine of `SAME`."""

    similar: float
    """The same at `SIMILAR`."""

    evaluation: dict[str, float | None]
    """FVE and L0 of the dictionary on all tokens (`HeldOutMeter.measure`)."""


def stability_benchmark(settings: StabilityConfig, seed: int) -> BenchmarkTable:
    """Train and compare three dictionaries for each recipe.

    Raises:
        ConfigError: The run has no activations on disk, or k is left open, which only a sweep can choose.
    """
    config, source, name = _tokens(settings, seed)
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for number, recipe in enumerate(settings.recipes):
            words = recipe.split()
            output = Path(folder) / str(number)
            measured.append(measure_stability(recipe, with_overrides(config, words), source, output))
            logger.info("stability: %s: %.1f %% found again", recipe or "as is", 100 * measured[-1].same)
    return _table(measured, name, source)


def measure_stability(recipe: str, config: RunConfig, source: TokenSource, output: Path) -> Stability:
    """Train three dictionaries with these settings in folders under `output`, and compare them.

    Raises:
        ConfigError: k is left open.
    """
    config = resolved(config, source.d_models, source.n_train_tokens)
    if k_is_open(config):
        raise ConfigError(
            f"stability.recipes: {recipe!r} leaves crosscoder.sparsity.k open; give a number, or a run whose k is chosen"
        )
    whole = train_companion(control_config(config, output / "whole"), source, {})
    others = []
    for half in range(HALVES):
        again = control_config(config, output / f"half_{half}", seed=config.seed + 1 + half)
        part = source.reordered(again.seed).half(half)
        others.append(load_crosscoder(train_companion(again, part, {}).crosscoder))
    crosscoder = load_crosscoder(whole.crosscoder)
    counted = firing_shares(crosscoder, source) >= LEAST_DENSITY
    cosines = nearest_cosines(directions(crosscoder)[counted], [directions(other) for other in others])
    return Stability(
        recipe,
        n_counted=int(counted.sum()),
        same=_found_by_all(cosines, SAME),
        similar=_found_by_all(cosines, SIMILAR),
        evaluation=whole.read_manifest()["evaluation"],
    )


def _found_by_all(cosines: Float[Tensor, "other latent"], bound: float) -> float:
    return float((cosines >= bound).all(dim=0).float().mean())


def directions(crosscoder: Crosscoder) -> Float[Tensor, "latent width"]:
    """Decoder rows in raw units, all models concatenated."""
    return torch.cat(crosscoder.raw_decoder(), dim=1).detach()


def nearest_cosines(
    rows: Float[Tensor, "latent width"], others: Sequence[Float[Tensor, "_ width"]]
) -> Float[Tensor, "other latent"]:
    """For each latent, the largest cosine with a row of each other dictionary."""
    unit = normalize(rows, dim=1)
    return torch.stack([(unit @ normalize(other, dim=1).T).max(dim=1).values for other in others])


@torch.no_grad()
def firing_shares(crosscoder: Crosscoder, source: TokenSource) -> Float[Tensor, " latent"]:
    """Share of the held-out tokens on which each latent fires."""
    reader, n_latents = source.held_out(), crosscoder.config.n_latents
    fired = torch.zeros(n_latents)
    for batch in reader.batches(_CHUNK):
        latents = crosscoder.encode_sparse(batch.values.float()).latent
        fired += torch.bincount(latents, minlength=n_latents).float()
    return fired / reader.n_tokens


def _tokens(settings: StabilityConfig, seed: int) -> tuple[RunConfig, TokenSource, str]:
    """The settings and tokens of the run, or of a planted pair if there is none, and what they are."""
    if settings.run is not None:
        folder = RunFolder.open(settings.run)
        config = folder.read_config()
        if config.crosscoder.reads != "paired":
            raise ConfigError(
                f"stability.run: {settings.run} has no crosscoder; its view is {config.crosscoder.reads!r}"
            )
        return config, open_source(folder, config), str(settings.run)
    pair = PlantedPair(seed)
    train, held_out = (
        PlantedReader(pair.sample(n_tokens, seed=number), pair.d_models)
        for number, n_tokens in enumerate(
            (settings.planted_tokens, settings.planted_tokens // 8 + 1), start=1
        )
    )
    files = FileActivations(reference=Path("planted"), intervened=Path("planted"))
    config = with_overrides(
        RunConfig(output=Path("planted"), activations=files, seed=seed),
        [
            "training={n_tokens: 512000, precision: float32, device: cpu, evaluate_every: 1000000, checkpoint_every: 1000000}"
        ],
    )
    return config, CachedSource(train, held_out, seed), "a planted pair"


def _table(measured: Sequence[Stability], name: str, source: TokenSource) -> BenchmarkTable:
    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    rows = tuple(
        (
            one.recipe or "as is",
            f"{one.n_counted:,}",
            percent(one.same),
            percent(one.similar),
            percent(one.evaluation["metrics/explained_variance/reference"]),
            percent(one.evaluation["metrics/explained_variance/intervened"]),
            percent(one.evaluation.get("diff/explained_variance")),
            f"{one.evaluation['metrics/held_out_l0']:.1f}",
        )
        for one in measured
    )
    return BenchmarkTable(
        f"Stability: {name}, {source.n_train_tokens:,} training tokens",
        ("recipe", "latents", f"again, {SAME}", f"again, {SIMILAR}", "FVE ref", "FVE int", "FVE Δ", "L0"),
        rows,
        {
            "source": name,
            "n_train_tokens": source.n_train_tokens,
            "recipes": [one._asdict() for one in measured],
        },
        (
            f"Latents that fire on {100 * LEAST_DENSITY:g} % of the held-out tokens or more; found again by both of two trainings with "
            "other seeds, each on another half of the training documents.",
        ),
    )
