"""The cases of the benchmark, each with its regime, method, number of firing latents and seed, and their run settings."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from crosscoder.config import (
    AnalysisConfig,
    DictionaryConfig,
    FileActivations,
    RunConfig,
    TrainingConfig,
)
from crosscoder.config.load import with_overrides
from crosscoder.errors import ConfigError, did_you_mean
from crosscoder.planted.planted_pair import PlantedPair
from crosscoder.planted.regimes import regime_named

N_TOKENS = 150_000
"""Tokens sampled per case: 586 documents. A regime can need several times as many (`Regime.more_tokens`)."""

SWEPT = (1, 2, 3, 4, 5, 6, 8, 12, 16)
"""Values of k for a sweep, which does not know how many features fire: about 4, or 1 of those that changed."""


@dataclass(frozen=True)
class Method:
    """A method to train a dictionary: overrides of the common settings, with `{k}` for the number of firing latents."""

    description: str
    overrides: tuple[str, ...]


METHODS: dict[str, Method] = {
    "batch_topk": Method(
        "crosscoder, BatchTopK", ("crosscoder.sparsity.kind=batch_topk", "crosscoder.sparsity.k={k}")
    ),
    "unweighted": Method(
        "crosscoder, BatchTopK, without the loss term for the difference",
        (
            "crosscoder.sparsity.kind=batch_topk",
            "crosscoder.sparsity.k={k}",
            "training.difference_weight=0",
        ),
    ),
    "topk": Method("crosscoder, TopK", ("crosscoder.sparsity.kind=topk", "crosscoder.sparsity.k={k}")),
    "l1": Method(
        "crosscoder, ReLU with an L1 penalty, as published: without the loss term for the difference",
        (
            "crosscoder.sparsity.kind=relu",
            "crosscoder.sparsity.target_l0={k}",
            "crosscoder.decoder_norm=0.1",
            "training.difference_weight=0",
        ),
    ),
    "jumprelu": Method(
        "crosscoder, JumpReLU with a tanh penalty",
        ("crosscoder.sparsity.kind=jumprelu", "crosscoder.sparsity.target_l0={k}"),
    ),
    "matryoshka": Method(
        "crosscoder, nested BatchTopK",
        (
            "crosscoder.sparsity.kind=batch_topk",
            "crosscoder.sparsity.k={k}",
            "crosscoder.nested=[0.125, 0.25, 0.5]",
        ),
    ),
    "exclusive": Method(
        "crosscoder with a tenth of its latents exclusive to each model",
        (
            "crosscoder.sparsity.kind=batch_topk",
            "crosscoder.sparsity.k={k}",
            "crosscoder.exclusive=0.1",
        ),
    ),
    "tied": Method(
        "crosscoder with a quarter of its latents tied",
        ("crosscoder.sparsity.kind=batch_topk", "crosscoder.sparsity.k={k}", "crosscoder.tied=0.25"),
    ),
    "diff_sae": Method(
        "BatchTopK SAE on the difference",
        (
            "crosscoder.reads=difference",
            "crosscoder.sparsity.kind=batch_topk",
            "crosscoder.sparsity.k={k}",
        ),
    ),
    "shared_sae": Method(
        "BatchTopK SAE shared by both models' activations",
        ("crosscoder.reads=pooled", "crosscoder.sparsity.kind=batch_topk", "crosscoder.sparsity.k={k}"),
    ),
}
"""Methods by name."""


@dataclass(frozen=True, order=True)
class Case:
    """One cell of the benchmark."""

    regime: str
    method: str
    k: str
    """Number of firing latents: `default`, which leaves the choice to the run as a user's settings do; a number; `true` for the true L0; a
    multiple of it such as `1.5x`; or `sweep`, which chooses from `SWEPT` without the truth."""

    seed: int
    """Number of the pair among the independent pairs of the regime."""

    restart: int = 0
    """Index of repeated trainings on the same pair."""

    @property
    def name(self) -> str:
        """Name of the folder."""
        restart = f"-r{self.restart}" if self.restart else ""
        return f"{self.regime}-{self.method}-k{self.k}-s{self.seed}{restart}"

    def __post_init__(self) -> None:
        regime_named(self.regime)
        method_named(self.method)
        if not re.fullmatch(r"default|sweep|true|[1-9]\d*|\d*\.?\d+x", self.k) or self.k.strip("0.") == "x":
            raise ConfigError(
                f"k: {self.k!r} is not a number of latents; use e.g. default, 6, true, 1.5x or sweep"
            )

    @property
    def pair_seed(self) -> int:
        """The seed of the pair: pairs of different regimes or numbers share no draw."""
        return independent_seed("pair", self.regime, self.seed)

    @property
    def pair(self) -> PlantedPair:
        """The pair of this case."""
        return regime_named(self.regime).make(self.pair_seed)

    @property
    def training_seed(self) -> int:
        """The seed of the run, of its own for every pair and restart; methods are compared with the same one."""
        return independent_seed("training", self.regime, self.seed, self.restart)

    @property
    def sweeps(self) -> bool:
        """Whether k is chosen by a sweep."""
        return self.k == "sweep"

    def latents_firing(self, pair: PlantedPair, config: RunConfig) -> int | None:
        """Return k as a number, at least 1; None leaves it to the run. The true L0 is that of the rows that the dictionary reads; a sweep
        starts at its largest k."""
        if self.k == "default":
            return None
        if self.sweeps:
            return max(SWEPT)
        if self.k.isdecimal():
            return int(self.k)
        multiple = 1.0 if self.k == "true" else float(self.k[:-1])
        return max(1, round(multiple * pair.truth.l0(config.crosscoder.reads)))


def independent_seed(*names: str | int) -> int:
    """Return a seed below 2^31 that depends on all names: generators seeded with it are independent for different names."""
    return int.from_bytes(sha256("/".join(map(str, names)).encode()).digest()[:4]) >> 1


def plan(
    regimes: Iterable[str], methods: Iterable[str], ks: Iterable[str], seeds: Iterable[int], restarts: int = 1
) -> list[Case]:
    """Return every combination, with seeds outermost: an interrupted benchmark then has complete rows with fewer seeds."""
    regimes, methods, ks = list(regimes), list(methods), list(ks)
    return [
        Case(regime, method, str(k), seed, restart)
        for seed in seeds
        for restart in range(restarts)
        for regime in regimes
        for method in methods
        for k in ks
    ]


def method_named(name: str) -> Method:
    """Return the method with this name. Raises ConfigError if there is none."""
    if name not in METHODS:
        raise ConfigError(
            f"methods: {name!r} is not known{did_you_mean(name, METHODS)}; available: {', '.join(METHODS)}"
        )
    return METHODS[name]


def case_config(
    case: Case, pair: PlantedPair, folder: Path, overrides: Sequence[str] = (), k: int | None = None
) -> RunConfig:
    """Return the run settings of a case: a user's defaults, then the method's overrides, then `overrides`.

    `k` is the choice of a sweep. Raises ConfigError if a setting is invalid.
    """
    common = RunConfig(
        output=folder / "run",
        activations=FileActivations(
            reference=folder / "reference.npy",
            intervened=folder / "intervened.npy",
            documents=folder / "documents.npy",
        ),
        crosscoder=DictionaryConfig(n_latents=regime_named(case.regime).n_latents),
        training=TrainingConfig(
            precision="float32",
            device="cpu",
            log_every=1000,
            evaluate_every=3000,
            checkpoint_every=3000,
        ),
        # Examples are not used.
        analysis=AnalysisConfig(top_examples=1, quantile_examples=0, context_tokens=1),
        seed=case.training_seed,
        threads=1,
    )
    settings = method_named(case.method).overrides
    reads = next((one.partition("=")[2] for one in settings if one.startswith("crosscoder.reads=")), "paired")
    with_view = with_overrides(common, [f"crosscoder.reads={reads}"])
    k = k or case.latents_firing(pair, with_view)
    in_yaml = "null" if k is None else str(k)
    return with_overrides(common, [*(setting.format(k=in_yaml) for setting in settings), *overrides])


def sweep_config(config: RunConfig, folder: Path) -> RunConfig:
    """Return the run settings of the sweep of a case; a method with a target L0 uses the k of BatchTopK."""
    swept = config.model_copy(update={"output": folder / "sweep"})
    if hasattr(config.crosscoder.sparsity, "k"):
        return swept
    return with_overrides(swept, [f"crosscoder.sparsity={{kind: batch_topk, k: {max(SWEPT)}}}"])


def result_settings(case: Case, config: RunConfig, n_tokens: int) -> dict[str, Any]:
    """Return what identifies the result of a case: everything but its paths."""
    settings = config.model_dump(mode="json", exclude={"output", "activations", "wandb"})
    return {
        "case": vars(case),
        "pair_seed": case.pair_seed,
        "n_tokens": n_tokens * regime_named(case.regime).more_tokens,
        "settings": settings,
    }
