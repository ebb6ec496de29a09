"""SAEs of SAELens that view one model of a dictionary.

The encoder of a crosscoder reads all models. Two views of one model follow from that:

all     a transcoder from the activations of all models, concatenated, to those of one model: latents and reconstruction are exact
alone   an SAE that reads one model. It takes the normalized activations of every other model to be those of this one, x'^o = x'^m:

            pre-latents = x'^m Σ_o W_enc^o + b_enc,    x̂'^m = f W_dec^m + b_dec^m

        It is exact at tokens where the models agree. Elsewhere it is an approximation, and it cannot see the difference between the models.

A shared-dictionary SAE reads one model at a time, so its view is the SAE itself.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...activations.batch import split_models
from ...config import TopK
from ...errors import ConfigError, FormatError, did_you_mean
from ...run.folder import RunFolder
from ..crosscoder import Crosscoder
from ..storage import load_crosscoder, read_record
from .saelens import folded_weights, plain_weights, sae_settings, write_sae

if TYPE_CHECKING:
    from sae_lens import SAE

logger = logging.getLogger(__name__)

_APPROXIMATION = (
    "approximation: the normalized activations of the other models are taken to be those of this model"
)
_POOLED = ("reference", "intervened")


def sae(
    run: RunFolder | Path | str | Crosscoder,
    model: str,
    *,
    alone: bool = True,
    device: str | torch.device = "cpu",
) -> "SAE[Any]":
    """Return an SAE of SAELens that encodes and decodes the raw activations of one model of a run.

    It takes and returns `[..., d_model]`. Latents keep their numbers. Their values are those of the dictionary, except with TopK, where
    each value is multiplied by the weight that its latent competes with, and the reconstruction is unchanged.

    A shared-dictionary SAE is returned as it is: exact. The encoder of a crosscoder reads all models, but this SAE reads one. It takes the
    normalized activations of the others to be those of this model, which is exact only where the models agree.
    `metadata.view` says which of these holds.

    Args:
        run: A run, its folder, the folder of a dictionary, or a dictionary.
        model: Name of the model: "reference", "intervened", or a snapshot.
        alone: False: return a transcoder that reads the activations of all models, concatenated, reference first, and returns those of
            `model`. Its latents are exactly those of the dictionary.
        device: Device of the SAE.

    Raises:
        ConfigError: There is no such run or model.
        FormatError: The dictionary has no such view, or is damaged.
    """
    from sae_lens import SAE

    crosscoder, pair = _opened(run)
    weights, settings = view_of(crosscoder, model, alone=alone)
    record = sae_settings(crosscoder, settings, _described(pair, model))
    built = SAE.from_dict(record)
    built.load_state_dict(plain_weights(weights))
    if "approximation" in settings["metadata"]["view"]:
        logger.warning("sae: the view of the %s model alone is an %s", model, settings["metadata"]["view"])
    return built.to(device).eval()


@torch.no_grad()
def view_of(crosscoder: Crosscoder, model: str, *, alone: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and settings of the view of one model, for SAELens; arguments and errors as in `sae`."""
    config = crosscoder.config
    if config.model_names == ("difference",):
        raise FormatError(
            "a diff-SAE reads differences of two models, so it has no view of one model; export it as it is, with --to saelens"
        )
    known = _POOLED if config.model_names == ("pooled",) else config.model_names
    if model not in known:
        raise ConfigError(
            f"model: {model!r} is no model of this dictionary{did_you_mean(model, known)}; it has {', '.join(known)}"
        )
    weights, settings = folded_weights(crosscoder)
    if len(config.d_models) == 1:
        if not alone:
            raise ConfigError("alone: a dictionary of one model has no view that reads all models; remove it")
        return weights, settings | {"metadata": {"view": "exact"}}
    index = config.model_names.index(model)
    if alone:
        weights |= _encoder_alone(crosscoder, weights, index)
        settings |= {"d_in": config.d_models[index], "metadata": {"view": _APPROXIMATION}}
    elif isinstance(config.sparsity, TopK):
        raise FormatError(
            "SAELens has no transcoder with topk, so a TopK crosscoder has no exact view of one model; the SAE of --to saelens, on the "
            "activations of all models, is exact"
        )
    else:
        architecture = {"jumprelu": "jumprelu_transcoder", "standard": "transcoder"}[settings["architecture"]]
        settings |= {
            "architecture": architecture,
            "d_out": config.d_models[index],
            "metadata": {"view": "exact: it reads the activations of all models, concatenated"},
        }
    weights["W_dec"] = split_models(weights["W_dec"], config.d_models)[index]
    weights["b_dec"] = weights["b_dec"].split(list(config.d_models))[index]
    return weights, settings


def write_views(crosscoder: Crosscoder, folder: Path, metadata: dict[str, Any] | None = None) -> list[Path]:
    """Write one transcoder per model, from the concatenated activations of all models to those of that model; return their folders.

    A dictionary of one model has none, and neither has TopK, for which SAELens has no transcoder.

    Raises:
        FormatError: A BatchTopK dictionary was never calibrated.
    """
    config = crosscoder.config
    if len(config.d_models) == 1 or isinstance(config.sparsity, TopK):
        return []
    written = []
    for name in config.model_names:
        weights, settings = view_of(crosscoder, name, alone=False)
        write_sae(folder / name, weights, sae_settings(crosscoder, settings, metadata or {}))
        written.append(folder / name)
    return written


def _encoder_alone(crosscoder: Crosscoder, weights: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """Return the encoder on the raw activations of one model, with x^o = mean^o + (x^m - mean^m) scale^m / scale^o for every other."""
    config = crosscoder.config
    if len(set(config.d_models)) > 1:
        widths = ", ".join(map(str, config.d_models))
        raise FormatError(
            f"the models differ in width ({widths}), so one cannot stand for the others; only the view that reads all models is there "
            "(alone=False)"
        )
    means = crosscoder.mean.split(list(config.d_models))
    encoder, bias = torch.zeros_like(weights["W_enc"][: config.d_models[0]]), weights["b_enc"].clone()
    for rows, mean, scale in zip(
        weights["W_enc"].split(list(config.d_models)), means, crosscoder.scale, strict=True
    ):
        ratio = crosscoder.scale[index] / scale
        encoder += ratio * rows
        bias += (mean - means[index] * ratio) @ rows
    return {"W_enc": encoder, "b_enc": bias}


def _opened(run: RunFolder | Path | str | Crosscoder) -> tuple[Crosscoder, dict[str, Any]]:
    """Return the dictionary, and the record of the pair that it was trained on, if there is one."""
    if isinstance(run, Crosscoder):
        return run, {}
    if isinstance(run, RunFolder):
        place = run.crosscoder
    elif (Path(run) / "model.safetensors").is_file():
        place = Path(run)
    else:
        place = RunFolder.open(Path(run)).crosscoder
    return load_crosscoder(place), read_record(place).get("provenance", {}).get("pair") or {}


def _described(pair: dict[str, Any], model: str) -> dict[str, str]:
    side = pair.get(model)
    if not isinstance(side, dict):
        return {}
    return {"model_name": str(side["model"]), "hook_name": str(side["hookpoint"])}
