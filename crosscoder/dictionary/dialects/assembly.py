"""From the weights of another tool to our dictionary.

Every dialect brings its weights into one form, `ForeignWeights`; `assemble` puts the models into our order, moves the normalization and
the thresholds to where our dictionary has them, and checks shapes and values.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ...config import BatchTopK, CrosscoderConfig, JumpReLU, ReLU, SparsityConfig, TopK
from ...config.model_names import model_names
from ...errors import FormatError
from ..crosscoder import Crosscoder
from .agreement import refuse_integers
from .open_questions import Questions

RELU = ReLU(target_l0=None)
JUMPRELU = JumpReLU(target_l0=None)


@dataclass
class ForeignWeights:
    """A dictionary x' = (x - mean) * scale, f = sparsity(x' encoder + encoder_bias), x̂' = f decoder + decoder_bias.

    The model axis is in the file's order. Shapes are as the file has them until `assemble` checks them.
    """

    encoder: Shaped[Tensor, "_ _ _"]
    """[model, d_model, latent]"""
    encoder_bias: Shaped[Tensor, " _"]
    """[latent]"""
    decoder: Shaped[Tensor, "_ _ _"]
    """[latent, model, d_model]"""
    decoder_bias: Shaped[Tensor, "_ _"]
    """[model, d_model]"""
    sparsity: SparsityConfig
    threshold: float | Shaped[Tensor, " _"] | None = None
    """BatchTopK: one number, on scores; JumpReLU: [latent], on pre-latents; otherwise none."""
    log_threshold: Shaped[Tensor, " _"] | None = None
    """[latent]: logarithm of a JumpReLU threshold, if the file holds that instead."""
    score_weight: Shaped[Tensor, " _"] | None = None
    """[latent]: what weights a latent where latents compete; None: the sum of its decoder norms."""
    mean: Shaped[Tensor, "_ _"] | None = None
    """[model, d_model]"""
    scale: Tensor | None = None
    """One per model `[model]`, or one per dimension `[model, d_model]`."""
    subtracts_decoder_bias: bool = False
    """Whether the encoder reads x' - decoder_bias."""
    model_order_hint: str = ""


def assemble(weights: ForeignWeights, questions: Questions) -> Crosscoder:
    """Build the dictionary; models are put into our order, and the sign of a difference into ours.

    Raises:
        ConfigError: The order of models, or what a dictionary of one model reads, is not given.
        FormatError: Shapes do not fit, or values are not finite.
    """
    _check(weights, questions.given.source)
    n_models, d_model, n_latents = weights.encoder.shape
    sign = 1.0
    if n_models == 1:
        reads, sign = questions.view()
        order, names = (0,), (reads,)
    else:
        order, names = questions.models(n_models, weights.model_order_hint), model_names(n_models)
    places = torch.tensor(order)
    encoder, decoder = weights.encoder.float()[places] * sign, weights.decoder.float()[:, places] * sign
    decoder_bias = weights.decoder_bias.float()[places] * sign
    mean = torch.zeros(n_models, d_model) if weights.mean is None else weights.mean.float()[places] * sign
    scale = torch.ones(n_models) if weights.scale is None else weights.scale.float()[places]
    score_weight = weights.score_weight
    competes = isinstance(weights.sparsity, BatchTopK | TopK)
    if scale.ndim == 2:
        # One scale per dimension goes into the weights. Latents keep competing by their norms before that.
        if score_weight is None and competes:
            score_weight = decoder.norm(dim=2).sum(dim=1)
        encoder, decoder, decoder_bias = encoder * scale[:, :, None], decoder / scale, decoder_bias / scale
        scale = torch.ones(n_models)
    if weights.subtracts_decoder_bias:
        # The bias that is subtracted from the input and added to the output acts as a mean.
        mean, decoder_bias = mean + decoder_bias / scale[:, None], torch.zeros_like(decoder_bias)
    config = CrosscoderConfig(
        d_models=(d_model,) * n_models,
        model_names=names,
        n_latents=n_latents,
        sparsity=weights.sparsity,
        scores="decoder_norms" if score_weight is None or not competes else "stored",
    )
    state = {
        "W_enc": encoder.reshape(n_models * d_model, n_latents),
        "b_enc": weights.encoder_bias.float(),
        "W_dec": decoder.reshape(n_latents, n_models * d_model),
        "b_dec": decoder_bias.flatten(),
        "mean": mean.flatten(),
        "scale": scale,
        "score_scale": torch.ones(n_models),
        **(
            {}
            if config.scores == "decoder_norms" or score_weight is None
            else {"score_weight": score_weight.float()}
        ),
        **_threshold(weights),
    }
    crosscoder = Crosscoder(config)
    crosscoder.load_state_dict(state)
    return crosscoder.eval()


def _threshold(weights: ForeignWeights) -> dict[str, Tensor]:
    match weights.sparsity:
        case BatchTopK():
            assert isinstance(weights.threshold, float)
            return {"sparsity.threshold": torch.tensor(weights.threshold)}
        case JumpReLU():
            if weights.log_threshold is not None:
                return {"sparsity.log_threshold": weights.log_threshold.float()}
            assert isinstance(weights.threshold, Tensor)
            return {"sparsity.log_threshold": log_of(weights.threshold.float())}
        case _:
            return {}


def log_of(threshold: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
    """Return the logarithm whose exponential, as it is computed, is the threshold itself wherever such a number exists.

    A threshold below zero lets the same latents through as zero does, because latents are positive.
    """
    threshold = threshold.clamp_min(0)
    best = threshold.double().log().float()
    for direction in (-torch.inf, torch.inf):
        near = best.clone()
        for _ in range(4):
            near = near.nextafter(torch.full_like(near, direction))
            closer = (near.exp() - threshold).abs() < (best.exp() - threshold).abs()
            best = torch.where(closer, near, best)
    return best


def _check(weights: ForeignWeights, source: str) -> None:
    n_models, d_model, n_latents = weights.encoder.shape
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "encoder bias": (weights.encoder_bias, (n_latents,)),
        "decoder": (weights.decoder, (n_latents, n_models, d_model)),
        "decoder bias": (weights.decoder_bias, (n_models, d_model)),
        "mean": (weights.mean, (n_models, d_model)),
        "score weights": (weights.score_weight, (n_latents,)),
        "thresholds": (weights.threshold if isinstance(weights.threshold, Tensor) else None, (n_latents,)),
        "log-thresholds": (weights.log_threshold, (n_latents,)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise FormatError(
                f"{source}: {name} has shape {list(tensor.shape)}, expected {list(shape)} for an encoder of "
                f"{n_models} models, width {d_model} and {n_latents} latents"
            )
    # An infinite threshold keeps a latent off, and a log-threshold of minus infinity is a threshold of zero.
    tensors: dict[str, Tensor | None] = {name: tensor for name, (tensor, _) in wanted.items()}
    for name, tensor in (tensors | {"encoder": weights.encoder, "scale": weights.scale}).items():
        if tensor is None:
            continue
        refuse_integers(source, name, tensor)
        allowed = ~tensor.isnan() if "threshold" in name else tensor.isfinite()
        if not bool(allowed.all()):
            raise FormatError(f"{source}: {name} holds values that are not finite; the file is damaged")
