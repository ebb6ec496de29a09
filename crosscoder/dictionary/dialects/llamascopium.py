"""Llamascopium (Language-Model-SAEs, OpenMOSS): crosscoders and SAEs.

    config.json + sae_weights.safetensors, or a .pt file with the tensors under "sae"
    crosscoder   W_E [model, d_model, latent]   b_E [model, latent] (summed)   W_D [model, latent, d_model]   b_D [model, d_model]
    SAE          W_E [d_model, latent]          b_E [latent]                   W_D [latent, d_model]          b_D [d_model]
    activation_function.log_jumprelu_threshold [latent]      dataset_average_activation_norm.HOOKPOINT []

x' = x * sqrt(d_model) / average norm where norm_activation is dataset-wise. Each model applies the activation function to
pre-latents times its own decoder norm, so with unequal norms the models disagree on which latents fire. Then only ReLU is one code.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...config import BatchTopK, SparsityConfig, TopK
from ...errors import FormatError
from .agreement import refuse_contradictions, refuse_other_tensors
from .assembly import JUMPRELU, RELU, ForeignWeights, assemble
from .dialect import Dialect, Reading, described, transcoder
from .dictionary_files import SourceFiles
from .open_questions import Questions

FILES = ("sae_weights.safetensors", "sae_weights.pt")
_THRESHOLD = "activation_function.log_jumprelu_threshold"
_NORMS = "dataset_average_activation_norm."
_EQUAL = 1e-5
"""Largest relative difference of decoder norms that counts as equal: rounding."""


def _tensors(files: SourceFiles) -> dict[str, Any]:
    found = files.tensors(files.required_weights(*FILES))
    return _inside(found)


def _inside(found: dict[str, Any]) -> dict[str, Any]:
    return found["sae"] if isinstance(found.get("sae"), dict) else found


def recognizes(files: SourceFiles) -> bool:
    """Whether the weights are called W_E and W_D."""
    name = files.weights(*FILES)
    if name is None:
        return False
    shapes = files.shapes(name) if name.endswith(".safetensors") else _inside(files.tensors(name))
    return {"W_E", "W_D", "b_E"} <= shapes.keys()


def read(files: SourceFiles, questions: Questions) -> Reading:
    """Read a crosscoder or an SAE.

    Raises:
        ConfigError: Something that the files leave open was not given.
        FormatError: Models disagree on what fires, tokens are normalized one by one, or it is a transcoder or a gated SAE.
    """
    tensors, settings = _tensors(files), files.settings("config.json")
    if not settings:
        raise FormatError(
            f"{files.folder / 'config.json'}: not found; it holds the activation function, copy it again"
        )
    kind = settings.get("sae_type", "sae")
    if kind not in ("crosscoder", "sae") or settings.get("use_glu_encoder"):
        raise FormatError(
            f"{files.place}: sae_type {kind} is no crosscoder and no plain SAE; our dictionary cannot represent it"
        )
    hookpoints = settings["hook_points"] if kind == "crosscoder" else [settings["hook_point_in"]]
    if settings.get("hook_point_out", hookpoints[0]) != hookpoints[0]:
        raise transcoder(files)
    encoder, bias, decoder = (tensors[name] for name in ("W_E", "b_E", "W_D"))
    if kind == "sae":
        encoder, bias, decoder = encoder[None], bias[None], decoder[None]
    n_models, d_model, n_latents = encoder.shape
    refuse_other_tensors(files, tensors, {"W_E", "b_E", "W_D", "b_D", _THRESHOLD}, _NORMS)
    refuse_contradictions(files, settings, d_model=d_model)
    if "expansion_factor" in settings and int(d_model * settings["expansion_factor"]) != n_latents:
        raise FormatError(
            f"{files.place}: its settings say {d_model} · expansion_factor {settings['expansion_factor']} latents, and its weights "
            f"{n_latents}; take settings and weights of the same dictionary"
        )
    if len(hookpoints) != n_models:
        raise FormatError(
            f"{files.place}: its settings name {len(hookpoints)} hookpoints, and its weights have {n_models}; take settings and weights of "
            "the same dictionary"
        )
    decoder_bias = tensors["b_D"] if "b_D" in tensors else torch.zeros(n_models, d_model)
    weights = ForeignWeights(
        encoder=encoder,
        encoder_bias=bias.float().sum(dim=0),
        decoder=decoder.permute(1, 0, 2),
        decoder_bias=decoder_bias.reshape(n_models, d_model),
        sparsity=RELU,
        scale=_scale(files, tensors, settings, hookpoints, d_model),
        model_order_hint=f" (its hookpoints are {', '.join(hookpoints)})",
    )
    norms = decoder.float().norm(dim=2)
    if not settings.get("sparsity_include_decoder_norm", True):
        norms = torch.ones_like(norms)
    _activation(files, tensors, settings, questions, weights, norms)
    return Reading(
        assemble(weights, questions),
        described(settings, "sae_type", "act_fn", "hook_points", "hook_point_in"),
    )


def _activation(
    files: SourceFiles,
    tensors: dict[str, Any],
    settings: dict[str, Any],
    questions: Questions,
    weights: ForeignWeights,
    norms: Float[Tensor, "model latent"],
) -> None:
    kind = settings.get("act_fn", "relu")
    if kind == "relu":
        return
    norm = norms.mean(dim=0)
    spread = float(((norms - norm).abs() / norm.clamp_min(1e-30)).max())
    if spread > _EQUAL:
        raise FormatError(
            f"{files.place}: {kind} acts on each model with that model's decoder norm, and the norms of a latent differ by up to "
            f"{100 * spread:.2g} % of their mean, so the models disagree on which latents fire; our dictionary has one code for all"
        )
    sparsity: dict[str, SparsityConfig] = {"jumprelu": JUMPRELU}
    if kind in ("topk", "batchtopk"):
        k = settings["top_k"]
        sparsity |= {"topk": TopK(k=k), "batchtopk": BatchTopK(k=k)}
    if kind not in sparsity:
        raise FormatError(f"{files.place}: act_fn {kind} is none of relu, jumprelu, topk and batchtopk")
    weights.sparsity = sparsity[kind]
    if kind == "jumprelu":
        weights.threshold = tensors[_THRESHOLD].float().exp() / norm
    else:
        weights.score_weight = norm
    if kind == "batchtopk":
        weights.threshold = questions.threshold("it stores no threshold, because each batch selects anew")


def _scale(
    files: SourceFiles, tensors: dict[str, Any], settings: dict[str, Any], hookpoints: list[str], d_model: int
) -> Float[Tensor, " model"] | None:
    how = settings.get("norm_activation", "dataset-wise")
    if how == "inference":
        return None
    if how != "dataset-wise":
        raise FormatError(
            f"{files.place}: norm_activation {how} divides by a norm of the input itself; our dictionary has one scale for all tokens"
        )
    names = [f"{_NORMS}{hookpoint}" for hookpoint in hookpoints]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise FormatError(f"{files.place}: {missing[0]} is missing; the file is incomplete")
    return torch.tensor([math.sqrt(d_model) / float(tensors[name]) for name in names])


DIALECT = Dialect("llamascopium", recognizes, read)
