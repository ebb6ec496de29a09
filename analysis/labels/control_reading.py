"""Reads the held-out tokens with the dictionary of one control, as `analyze` does with that of the run.

Transforms of controls exchange tokens within a batch, so a control reads all tokens in stored order, as one process. Several controls may be
read by several processes; `ControlReading.tensors` carries the result to the one that compares them.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.activations.batch import ActivationReader
from crosscoder.activations.control_transforms import (
    ReducedPrecision,
    ShuffledTokens,
    Transform,
    TransformedReader,
    WithoutSnapshots,
)
from crosscoder.activations.null_pair import NullPair
from crosscoder.config import RunConfig
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import FormatError
from crosscoder.run.controls import NULLS, Control, controls_of
from crosscoder.run.folder import RunFolder

from ..latents.dictionary_view import DictionaryView, linear_map_of, view_of
from ..latents.held_out_pass import batches_for
from ..latents.ordered_sums import under, with_prefixes
from ..latents.statistics import StatisticsAccumulator
from ..latents.token_context import TokenContext
from .evidence import Estimate, Evidence, LatentScaling
from .feature_table import Features, label_directions, make_features
from .rule import LABELS

logger = logging.getLogger(__name__)

Directions = tuple[Float[Tensor, "latent _"], ...]


class ControlReading(NamedTuple):
    """What the dictionary of a control holds, on its own pair for a control on another pair."""

    features: Features
    """Labels with q-values from chance only, without nulls and reasons."""
    fve: dict[str, float | None]
    """Fractions of variance explained."""
    directions: Directions | None = None
    """Decoder rows that replication compares, of a seed; None if another process read it."""

    def tensors(self) -> dict[str, Tensor]:
        """Return everything but the directions, which are on disk, as named tensors."""
        columns, evidence = self.features.columns, self.features.evidence
        fve = [np.nan if share is None else share for share in self.fve.values()]
        leaves = [] if evidence is None else list(_leaves(evidence))
        return {
            "labels": torch.tensor([LABELS.index(label) for label in self.features.labels]),
            **with_prefixes(
                {
                    "columns": {name: _tensor(column) for name, column in columns.items()},
                    "evidence": {str(place): _tensor(leaf) for place, leaf in enumerate(leaves)},
                    "fve": dict(zip(self.fve, torch.tensor(fve, dtype=torch.float64), strict=True)),
                }
            ),
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return what `tensors` describes."""
        columns = {name: column.numpy() for name, column in under(tensors, "columns").items()}
        leaves = iter([leaf.numpy() for leaf in under(tensors, "evidence").values()])
        evidence = _with_leaves(_EVIDENCE, leaves) if under(tensors, "evidence") else None
        fve = {name: float(share) for name, share in under(tensors, "fve").items()}
        labels = tuple(LABELS[index] for index in tensors["labels"].tolist())
        return cls(
            Features(columns, labels, (), evidence),
            {name: None if np.isnan(share) else share for name, share in fve.items()},
        )


def controls_to_read(config: RunConfig, folder: RunFolder) -> list[Control]:
    """Return the controls of a run whose dictionaries read the held-out tokens: all but the diff-SAEs."""
    return [one for one in controls_of(config, folder.path) if not one.kind.startswith("difference")]


def read_control(
    control: Control,
    folder: RunFolder,
    reader: ActivationReader,
    context: TokenContext,
    device: torch.device,
) -> ControlReading:
    """Read the held-out tokens with the dictionary of a control; nulls and the like read those of their own pair.

    Raises:
        FormatError: It was not trained, or is damaged.
    """
    trained = trained_folder(control, folder)
    if control.kind != "seed":
        reader = TransformedReader(_of_two_models(reader), transform_of(control, trained, reader.d_models))
    logger.info("analyze: reading the control %s", control.name)
    view = view_of_control(control, trained, reader.d_models, device)
    settings, seed = control.config.analysis, control.config.seed
    accumulator = StatisticsAccumulator(view, context, settings.bootstrap_blocks, seed)
    for batch in batches_for(view, reader):
        accumulator.update(batch, view.observe(batch.values))
    statistics = accumulator.result()
    found = make_features(view, statistics, settings, seed)
    features = Features(found.columns, found.labels, (), found.evidence)
    directions = label_directions(view) if control.kind == "seed" else None
    return ControlReading(features, dict(statistics.fve), directions)


def trained_folder(control: Control, folder: RunFolder) -> RunFolder:
    """Return the folder of a control. Raises FormatError if it was not trained."""
    trained = RunFolder(control.config.output)
    if not (trained.crosscoder / "config.json").is_file():
        setting = {"seed": "seeds", "difference_mixed": "difference"}.get(control.kind, control.kind)
        raise FormatError(
            f"{trained.path}: the control was not trained; run `crosscoder train {folder.path}`, or disable it "
            f"(controls.{setting})"
        )
    return trained


def transform_of(control: Control, trained: RunFolder, d_models: Sequence[int]) -> Transform:
    """Return the transform that turns the run's tokens, of reference and intervened model alone, into those of a control."""
    if control.kind in NULLS:
        return NullPair.load(trained.drift)
    return ReducedPrecision(d_models[:2]) if control.kind == "identity" else ShuffledTokens(d_models[:2])


def view_of_control(
    control: Control, trained: RunFolder, d_models: tuple[int, ...], device: torch.device
) -> DictionaryView:
    """Load the dictionary of a control."""
    dictionary = load_crosscoder(trained.crosscoder, device)
    return view_of(dictionary, d_models, control.config.crosscoder.reads, linear_map_of(trained))


def _of_two_models(reader: ActivationReader) -> ActivationReader:
    if len(reader.d_models) == 2:
        return reader
    return TransformedReader(reader, WithoutSnapshots(reader.d_models))


_ESTIMATE = Estimate(None, None, None)
_EVIDENCE = Evidence(
    n_tokens=None,
    n_documents=None,
    norm_reference=None,
    norm_intervened=None,
    cosine=None,
    new=LatentScaling(_ESTIMATE, _ESTIMATE, None),
    lost=LatentScaling(_ESTIMATE, _ESTIMATE, None),
    relative_rate=_ESTIMATE,
    nu_unselected=_ESTIMATE,
)
"""Evidence without numbers, for its structure."""


def _leaves(part: Any) -> Iterator[np.ndarray]:
    """Yield the numbers of nested tuples as arrays, in the order of the fields."""
    if isinstance(part, tuple):
        for one in part:
            yield from _leaves(one)
    else:
        yield np.asarray(part)


def _with_leaves(structure: Any, leaves: Iterator[np.ndarray]) -> Any:
    """Return nested tuples like `structure`, with other numbers."""
    if isinstance(structure, tuple):
        return type(structure)(*(_with_leaves(one, leaves) for one in structure))  # pyright: ignore[reportCallIssue]
    return next(leaves)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values).reshape(values.shape))
