"""A run on two tiny language models with an untrained, calibrated dictionary."""

from pathlib import Path
from typing import Any

import torch

from analysis import stages
from crosscoder.activations.shards import ShardReader
from crosscoder.config import AnalysisConfig, BatchTopK, ControlsConfig, DictionaryConfig, RunConfig
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.storage import save_crosscoder
from crosscoder.dictionary.views import View, crosscoder_config, view_rows
from crosscoder.run.folder import RunFolder
from tests.tiny_pairs import run_config
from training.stages import harvest

N_LATENTS = 24


def make_pair_run(
    folder: Path, reads: View, intervened: Path | dict[str, Any], reference: Path, **pair: Any
) -> tuple[RunConfig, RunFolder]:
    """Make a run with activations, a dictionary and its analysis; `pair` holds additional settings of the pair."""
    dictionary = DictionaryConfig(reads=reads, n_latents=N_LATENTS, sparsity=BatchTopK(k=4))
    config = run_config(
        folder,
        reference,
        intervened,
        crosscoder=dictionary.model_dump(),
        controls=ControlsConfig.none().model_dump(mode="json"),
        analysis=AnalysisConfig(
            top_examples=3, quantile_examples=2, context_tokens=5, logit_tokens=4, bootstrap_samples=50
        ).model_dump(),
    )
    assert config.pair is not None
    config = RunConfig.model_validate(config.model_dump() | {"pair": config.pair.model_dump() | pair})
    harvest(config)
    run = RunFolder(config.output)
    reader = ShardReader(run.activations, "train")
    values = reader.gather(torch.arange(reader.n_tokens)).values
    crosscoder = Crosscoder(crosscoder_config(dictionary, reader.d_models))
    rows = view_rows(values, reader.d_models, reads)
    crosscoder.set_normalization(rows)
    crosscoder.calibrate(rows)
    save_crosscoder(crosscoder, run.crosscoder)
    stages.analyze(run, config)
    return config, run
