"""What the other dictionaries of a run (`crosscoder.run.controls`) say about its own latents."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.activations.batch import ActivationReader
from crosscoder.activations.null_pair import NullPair
from crosscoder.activations.transforms import (
    ReducedPrecision,
    ShuffledTokens,
    Transform,
    TransformedReader,
    WithoutSnapshots,
)
from crosscoder.config import LabelRule, RunConfig
from crosscoder.config.model_names import MODEL_NAMES
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import FormatError
from crosscoder.run.controls import Control, controls_of
from crosscoder.run.folder import RunFolder

from ..latents.dictionary_view import DictionaryView, linear_map_of, view_of
from ..latents.held_out_pass import batches_for
from ..latents.statistics import StatisticsAccumulator
from ..latents.token_context import TokenContext
from .control_runs import read_control_run
from .false_discovery import Candidacy, candidacy, weights_of_null
from .feature_table import Columns, Features, make_features
from .rule import LABELS, Label
from .seed_stability import nearest, seed_stability

logger = logging.getLogger(__name__)

_HEARD = 0.05
"""Variance of the difference that a diff-SAE has to explain beyond what one explains of a difference without structure."""


@dataclass(frozen=True)
class ComparedDictionary:
    """Another dictionary on another pair, read as the run's own is."""

    name: str
    features: Features
    """Labels by the rule and chance; nothing is held back by nulls."""

    fve: dict[str, float | None]
    replaced: int | None = None
    """Of a null of models that share no space, the one that was replaced (0: the reference); else None."""

    def candidacy(self, rule: LabelRule) -> Candidacy | None:
        """What its latents say about those of the run; None where its models share no space and no map leads between them."""
        columns, evidence = self.features.columns, self.features.evidence
        if evidence is None:
            return None
        return candidacy(columns, evidence, rule, weights_of_null(columns, self.replaced))

    @property
    def counts(self) -> Counter[Label]:
        """How many latents have each label."""
        return Counter(self.features.labels)

    @property
    def n_alive(self) -> int:
        """Latents that fire."""
        return int((self.features.columns["n_tokens"] > 0).sum())

    def summary(self) -> dict[str, Any]:
        """Its part of summary.json."""
        return {
            "name": self.name,
            "fve": self.fve,
            "alive": self.n_alive,
            "replaced": None if self.replaced is None else MODEL_NAMES[self.replaced],
            **{label: self.counts[label] for label in LABELS},
        }


@dataclass(frozen=True)
class DiffSAE:
    """A dictionary of intervened - reference, and whether to believe it."""

    decoder: Float[Tensor, "_ d_model"]
    """Rows in raw units."""

    fve: float | None
    """Variance of the difference that it explains."""

    fve_mixed: float | None = None
    """What the same recipe explains of a difference of the same covariance without sparse structure."""

    @property
    def heard(self) -> bool:
        """Whether it found structure: without any, a diff-SAE explains a part of the noise with invented directions."""
        return self.fve is not None and self.fve_mixed is not None and self.fve >= self.fve_mixed + _HEARD


@dataclass(frozen=True)
class Controls:
    """All other dictionaries of a run, as far as its latents are measured against them."""

    nulls: tuple[ComparedDictionary, ...] = ()
    """Pairs that differ in no feature: `drift`, and runs that the user named."""

    identity: ComparedDictionary | None = None
    shuffled: ComparedDictionary | None = None
    seeds: tuple[Float[Tensor, "_ width"], ...] = ()
    """Decoder rows of each."""

    difference: DiffSAE | None = None
    names: tuple[str, ...] = field(default=())

    def columns(self, view: DictionaryView) -> Columns:
        """The columns that come from them: seed_stability, difference_latent, difference_cosine."""
        columns: Columns = {}
        if self.seeds:
            rows = view.crosscoder.W_dec.detach().cpu()
            columns["seed_stability"] = seed_stability(rows, list(self.seeds)).double().numpy()
        if self.difference is not None and view.comparable:
            found = nearest(view.shift_directions().cpu(), self.difference.decoder)
            columns["difference_latent"] = np.where(found.latent.numpy() >= 0, found.latent.numpy(), np.nan)
            columns["difference_cosine"] = found.cosine.double().numpy()
        return columns

    def candidacies(self, rule: LabelRule) -> list[Candidacy]:
        """Of the nulls that can be judged."""
        found = (null.candidacy(rule) for null in self.nulls)
        return [one for one in found if one is not None]

    def summary(self) -> dict[str, Any]:
        """What summary.json says about them."""
        difference = self.difference
        return {
            "names": list(self.names),
            "nulls": [null.summary() for null in self.nulls],
            "identity": self.identity.summary() if self.identity else None,
            "shuffled": self.shuffled.summary() if self.shuffled else None,
            "seeds": len(self.seeds),
            "difference_fve": difference.fve if difference else None,
            "difference_fve_mixed": difference.fve_mixed if difference else None,
            "difference_heard": difference.heard if difference else None,
        }


def read_controls(
    folder: RunFolder,
    config: RunConfig,
    reader: ActivationReader,
    context: TokenContext,
    device: torch.device,
) -> Controls:
    """Load every control that the settings ask for, and read the held-out tokens through those on other pairs.

    Raises:
        FormatError: One was not trained, or is damaged.
        ConfigError: A run named in `controls.runs` is of another recipe.
    """
    asked = controls_of(config, folder.path)
    if len(reader.d_models) > 2:
        reader = TransformedReader(reader, WithoutSnapshots(reader.d_models))
    read: dict[str, ComparedDictionary] = {}
    seeds = []
    decoder: Float[Tensor, "_ d_model"] | None = None
    fve: dict[str, float | None] = {}
    for control in asked:
        own = _trained(control, folder)
        match control.kind:
            case "drift" | "identity" | "shuffled":
                change = _change(control, own, reader.d_models)
                found = _read(own, TransformedReader(reader, change), context, control, device)
                if isinstance(change, NullPair) and not change.shared:
                    found = replace(found, replaced=1 - change.kept)
                read[control.kind] = found
            case "seed":
                seeds.append(load_crosscoder(own.crosscoder).W_dec.detach().cpu())
            case "difference" | "difference_mixed":
                fve[control.kind] = own.read_manifest().get("evaluation", {}).get("diff/explained_variance")
                if control.kind == "difference":
                    decoder = load_crosscoder(own.crosscoder).raw_decoder()[0].detach().cpu()
            case _:
                assert_never(control.kind)
    nulls = [read["drift"]] if "drift" in read else []
    for run in config.controls.runs if config.crosscoder.reads == "paired" else ():
        features, explained = read_control_run(run, config)
        nulls.append(ComparedDictionary(run.name, features, explained))
    return Controls(
        nulls=tuple(nulls),
        identity=read.get("identity"),
        shuffled=read.get("shuffled"),
        seeds=tuple(seeds),
        difference=None if decoder is None else DiffSAE(decoder, fve["difference"], fve["difference_mixed"]),
        names=tuple(control.name for control in asked)
        + tuple(null.name for null in nulls if null.name != "drift"),
    )


def _trained(control: Control, folder: RunFolder) -> RunFolder:
    own = RunFolder(control.config.output)
    if not (own.crosscoder / "config.json").is_file():
        setting = {"seed": "seeds", "difference_mixed": "difference"}.get(control.kind, control.kind)
        raise FormatError(
            f"{own.path}: the control was not trained; run `crosscoder train {folder.path}`, or switch it off "
            f"(controls.{setting})"
        )
    return own


def _change(control: Control, own: RunFolder, d_models: Sequence[int]) -> Transform:
    """What makes the pair of a control from the run's own."""
    if control.kind == "drift":
        return NullPair.load(own.drift)
    return ReducedPrecision(d_models) if control.kind == "identity" else ShuffledTokens(d_models)


def _read(
    own: RunFolder, reader: ActivationReader, context: TokenContext, control: Control, device: torch.device
) -> ComparedDictionary:
    logger.info("analyze: reading the control %s", control.name)
    dictionary = load_crosscoder(own.crosscoder, device)
    view = view_of(dictionary, reader.d_models, "paired", linear_map_of(own))
    settings = control.config.analysis
    accumulator = StatisticsAccumulator(view, context, settings.bootstrap_blocks, control.config.seed)
    for batch in batches_for(view, reader):
        accumulator.update(batch, view.observe(batch.values))
    statistics = accumulator.result()
    features = make_features(view, statistics, settings, control.config.seed)
    return ComparedDictionary(control.name, features, dict(statistics.fve))
