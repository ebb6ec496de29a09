"""crosscoder_learning, the fork of dictionary_learning by science-of-finetuning (Minder et al. 2025), which diffing-toolkit uses.

    config.json + model.safetensors, or model_final.pt, ae.pt

    CrossCoder, BatchTopKCrossCoder    encoder.weight [model, d_model, latent]   encoder.bias [latent]
                                       decoder.weight [model, latent, d_model]   decoder.bias [model, d_model]
                                       code_normalization_id []   k []   threshold []
    BatchTopKSAE (diff-SAE)            encoder.weight [latent, d_model]   decoder.weight [d_model, latent]
                                       encoder.bias [latent]   b_dec [d_model]   k []   threshold []
    normalizer                         activation_mean, activation_std [model, d_model] (NaN: none)
                                       activation_global_scale [model]   target_rms []

The normalizer is x' = (x - mean) * global_scale. BatchTopK keeps a latent where f * weight > threshold; `code_normalization` says
what the weight is: the sum of decoder norms (CROSSCODER), the norm of the concatenated decoder (SAE), a mixture (MIXED), one (NONE)
or one weight per model (DECOUPLED, which gives each model another code). The peer divides by global_scale + 1e-8 on the way out,
which differs by less than 1e-4 of an activation for scales above 1e-4.
"""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from ...config import BatchTopK, ReLU
from ...errors import FormatError
from ...runtime.files import atomic_file, write_atomic
from ..crosscoder import Crosscoder
from ..sparsity import BatchTopKSparsity
from .agreement import refuse_contradictions, refuse_other_tensors
from .assembly import RELU, ForeignWeights, assemble
from .dialect import Dialect, Reading, described
from .dictionary_files import SourceFiles
from .open_questions import Questions

FILES = ("model.safetensors", "model_final.pt", "ae.pt")
PARTITION = "_partition_config"
"""What marks a crosscoder with dedicated features (`dedicated_features`), which has the tensors of this tool."""
_NORMALIZER = {"activation_mean", "activation_std", "activation_global_scale", "target_rms"}
_WEIGHTS = {"encoder.weight", "encoder.bias", "decoder.weight", "k", "threshold", *_NORMALIZER}
CODE_NORMALIZATIONS = {1: "CROSSCODER", 2: "SAE", 3: "MIXED", 4: "NONE", 5: "DECOUPLED"}
_ALPHA_SAE, _ALPHA_CC = 1.0, 0.1
"""The mixture of MIXED where no file states another, as in the class itself."""


def recognizes(files: SourceFiles) -> bool:
    """Whether the weights are a crosscoder of this tool, or one of its SAEs (which have a normalizer, or are safetensors)."""
    name = files.weights(*FILES)
    shapes = files.shapes(name)
    if not {"encoder.weight", "decoder.weight", "encoder.bias"} <= shapes.keys():
        return False
    if len(shapes["encoder.weight"]) == 3:
        return name is None or not name.endswith(".pt") or PARTITION not in files.tensors(name)
    normalized = "activation_mean" in shapes or name == "model.safetensors"
    return normalized and {"b_dec", "k", "threshold"} <= shapes.keys()


def read(files: SourceFiles, questions: Questions) -> Reading:
    """Read a CrossCoder, a BatchTopKCrossCoder or a BatchTopKSAE.

    Raises:
        ConfigError: Something that the files leave open was not given.
        FormatError: The files are damaged, or the code is DECOUPLED.
    """
    name = files.required_weights(*FILES)
    settings = files.settings("config.json")
    weights = read_crosscoder(files, files.tensors(name), settings, questions)
    what = described(settings, "dict_class", "code_normalization", "lm_name", "layer", "wandb_name")
    return Reading(assemble(weights, questions), what)


def read_crosscoder(
    files: SourceFiles, tensors: dict[str, Any], settings: dict[str, Any], questions: Questions
) -> ForeignWeights:
    """Read the weights of any class of this tool from its state dict."""
    encoder = tensors["encoder.weight"]
    if encoder.ndim == 2:
        return _diff_sae(files, tensors, settings, questions)
    decoder = tensors["decoder.weight"]
    if settings.get("encoder_layers") is not None or len(encoder) != len(decoder):
        raise FormatError(
            f"{files.place}: the encoder reads {len(encoder)} models and the decoder writes {len(decoder)}; our dictionary reads and "
            "writes the same models"
        )
    refuse_other_tensors(files, tensors, {*_WEIGHTS, "decoder.bias", "code_normalization_id"})
    n_models, d_model, n_latents = encoder.shape
    refuse_contradictions(files, settings, activation_dim=d_model, dict_size=n_latents, num_layers=n_models)
    mean, scale = _normalizer(files, tensors, questions)
    weights = ForeignWeights(
        encoder=encoder,
        encoder_bias=tensors["encoder.bias"],
        decoder=decoder.permute(1, 0, 2),
        decoder_bias=tensors["decoder.bias"],
        sparsity=RELU,
        mean=mean,
        scale=scale,
        model_order_hint=" (published crosscoders of this tool are named after the base model first, but no file states the order)",
    )
    if "threshold" in tensors:
        _batch_topk(files, tensors, settings, questions, weights)
    return weights


def _batch_topk(
    files: SourceFiles,
    tensors: dict[str, Any],
    settings: dict[str, Any],
    questions: Questions,
    weights: ForeignWeights,
) -> None:
    mode = _code_normalization(tensors, settings, questions)
    if "code_normalization_id" in tensors:
        refuse_contradictions(files, settings, code_normalization=mode)
    note_other_k(tensors, settings, questions)
    if mode == "DECOUPLED" or tensors["threshold"].ndim:
        raise FormatError(
            f"{files.place}: code_normalization DECOUPLED gives each model its own code of the same latents; our dictionary has one "
            "code for all models"
        )
    weights.sparsity = BatchTopK(k=int(tensors["k"]))
    weights.score_weight = score_weights(mode, weights.decoder.float(), settings)
    weights.threshold = read_threshold(tensors["threshold"], questions)
    questions.note(f"latents compete by code_normalization {mode}")


def score_weights(
    mode: str, decoder: Float[Tensor, "latent model d_model"], settings: dict[str, Any]
) -> Float[Tensor, " latent"] | None:
    """Return what weights a latent's activation; None for CROSSCODER, the weights that our dictionary computes itself."""
    # In float64, so that the result does not depend on how the decoder lies in memory.
    wide = decoder.double()
    concatenated, summed = wide.flatten(1).norm(dim=1), wide.norm(dim=2).sum(dim=1)
    sae = settings.get("code_normalization_alpha_sae")
    cc = settings.get("code_normalization_alpha_cc")
    mixed = concatenated * (_ALPHA_SAE if sae is None else sae) + summed * (_ALPHA_CC if cc is None else cc)
    return {
        "CROSSCODER": None,
        "SAE": concatenated.float(),
        "MIXED": mixed.float(),
        "NONE": torch.ones(len(decoder)),
    }[mode]


def note_other_k(tensors: dict[str, Any], settings: dict[str, Any], questions: Questions) -> None:
    """Say so if the settings have another k than the weights, whose k is the one in use: a training may lower it step by step."""
    k, stated = int(tensors["k"]), settings.get("k")
    if stated is not None and stated != k:
        questions.note(f"its settings say k {stated}, and its weights k {k}, which is taken")


def read_threshold(threshold: Tensor, questions: Questions) -> float:
    """Return the stored threshold; below zero, the training of this tool never set it, and it is asked for."""
    value = float(threshold)
    return questions.threshold("its BatchTopK threshold was never set") if value < 0 else value


def _code_normalization(tensors: dict[str, Any], settings: dict[str, Any], questions: Questions) -> str:
    if "code_normalization_id" in tensors:
        number = int(tensors["code_normalization_id"])
        if number not in CODE_NORMALIZATIONS:
            raise FormatError(
                f"{questions.given.source}: code_normalization_id {number} is not known; this release knows "
                f"{', '.join(f'{key} {name}' for key, name in CODE_NORMALIZATIONS.items())}"
            )
        return CODE_NORMALIZATIONS[number]
    stated = settings.get("code_normalization")
    if isinstance(stated, str) and stated in CODE_NORMALIZATIONS.values():
        return stated
    return questions.code_normalization("the file is too old to say what weights its latents")


def _diff_sae(
    files: SourceFiles, tensors: dict[str, Any], settings: dict[str, Any], questions: Questions
) -> ForeignWeights:
    refuse_other_tensors(files, tensors, {*_WEIGHTS, "b_dec"})
    latents, d_model = tensors["encoder.weight"].shape
    refuse_contradictions(files, settings, activation_dim=d_model, dict_size=latents)
    mean, scale = _normalizer(files, tensors, questions)
    return ForeignWeights(
        encoder=tensors["encoder.weight"].mT[None],
        encoder_bias=tensors["encoder.bias"],
        decoder=tensors["decoder.weight"].mT[:, None],
        decoder_bias=tensors["b_dec"][None],
        sparsity=BatchTopK(k=int(tensors["k"])),
        threshold=read_threshold(tensors["threshold"], questions),
        score_weight=torch.ones(latents),
        mean=mean,
        scale=scale,
        subtracts_decoder_bias=True,
    )


def _normalizer(
    files: SourceFiles, tensors: dict[str, Any], questions: Questions
) -> tuple[Tensor | None, Tensor | None]:
    """Return the mean `[model, d_model]` and the scale (`[model]`, or `[model, d_model]` if it is one per dimension)."""
    mean, std = (tensors.get(name) for name in ("activation_mean", "activation_std"))
    if mean is None or std is None or bool(mean.isnan().any() | std.isnan().any()):
        return None, None
    stored = tensors.get("activation_global_scale")
    if stored is None:
        raise FormatError(
            f"{files.place}: has activation_mean but no activation_global_scale; the file is incomplete"
        )
    mean, std, stored = (value.float() for value in (mean, std, stored))
    if mean.ndim == 1:
        mean, std, stored = mean[None], std[None], stored.reshape(1)
    target = float(tensors.get("target_rms", 1.0))
    expected = target / (std.square().sum(dim=1) + 1e-8).sqrt()
    if bool((stored == 1).all()) and not torch.allclose(expected, stored, rtol=1e-3):
        # keep_relative_variance=False: the flag is not stored, but all global scales are one then.
        questions.note("the normalizer divides each dimension by its standard deviation")
        return mean, 1 / (std + 1e-8)
    return mean, stored


# --- writing ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def write(crosscoder: Crosscoder, folder: Path) -> None:
    """Write config.json and model.safetensors for `from_pretrained` of the peer's classes.

    ReLU becomes a CrossCoder and BatchTopK a BatchTopKCrossCoder, or a BatchTopKSAE for one model. Codes are the same, except where
    latents compete by stored weights that no code normalization gives, and in a BatchTopKSAE: there, each latent is multiplied by its
    weight, and its decoder row divided.

    Raises:
        FormatError: The dictionary has no counterpart there, or was never calibrated.
    """
    config = crosscoder.config
    kind = config.sparsity
    if not isinstance(kind, BatchTopK | ReLU):
        raise FormatError(f"crosscoder_learning has no {kind.kind} crosscoder; export it --to saelens")
    if len(set(config.d_models)) > 1:
        raise FormatError(
            f"crosscoder_learning needs models of equal width, found widths {list(config.d_models)}"
        )
    parts = _Parts(crosscoder)
    n_models, d_model = len(config.d_models), config.d_models[0]
    settings: dict[str, Any] = {"activation_dim": d_model, "dict_size": config.n_latents}
    settings |= {"activation_mean": None, "activation_std": None, "target_rms": 1.0}
    tensors = _written_normalizer(parts.mean, parts.scale)
    if isinstance(kind, BatchTopK):
        assert isinstance(crosscoder.sparsity, BatchTopKSparsity)
        if crosscoder.sparsity.threshold.isnan():
            raise FormatError("sparsity.threshold: never calibrated; finish the training before exporting")
        assert kind.k is not None
        tensors |= {"k": torch.tensor(kind.k, dtype=torch.int32), "threshold": crosscoder.sparsity.threshold}
        settings |= {"k": kind.k}
    if n_models == 1:
        if not isinstance(kind, BatchTopK):
            raise FormatError("crosscoder_learning has no relu SAE with a normalizer; export it --to saelens")
        parts.rescale(crosscoder.score_norms())
        bias = parts.decoder_bias[0]
        tensors = {
            name: tensor if name in ("k", "threshold") else tensor.squeeze(0)
            for name, tensor in tensors.items()
        }
        tensors |= {
            "encoder.weight": parts.encoder[0].T,
            "encoder.bias": parts.encoder_bias + bias @ parts.encoder[0],
            "decoder.weight": parts.decoder[:, 0].T,
            "b_dec": bias,
        }
        settings |= {"dict_class": "BatchTopKSAE", "encoder_init_norm": 1.0}
    else:
        mode = _written_mode(crosscoder, parts)
        number = next(number for number, name in CODE_NORMALIZATIONS.items() if name == mode)
        tensors |= {
            "encoder.weight": parts.encoder,
            "encoder.bias": parts.encoder_bias,
            "decoder.weight": parts.decoder.permute(1, 0, 2),
            "decoder.bias": parts.decoder_bias,
            "code_normalization_id": torch.tensor(number),
        }
        dict_class = "BatchTopKCrossCoder" if isinstance(kind, BatchTopK) else "CrossCoder"
        settings |= {
            "num_layers": n_models,
            "norm_init_scale": 1.0,
            "code_normalization": mode,
            "dict_class": dict_class,
        }
    with atomic_file(folder / FILES[0]) as partial:
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, partial
        )
    write_atomic(folder / "config.json", json.dumps(settings, indent=2, sort_keys=True) + "\n")


class _Parts:
    """The weights of a dictionary by model, in the space in which its scores are plain decoder norms."""

    def __init__(self, crosscoder: Crosscoder) -> None:
        n_models, d_model = len(crosscoder.config.d_models), crosscoder.config.d_models[0]
        units = crosscoder.score_scale[:, None]
        self.encoder = crosscoder.W_enc.detach().unflatten(0, (n_models, d_model)) / units[:, :, None]
        self.encoder_bias = crosscoder.b_enc.detach()
        self.decoder = crosscoder.W_dec.detach().unflatten(1, (n_models, d_model)) * units
        self.decoder_bias = crosscoder.b_dec.detach().unflatten(0, (n_models, d_model)) * units
        self.mean = crosscoder.mean.unflatten(0, (n_models, d_model))
        self.scale = crosscoder.scale * crosscoder.score_scale

    def rescale(self, factors: Float[Tensor, " latent"]) -> None:
        """Multiply each latent by a factor and divide its decoder row by it."""
        self.encoder, self.encoder_bias = self.encoder * factors, self.encoder_bias * factors
        self.decoder = self.decoder / factors.clamp_min(torch.finfo(torch.float32).tiny)[:, None, None]


def _written_mode(crosscoder: Crosscoder, parts: _Parts) -> str:
    """Return the code normalization that gives the dictionary's scores; latents are rescaled if none does."""
    if crosscoder.config.scores == "decoder_norms":
        return "CROSSCODER"
    for mode in ("SAE", "MIXED", "NONE"):
        weights = score_weights(mode, parts.decoder, {})
        assert weights is not None
        if torch.allclose(weights, crosscoder.score_weight, rtol=1e-6, atol=0):
            return mode
    parts.rescale(crosscoder.score_weight)
    return "NONE"


def _written_normalizer(
    mean: Float[Tensor, "model d_model"], scale: Float[Tensor, " model"]
) -> dict[str, Tensor]:
    """Return the peer's normalizer. Its standard deviations are not known here: equal ones that give the scale stand for them."""
    if bool((mean == 0).all() & (scale == 1).all()):
        mean = std = torch.full_like(mean, torch.nan)
    else:
        std = (1 / (scale * mean.shape[1] ** 0.5))[:, None].expand_as(mean)
    return {
        "activation_mean": mean,
        "activation_std": std,
        "activation_global_scale": scale,
        "target_rms": torch.tensor(1.0),
    }


DIALECT = Dialect("crosscoder_learning", recognizes, read)
