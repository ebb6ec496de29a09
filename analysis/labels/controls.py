"""Measure a run's latents against its controls (`crosscoder.run.controls`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.activations.null_pair import NullPair
from crosscoder.config import LabelRule, RunConfig
from crosscoder.config.model_names import MODEL_NAMES
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.run.controls import NULLS, Control, controls_of
from crosscoder.run.folder import RunFolder

from ..latents.dictionary_view import DictionaryView
from .control_reading import ControlReading, trained_folder, transform_of, view_of_control
from .control_runs import read_control_run
from .false_discovery import Candidates, candidates_of, weights_of_null
from .feature_table import Features, label_directions
from .latent_measures import Columns
from .replication import Replica, nearest_directions
from .rule import LABELS, Label

_STRUCTURE_MARGIN = 0.05
"""Fraction of variance that a diff-SAE must explain beyond the diff-SAE of a difference without structure."""


@dataclass(frozen=True)
class ComparedDictionary:
    """A control dictionary on another pair, analyzed in the same way as the run's."""

    name: str
    features: Features
    """Labels with q-values from chance only, without nulls."""

    fve: dict[str, float | None]
    replaced: int | None = None
    """The model that the null replaced, if the models share no space (0: the reference); otherwise None."""

    def candidates(self, rule: LabelRule) -> Candidates | None:
        """Return its latents as null candidates; None if its models share no space and no linear map connects them."""
        columns, evidence = self.features.columns, self.features.evidence
        if evidence is None:
            return None
        return candidates_of(columns, evidence, rule, weights_of_null(columns, self.replaced))

    @property
    def counts(self) -> Counter[Label]:
        """Number of latents with each label."""
        return Counter(self.features.labels)

    @property
    def n_alive(self) -> int:
        """Number of latents that fire."""
        return int((self.features.columns["n_tokens"] > 0).sum())

    def summary(self) -> dict[str, Any]:
        """Return its entry in summary.json."""
        return {
            "name": self.name,
            "fve": self.fve,
            "alive": self.n_alive,
            "replaced": None if self.replaced is None else MODEL_NAMES[self.replaced],
            **{label: self.counts[label] for label in LABELS},
        }


@dataclass(frozen=True)
class DiffSAE:
    """A diff-SAE, and whether it found structure."""

    decoder: Float[Tensor, "_ d_model"]
    """Decoder rows in raw units."""

    fve: float | None
    """Fraction of the variance of the difference that it explains."""

    fve_mixed: float | None = None
    """The same for a difference with the same covariance and no sparse structure."""

    @property
    def found_structure(self) -> bool:
        """Whether it explains more than noise: even without structure, a diff-SAE explains part of the noise."""
        return (
            self.fve is not None
            and self.fve_mixed is not None
            and self.fve >= self.fve_mixed + _STRUCTURE_MARGIN
        )


@dataclass(frozen=True)
class Controls:
    """The controls of a run."""

    nulls: tuple[ComparedDictionary, ...] = ()
    """Nulls: the null pairs, and the runs named in `controls.runs`."""

    identity: ComparedDictionary | None = None
    shuffled: ComparedDictionary | None = None
    replicas: tuple[Replica, ...] = ()
    """Other trainings on the same pair."""

    difference: DiffSAE | None = None
    names: tuple[str, ...] = field(default=())

    def columns(self, view: DictionaryView) -> Columns:
        """Return the columns difference_latent and difference_cosine, if there is a diff-SAE."""
        columns: Columns = {}
        if self.difference is not None and view.comparable:
            found = nearest_directions(view.shift_directions().cpu(), self.difference.decoder)
            columns["difference_latent"] = np.where(found.latent.numpy() >= 0, found.latent.numpy(), np.nan)
            columns["difference_cosine"] = found.cosine.double().numpy()
        return columns

    def null_candidates(self, rule: LabelRule) -> list[Candidates]:
        """Return the candidates of every null whose latents can be labeled."""
        found = (null.candidates(rule) for null in self.nulls)
        return [candidates for candidates in found if candidates is not None]

    def summary(self) -> dict[str, Any]:
        """Return the section `controls` of summary.json."""
        difference = self.difference
        return {
            "names": list(self.names),
            "nulls": [null.summary() for null in self.nulls],
            "identity": self.identity.summary() if self.identity else None,
            "shuffled": self.shuffled.summary() if self.shuffled else None,
            "seeds": len(self.replicas),
            "difference_fve": difference.fve if difference else None,
            "difference_fve_mixed": difference.fve_mixed if difference else None,
            "difference_heard": difference.found_structure if difference else None,
        }


def read_controls(
    folder: RunFolder,
    config: RunConfig,
    d_models: tuple[int, ...],
    device: torch.device,
    readings: Mapping[str, ControlReading],
) -> Controls:
    """Return every control of the settings.

    Args:
        d_models: Of the held-out tokens.
        readings: By name, of each of `controls_to_read`.

    Raises:
        FormatError: A control was not trained, or is damaged.
        ConfigError: A run named in `controls.runs` was trained with other settings.
    """
    enabled = controls_of(config, folder.path)
    read: dict[str, ComparedDictionary] = {}
    replicas = []
    decoder: Float[Tensor, "_ d_model"] | None = None
    fve: dict[str, float | None] = {}
    for control in enabled:
        trained = trained_folder(control, folder)
        match control.kind:
            case "drift" | "intermittent" | "identity" | "shuffled":
                read[control.kind] = _compared(control, trained, d_models, readings[control.name])
            case "seed":
                reading = readings[control.name]
                directions = reading.directions or label_directions(
                    view_of_control(control, trained, d_models, device)
                )
                replicas.append(Replica(control.name, directions, reading.features.labels))
            case "difference" | "difference_mixed":
                fve[control.kind] = (
                    trained.read_manifest().get("evaluation", {}).get("diff/explained_variance")
                )
                if control.kind == "difference":
                    decoder = load_crosscoder(trained.crosscoder).raw_decoder()[0].detach().cpu()
            case _:
                assert_never(control.kind)
    nulls = [read[kind] for kind in NULLS if kind in read]
    for run in config.controls.runs if config.crosscoder.reads == "paired" else ():
        features, explained = read_control_run(run, config)
        nulls.append(ComparedDictionary(run.name, features, explained))
    return Controls(
        nulls=tuple(nulls),
        identity=read.get("identity"),
        shuffled=read.get("shuffled"),
        replicas=tuple(replicas),
        difference=None if decoder is None else DiffSAE(decoder, fve["difference"], fve["difference_mixed"]),
        names=tuple(control.name for control in enabled)
        + tuple(null.name for null in nulls if null.name not in NULLS),
    )


def _compared(
    control: Control, trained: RunFolder, d_models: Sequence[int], reading: ControlReading
) -> ComparedDictionary:
    """Return a control dictionary on its own pair, made from the held-out tokens."""
    transform = transform_of(control, trained, d_models)
    replaced = 1 - transform.kept if isinstance(transform, NullPair) and not transform.shared else None
    return ComparedDictionary(control.name, reading.features, reading.fve, replaced)
