"""What is measured of every latent, before any label: the numeric columns of the feature table, and the statistics that get intervals."""

from functools import partial
from typing import assert_never

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.config import LabelRule
from crosscoder.config.model_names import MODEL_NAMES

from ..latents.bootstrap import Statistic
from ..latents.dictionary_view import DictionaryView, PairedView
from ..latents.geometry import Geometry
from ..latents.latent_scaling import (
    Moments,
    beta_activation,
    beta_error,
    nu_error,
    nu_reconstruction,
    overlaps,
    ratio_toward,
)
from ..latents.statistics import Statistics
from .evidence import Estimates

Columns = dict[str, np.ndarray]

SIDES = {"new": "intervened", "lost": "reference"}
SCALING = ("nu_error", "nu_reconstruction")


def activity(view: DictionaryView, statistics: Statistics) -> Columns:
    """Return how often, how strongly and where each latent fires."""
    fired = statistics.total("fired").numpy()
    nothing = np.full(view.n_latents, np.nan)
    columns = {
        "n_tokens": fired.astype(np.int64),
        "n_documents": statistics.documents.numpy(),
        "template_share": nothing
        if statistics.template is None
        else _divide(statistics.template.numpy(), fired),
        "mean_activation": _divide(statistics.total("activation").numpy(), fired),
        "max_activation": np.where(fired > 0, statistics.histograms.maximum.double().numpy(), np.nan),
    }
    for index, name in enumerate(statistics.source_names):
        columns[f"density/{name}"] = _divide(
            statistics.by_source[index].numpy(), statistics.source_tokens[index].numpy()
        )
    if view.reads == "pooled":
        for model in MODEL_NAMES:
            columns[f"density_{model}"] = statistics.total(f"fired/{model}").numpy() / statistics.n_tokens
    return columns


def geometry_columns(geometry: Geometry, alive: np.ndarray) -> Columns:
    """Return norms, cosines and twins; `alive`: latents that fire."""
    twin, cosine = geometry.twins(torch.from_numpy(alive))
    return {
        "relative_norm": geometry.relative_norm.numpy(),
        "norm_reference": geometry.norm_reference.numpy(),
        "norm_intervened": geometry.norm_intervened.numpy(),
        "norm_reference_raw": geometry.norm_reference_raw.numpy(),
        "norm_intervened_raw": geometry.norm_intervened_raw.numpy(),
        "relative_norm_raw": geometry.relative_norm_raw.numpy(),
        "decoder_cosine": geometry.cosine().numpy(),
        "twin": np.where(twin.numpy() >= 0, twin.numpy(), np.nan),
        "twin_cosine": cosine.numpy(),
    }


def rates_along_twins(geometry: Geometry, columns: Columns, agreement: float, rule: LabelRule) -> Columns:
    """Return `relative_rate` and its bounds for latents whose twin writes the same direction into the weaker model; NaN for the others.

    The direction occurs in the weaker model where the twin fires, and in the stronger one where the latent fires, or where the twin fires if
    it writes the direction there as well. The bounds combine those of the two densities, so they are wider than an interval of the ratio.
    """
    twin, same = columns["twin"], columns["twin_cosine"] / agreement >= rule.shared_cosine
    latent = np.flatnonzero(same)
    other = twin[latent].astype(np.int64)
    in_both = geometry.writes_along(latent, other, rule.shared_cosine)
    intervened_stronger = columns["norm_intervened"][latent] >= columns["norm_reference"][latent]

    def relative(density: np.ndarray, twin_density: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            times = in_both + density[latent] / twin_density[other]
            # Infinitely often, where the bound of the twin's density is 0.
            stronger = np.where(np.isposinf(times), 1.0, times / (1 + times))
            return np.where(intervened_stronger, stronger, 1 - stronger)

    density, low, high = (columns[f"density{bound}"] for bound in ("", "_low", "_high"))
    extremes = np.stack([relative(low, high), relative(high, low)])
    values = {
        "relative_rate": relative(density, density),
        "relative_rate_low": extremes.min(axis=0),
        "relative_rate_high": extremes.max(axis=0),
    }
    rates = {name: np.full(len(same), np.nan) for name in values}
    for name, value in values.items():
        rates[name][latent] = value
    return rates


def estimators_of(
    view: DictionaryView, statistics: Statistics
) -> tuple[dict[str, Statistic], dict[str, Tensor]]:
    """Return every statistic that gets an interval, by name, and the constants that it needs in addition to the sums."""
    estimators: dict[str, Statistic] = {"density": lambda moments: moments["fired"] / moments["tokens"]}
    # Identical models have no shift, and so no shares of it.
    if "shift/square" in statistics.totals and bool(statistics.totals["shift/square"].any()):
        estimators["shift_share"] = lambda moments: moments["shift"] / moments["shift/square"]
    match view.reads:
        case "paired":
            if not view.aligned:
                return estimators, {}
            assert isinstance(view, PairedView)
            for name, side in SIDES.items():
                scaled = {"side": side, "agreement": view.agreement}
                estimators[f"nu_error_{name}"] = partial(nu_error, **scaled)
                estimators[f"nu_reconstruction_{name}"] = partial(nu_reconstruction, **scaled)
                estimators[f"own_beta_{name}"] = partial(beta_error, side=side, model=side)
            if view.linear_map is not None:
                for side in MODEL_NAMES:
                    estimators[f"unmapped_{side}"] = partial(_unmapped_share, side=side)
            return estimators, overlaps(view.directions_in)
        case "pooled":
            estimators["relative_rate"] = _relative_rate
            return estimators, {}
        case "difference":
            directions = view.raw[0].double().cpu()
            norms = directions.square().sum(dim=1)
            beta = {
                model: partial(
                    beta_activation, model=model, mean_projection=f"mean/{model}", square_norm="square_norm"
                )
                for model in MODEL_NAMES
            }
            constants = {
                f"mean/{model}": directions @ mean
                for model, mean in zip(MODEL_NAMES, statistics.means, strict=True)
            }
            reference, intervened = (beta[model] for model in MODEL_NAMES)
            estimators["beta_reference"], estimators["beta_intervened"] = reference, intervened
            estimators["nu_error_new"] = lambda moments: ratio_toward(intervened(moments), reference(moments))
            estimators["nu_error_lost"] = lambda moments: ratio_toward(
                reference(moments), intervened(moments)
            )
            return estimators, constants | {"square_norm": norms}
        case _:
            assert_never(view.reads)


def _unmapped_share(moments: Moments, side: str) -> Tensor:
    """Return the share that a latent explains of the activations of `side` that the linear map does not explain."""
    return moments[f"unmapped/{side}"] / moments[f"unmapped/{side}/square"]


def _relative_rate(moments: Moments) -> Tensor:
    """Return firings in the intervened model as a share of those in both models; NaN if there are none."""
    reference, intervened = (moments[f"fired/{model}"] for model in MODEL_NAMES)
    return intervened / (reference + intervened)


def leans_to_intervened(view: DictionaryView, columns: Columns, estimates: Estimates) -> np.ndarray:
    """Whether the intervened model has the larger decoder norm; for a diff-SAE, the larger |β|."""
    if view.reads == "difference":
        reference, intervened = (np.abs(estimates[f"beta_{model}"].value) for model in MODEL_NAMES)
        return intervened >= reference
    return columns.get("relative_norm", np.ones(view.n_latents)) >= 0.5


def scaling_columns(estimates: Estimates, intervened_stronger: np.ndarray) -> Columns:
    """Return latent scaling toward both models, and with its interval toward the model with the larger decoder norm."""
    columns: Columns = {}
    for name in SCALING:
        sides = [estimates[f"{name}_{side}"] for side in SIDES if f"{name}_{side}" in estimates]
        if not sides:
            continue
        new, lost = sides
        columns[f"{name}_new"], columns[f"{name}_lost"] = new.value, lost.value
        for suffix, one, other in zip(("", "_low", "_high"), new, lost, strict=True):
            columns[f"{name}{suffix}"] = np.where(intervened_stronger, one, other)
    for name in ("beta_reference", "beta_intervened"):
        if name in estimates:
            columns[name] = estimates[name].value
    return columns


def effect_of(
    view: PairedView, statistics: Statistics, intervened_stronger: np.ndarray
) -> Float[np.ndarray, " latent"]:
    """Return the mean shift that a latent explains per token where it fires, over the mean shift per token.

    Both are divided by the squared length of the token, so that a few long tokens do not outweigh the others. NaN if the latent never fires
    or the models are identical.
    """

    def relative(name: str) -> np.ndarray:
        fired, total = statistics.total("fired"), float(statistics.totals[f"{name}/relative"].sum())
        mean = _divide(statistics.total(f"{name}/relative").numpy(), fired.numpy())
        return mean * statistics.n_tokens / total if total else np.full(len(mean), np.nan)

    if view.linear_map is not None:
        # In units of the variance of the stronger model: the map may explain one model better than the other.
        unmapped = [
            (1 - explained) * relative(f"unmapped/{side}")
            for side, explained in zip(MODEL_NAMES, view.linear_map.explained_variance, strict=True)
        ]
        return np.where(intervened_stronger, unmapped[1], unmapped[0])
    return relative("shift") if view.comparable else np.full(view.n_latents, np.nan)


def unmapped_columns(estimates: Estimates, intervened_stronger: np.ndarray) -> Columns:
    """Return `unmapped_share` and its interval, in the model with the larger decoder norm."""
    reference, intervened = (estimates[f"unmapped_{side}"] for side in MODEL_NAMES)
    return {
        f"unmapped_share{suffix}": np.where(intervened_stronger, one, other)
        for suffix, one, other in zip(("", "_low", "_high"), intervened, reference, strict=True)
    }


def with_interval(name: str, estimates: Estimates) -> Columns:
    """Return a number and its interval as three columns; no columns if it was not estimated."""
    if name not in estimates:
        return {}
    return {
        f"{name}{suffix}": part for suffix, part in zip(("", "_low", "_high"), estimates[name], strict=True)
    }


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the ratio; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
