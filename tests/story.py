"""Run a planted pair through the console command, from arrays on disk to labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor

from crosscoder.command.app import app
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.planted import PlantedPair

N_TOKENS = 150_000


@dataclass(frozen=True)
class Story:
    """A finished run, with the pair that it analyzed."""

    pair: PlantedPair
    folder: Path
    features: pd.DataFrame
    matches: list[int]
    """For each latent, the planted feature it matches, or -1."""

    def found(self, label: str) -> set[int]:
        """Return the planted features that latents with this label match (-1 if a latent matches none)."""
        return {self.matches[latent] for latent in self.features.latent[self.features.label == label]}

    def planted(self, kind: str) -> set[int]:
        """Return the planted features of a kind."""
        return {index for index, name in enumerate(self.pair.truth.kinds) if name == kind}

    def f1(self, label: str) -> float:
        """Return the F1 score of a label. A planted feature counts once; a labeled latent that matches none is a false positive."""
        labeled = [self.matches[latent] for latent in self.features.latent[self.features.label == label]]
        planted = self.planted(label)
        right = [match for match in labeled if match in planted]
        if not labeled or not planted:
            return 0.0
        precision, recall = len(right) / len(labeled), len(set(right)) / len(planted)
        return 2 * precision * recall / max(precision + recall, 1e-9)


def settings(
    folder: Path, seed: int, n_tokens: int, k: int = 6, *, drift: bool = False, repeated: bool = True
) -> dict[str, object]:
    """Return the config of a story: the common settings of the planted benchmark, with a k for the standard regime.

    Without `repeated`, no other training has to find a claim again.
    """
    alone: dict[str, object] = {} if repeated else {"analysis": {"rule": {"replications": 0}}}
    return alone | {
        "output": str(folder / "run"),
        "activations": {
            "kind": "files",
            "reference": str(folder / "reference.npy"),
            "intervened": str(folder / "intervened.npy"),
        },
        "crosscoder": {"n_latents": 128, "sparsity": {"kind": "batch_topk", "k": k}},
        "training": {
            "n_tokens": n_tokens,
            "batch_tokens": 256,
            "lr": 5e-3,
            "precision": "float32",
            "calibration_tokens": 16384,
            "auxiliary": {"k": 24, "dead_after_tokens": 50_000},
            "log_every": 500,
            "evaluate_every": 2000,
            "checkpoint_every": 2000,
        },
        "controls": {"drift": drift, "identity": drift, "shuffled": drift}
        | ({} if repeated else {"seeds": 0}),
        "seed": seed,
        "threads": 1,
    }


def run_story(
    pair: PlantedPair,
    folder: Path,
    seed: int = 0,
    n_tokens: int = 1_500_000,
    values: Tensor | None = None,
    *,
    drift: bool = False,
    repeated: bool = True,
) -> Story:
    """Write the pair's activations, run the command on them, and read the labels."""
    folder.mkdir(parents=True, exist_ok=True)
    values = pair.sample(N_TOKENS, seed=1) if values is None else values
    np.save(folder / "reference.npy", values[:, : pair.d_model].numpy())
    np.save(folder / "intervened.npy", values[:, pair.d_model :].numpy())
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings(folder, seed, n_tokens, drift=drift, repeated=repeated)))
    threads = torch.get_num_threads()
    app(["run", str(config)], standalone_mode=False)
    torch.set_num_threads(threads)
    return read_story(pair, folder)


def read_story(pair: PlantedPair, folder: Path) -> Story:
    """Read the labels of a finished run."""
    run = folder / "run"
    features = pd.read_parquet(run / "analysis" / "features.parquet")
    reference, intervened = load_crosscoder(run / "crosscoder").raw_decoder()
    matches = pair.matches(reference, intervened)
    return Story(pair, run, features, matches)
