"""crosscode (oli-clive-griffin): crosscoders over models and hookpoints.

    model.pt + model_cfg.yaml
    _W_enc_XiDiL [model, hookpoint, d_model, latent]   b_enc_L [latent]
    _W_dec_LXoDo [latent, model, hookpoint, d_model]   _b_dec_XoDo [model, hookpoint, d_model]
    is_folded []   folded_scaling_factors_in_Xi, folded_scaling_factors_out_Xo [model, hookpoint]
    activation_fn.log_threshold_L [latent] (JumpReLU)

Once folded, the weights read raw activations. Before that, activations were multiplied by one factor per model, which is not stored.
"""

from typing import Any

import torch

from ...config import BatchTopK
from ...errors import FormatError
from .agreement import refuse_contradictions, refuse_other_tensors
from .assembly import JUMPRELU, RELU, ForeignWeights, assemble
from .dialect import Dialect, Reading, described
from .dictionary_files import SourceFiles
from .open_questions import Questions

WEIGHTS, SETTINGS = "model.pt", "model_cfg.yaml"
_ENCODER, _DECODER = "_W_enc_XiDiL", "_W_dec_LXoDo"
_FOLDED = {"is_folded", "folded_scaling_factors_in_Xi", "folded_scaling_factors_out_Xo"}
_KNOWN = {_ENCODER, _DECODER, "b_enc_L", "_b_dec_XoDo", "log_threshold_L", *_FOLDED}


def recognizes(files: SourceFiles) -> bool:
    """Whether the weights are called as crosscode calls them."""
    return {_ENCODER, _DECODER} <= files.shapes(files.weights(WEIGHTS)).keys()


def read(files: SourceFiles, questions: Questions) -> Reading:
    """Read the crosscoder.

    Raises:
        ConfigError: The order of models, the normalization or the threshold is not given.
        FormatError: It reads several hookpoints, or keeps negative latents (TopK) or one of each group (groupmax).
    """
    name = files.required_weights(WEIGHTS)
    tensors, settings = files.tensors(name), files.settings(SETTINGS)
    encoder, decoder = tensors[_ENCODER], tensors[_DECODER]
    if encoder.ndim == 3:
        encoder, decoder = encoder[:, None], decoder[:, :, None]
    n_models, n_hookpoints, d_model, n_latents = encoder.shape
    if n_hookpoints > 1:
        raise FormatError(
            f"{files.place}: reads {n_hookpoints} hookpoints of each model; our dictionary reads one hookpoint of each"
        )
    refuse_other_tensors(
        files,
        {
            name.removeprefix("_activation_fn.").removeprefix("activation_fn."): value
            for name, value in tensors.items()
        },
        _KNOWN,
    )
    refuse_contradictions(files, settings, n_models=n_models, d_model=d_model, n_latents=n_latents)
    scale = None
    if not bool(tensors["is_folded"]):
        mean, scale = questions.normalization(
            n_models, d_model, "its scaling factors are not folded into the weights, and not in the file"
        )
    else:
        mean = None
    bias, decoder_bias = tensors.get("b_enc_L"), tensors.get("_b_dec_XoDo")
    weights = ForeignWeights(
        encoder=encoder[:, 0],
        encoder_bias=torch.zeros(n_latents) if bias is None else bias,
        decoder=decoder[:, :, 0],
        decoder_bias=torch.zeros(n_models, d_model)
        if decoder_bias is None
        else decoder_bias.reshape(n_models, d_model),
        sparsity=RELU,
        mean=mean,
        scale=scale,
    )
    _activation(files, tensors, settings, questions, weights)
    return Reading(assemble(weights, questions), described(settings, "n_models", "n_hookpoints"))


def _activation(
    files: SourceFiles,
    tensors: dict[str, Any],
    settings: dict[str, Any],
    questions: Questions,
    weights: ForeignWeights,
) -> None:
    function = settings.get("activation_fn", {})
    match function.get("classname"):
        case "ReLUActivation":
            pass
        case "AnthropicSTEJumpReLUActivation" | "JumpReLUActivationFunction":
            name = next(key for key in tensors if key.endswith("log_threshold_L"))
            weights.sparsity, weights.log_threshold = JUMPRELU, tensors[name]
        case "BatchTopkActivation":
            weights.sparsity = BatchTopK(k=function["cfg"]["k_per_example"])
            weights.score_weight = torch.ones(weights.encoder.shape[2])
            weights.threshold = questions.threshold("it stores no threshold, because each batch selects anew")
        case "TopkActivation":
            raise FormatError(
                f"{files.place}: its TopK keeps negative latents where fewer than k are positive; latents of our dictionary are positive"
            )
        case "GroupMaxActivation":
            raise FormatError(
                f"{files.place}: groupmax keeps one latent of each group; our dictionary has no groups of latents"
            )
        case other:
            raise FormatError(f"{files.folder / SETTINGS}: activation function {other!r} is not known")


DIALECT = Dialect("crosscode", recognizes, read)
