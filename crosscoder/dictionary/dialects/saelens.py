"""SAELens 6: SAEs of one model read; a crosscoder written as one SAE on the concatenated activations of all models, and read back.

    cfg.json                     architecture, d_in, d_sae, normalize_activations, apply_b_dec_to_input, metadata
    sae_weights.safetensors      W_enc [width, latent], b_enc, W_dec [latent, width], b_dec, threshold (jumprelu)

What is written: the dictionary is folded, so the SAE takes raw activations. The export is exact: BatchTopK and JumpReLU become
`jumprelu` with one threshold per latent (a score f·n above θ is a pre-latent above θ/n); ReLU becomes `standard`. TopK ranks by
f·n, so n moves into the encoder: latents are multiplied by n, and the reconstruction is unchanged. The metadata keep the model axis
and the kind of sparsity, so that reading the files back gives the folded dictionary.

Views of one model are in `saelens_views`.

Neither direction needs sae-lens; the tests load the files with it.
"""

import json
from pathlib import Path
from typing import Any, assert_never

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from ...config import BatchTopK as BatchTopKConfig
from ...config import CrosscoderConfig, JumpReLU, ReLU, TopK
from ...errors import FormatError
from ...runtime.files import atomic_file, write_atomic
from ..crosscoder import Crosscoder
from ..sparsity import BatchTopKSparsity, JumpReLUSparsity
from .agreement import refuse_contradictions, refuse_integers
from .assembly import JUMPRELU, RELU, ForeignWeights, assemble, log_of
from .dialect import Dialect, Reading, described, transcoder
from .dictionary_files import SourceFiles
from .open_questions import Questions

# SAELens treats versions below 6.0.0 as an older format and silently drops the metadata.
_SAELENS_VERSION = "6.0.0"
WEIGHTS, SETTINGS = "sae_weights.safetensors", "cfg.json"
_STORED = "crosscoder"
"""Where the metadata of our own export keep what SAELens has no place for."""

_ARCHITECTURES = ("standard", "jumprelu", "topk")
_REFUSED_ARCHITECTURES = {
    "gated": "decides by one encoder what fires and by another how strongly; our dictionary has one encoder",
    "abstopk": "keeps negative latents; those of our dictionary are positive",
    "temporal": "computes latents from the tokens before, too; our dictionary reads each token alone",
    "matching_pursuit": "finds one latent after another in what is left of the input; our dictionary has an encoder",
}
_REFUSED = {
    "layer_norm": "normalizes each token by its own mean and deviation",
    "constant_norm_rescale": "divides each token by its own norm",
    "covariance_whitening": "whitens activations with a matrix that is not in the file; save it after fold_activation_whitening",
}


# --- reading ----------------------------------------------------------------------------------------------------------


def recognizes(files: SourceFiles) -> bool:
    """Whether there is a cfg.json, and weights of the name that this tool gives them, or with the matrices of an SAE."""
    if SETTINGS not in files.names or WEIGHTS in files.names:
        return SETTINGS in files.names
    shapes = files.shapes(files.weights())
    return {"W_enc", "W_dec", "b_dec"} <= shapes.keys() and len(shapes["W_enc"]) == 2


def read(files: SourceFiles, questions: Questions) -> Reading:
    """Read an SAE, or our own export.

    Raises:
        ConfigError: What it reads, or its scale, is not given.
        FormatError: The architecture or the normalization is one that our dictionary does not have.
    """
    name = files.required_weights(WEIGHTS)
    tensors, settings = files.tensors(name), _modern(files.settings(SETTINGS))
    metadata = settings.get("metadata") or {}
    what = described(
        metadata, "model_name", "hook_name", "hook_head_index", "prepend_bos", "dataset_path", "hf_hook_name"
    )
    if _STORED in metadata:
        return Reading(_restored(tensors, metadata[_STORED], questions), what)
    weights = _weights(files, tensors, settings, questions)
    if ((settings | metadata).get("model_from_pretrained_kwargs") or {}).get("center_writing_weights"):
        _center(weights, questions)
    return Reading(assemble(weights, questions), what)


def _modern(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with what releases before 6 left out or called differently."""
    version = settings.get("sae_lens_version") or (settings.get("metadata") or {}).get("sae_lens_version")
    if version and int(version.partition(".")[0]) >= 6:
        return settings
    function = settings.get("activation_fn", settings.get("activation_fn_str", "relu"))
    old = {"architecture": "standard", "apply_b_dec_to_input": True} | settings
    if function == "topk":
        old |= {"architecture": "topk", "k": settings["activation_fn_kwargs"]["k"]}
    normalize = settings.get("normalize_activations")
    if isinstance(normalize, bool) or normalize is None:
        old["normalize_activations"] = "expected_average_only_in" if normalize else "none"
    return old


def _weights(
    files: SourceFiles, tensors: dict[str, Any], settings: dict[str, Any], questions: Questions
) -> ForeignWeights:
    architecture = settings["architecture"]
    if "transcoder" in architecture:
        raise transcoder(files)
    if architecture not in _ARCHITECTURES:
        why = _REFUSED_ARCHITECTURES.get(architecture, "computes latents in another way than our dictionary")
        raise FormatError(
            f"{files.place}: an SAE of architecture {architecture} {why}; what is read is standard, topk and jumprelu (which batchtopk and "
            "matryoshka_batchtopk are saved as)"
        )
    unknown = tensors.keys() - {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}
    if unknown:
        raise FormatError(
            f"{files.place}: tensors {', '.join(sorted(unknown))} are not part of the architecture {architecture}"
        )
    for tensor_name, tensor in tensors.items():
        refuse_integers(files.place, tensor_name, tensor)
    width, n_latents = tensors["W_enc"].shape
    refuse_contradictions(files, settings, d_in=width, d_sae=n_latents)
    scale = _scale(files, settings, questions)
    encoder, decoder = tensors["W_enc"].float(), tensors["W_dec"].float()
    weights = ForeignWeights(
        encoder=encoder[None],
        encoder_bias=tensors["b_enc"],
        decoder=decoder[:, None],
        decoder_bias=tensors["b_dec"][None],
        sparsity=RELU,
        scale=scale,
        subtracts_decoder_bias=settings.get("apply_b_dec_to_input", True),
    )
    if architecture == "jumprelu":
        weights.sparsity, weights.threshold = JUMPRELU, tensors["threshold"]
    elif architecture == "topk":
        weights.sparsity = TopK(k=settings["k"])
        weights.score_weight = torch.ones(len(decoder))
        if settings.get("rescale_acts_by_decoder_norm"):
            norms = decoder.norm(dim=1)
            weights.encoder, weights.encoder_bias = (encoder * norms)[None], tensors["b_enc"].float() * norms
            # A latent without a decoder row never fires, and 0 / 0 would be no number.
            weights.decoder = (decoder / norms.clamp_min(torch.finfo(torch.float32).tiny)[:, None])[:, None]
    return weights


def _center(weights: ForeignWeights, questions: Questions) -> None:
    """Let the encoder read x - mean(x) over the dimensions of each token, if that is what it was trained on.

    (x - mean(x)) W = x (W - the mean of each column of W), so the latents are exact. Decoder rows are kept as they are.
    """
    why = "the model of its training was loaded with center_writing_weights"
    if weights.scale is not None:
        raise FormatError(
            f"{questions.given.source}: {why}, and a scale is open too; fold the scale into the SAE first"
        )
    if not questions.centering(why):
        return
    means = weights.encoder.mean(dim=1)
    weights.encoder = weights.encoder - means[:, None]
    if weights.subtracts_decoder_bias:
        # It is subtracted after centering, so its own mean stays.
        weights.encoder_bias = weights.encoder_bias - weights.decoder_bias.float().sum() * means[0]
    questions.note(
        "it reads activations without their mean over dimensions, and reconstructs none of that mean, which counts as not explained"
    )


def _scale(
    files: SourceFiles, settings: dict[str, Any], questions: Questions
) -> Float[Tensor, " model"] | None:
    how = settings.get("normalize_activations", "none")
    if how == "none":
        return None
    if how != "expected_average_only_in":
        raise FormatError(
            f"{files.place}: normalize_activations {how} {_REFUSED.get(how, 'is not known')}; our dictionary has one scale for all tokens"
        )
    _, scale = questions.normalization(
        1, settings["d_in"], "its activations were scaled in training, and the factor is not in the file"
    )
    return scale


def _restored(tensors: dict[str, Any], stored: dict[str, Any], questions: Questions) -> Crosscoder:
    """Return the folded dictionary that `export_saelens` wrote."""
    config = CrosscoderConfig.model_validate(stored["config"])
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    state = {name: tensors[name].float() for name in names}
    state |= {"mean": torch.zeros(config.width), "scale": torch.ones(len(config.d_models))}
    state |= {"score_scale": torch.tensor(stored["score_scale"])}
    match config.sparsity:
        case TopK():
            config = config.model_copy(update={"scores": "stored"})
            state["score_weight"] = torch.ones(config.n_latents)
        case JumpReLU():
            state["sparsity.log_threshold"] = log_of(tensors["threshold"].float())
        case BatchTopKConfig():
            state["sparsity.threshold"] = torch.tensor(float(stored["threshold"]))
        case ReLU():
            pass
    crosscoder = Crosscoder(config)
    if isinstance(config.sparsity, BatchTopKConfig):
        crosscoder.load_state_dict(state)
        if not torch.equal(_thresholds(crosscoder), tensors["threshold"].float()):
            questions.note(
                "the weights were changed after the export, so latents fire by the thresholds in the file (jumprelu)"
            )
            crosscoder = Crosscoder(
                config.model_copy(update={"sparsity": JUMPRELU, "scores": "decoder_norms"})
            )
            del state["sparsity.threshold"]
            state["sparsity.log_threshold"] = log_of(tensors["threshold"].float())
    crosscoder.load_state_dict(state)
    return crosscoder.eval()


# --- writing ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def export_saelens(crosscoder: Crosscoder, folder: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write a folder for `SAE.load_from_disk`: one SAE on the concatenated activations of all models.

    Raises:
        FormatError: A BatchTopK dictionary was never calibrated.
    """
    weights, settings = folded_weights(crosscoder)
    config = crosscoder.config
    sparsity = crosscoder.sparsity
    if config.scores == "stored" and isinstance(config.sparsity, BatchTopKConfig):
        # The files have no place for score weights, so it is read back as the jumprelu that it is written as.
        config = config.model_copy(update={"sparsity": JUMPRELU, "scores": "decoder_norms"})
    settings["metadata"] = {
        _STORED: {
            "config": config.model_dump(mode="json"),
            "score_scale": (crosscoder.score_scale * crosscoder.scale).tolist(),
            **({"threshold": float(sparsity.threshold)} if isinstance(sparsity, BatchTopKSparsity) else {}),
        }
    }
    write_sae(folder, weights, sae_settings(crosscoder, settings, metadata or {}))


def folded_weights(crosscoder: Crosscoder) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of an SAE on raw activations, and its settings."""
    folded = crosscoder.fold()
    weights: dict[str, Tensor] = {
        "W_enc": folded.W_enc,
        "b_enc": folded.b_enc,
        "W_dec": folded.W_dec,
        "b_dec": folded.b_dec,
    }
    kind = crosscoder.config.sparsity
    match kind:
        case BatchTopKConfig() | JumpReLU():
            return weights | {"threshold": _thresholds(folded)}, {"architecture": "jumprelu"}
        case ReLU():
            return weights, {"architecture": "standard"}
        case TopK():
            norms = folded.score_norms()
            weights |= {
                "W_enc": folded.W_enc * norms,
                "b_enc": folded.b_enc * norms,
                "W_dec": folded.W_dec / norms[:, None].clamp_min(torch.finfo(torch.float32).tiny),
            }
            return weights, {"architecture": "topk", "k": kind.k, "rescale_acts_by_decoder_norm": False}
        case _:
            assert_never(kind)


def _thresholds(folded: Crosscoder) -> Float[Tensor, " latent"]:
    """Return the threshold of each latent on its pre-latent."""
    sparsity = folded.sparsity
    if isinstance(sparsity, JumpReLUSparsity):
        return sparsity.log_threshold.detach().exp()
    assert isinstance(sparsity, BatchTopKSparsity)
    if sparsity.threshold.isnan():
        raise FormatError("sparsity.threshold: never calibrated; finish the training before exporting")
    # A latent of zero norm contributes nothing; its infinite threshold keeps it off.
    norms = folded.score_norms()
    return torch.where(norms > 0, sparsity.threshold / norms, torch.inf).detach()


def sae_settings(
    crosscoder: Crosscoder, settings: dict[str, Any], metadata: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of cfg.json: settings of an architecture completed by those that all SAEs on raw activations share."""
    return {
        "d_in": crosscoder.config.width,
        "d_sae": crosscoder.config.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **settings,
        "metadata": {
            "sae_lens_version": _SAELENS_VERSION,
            "model_names": list(crosscoder.config.model_names),
            "d_models": list(crosscoder.config.d_models),
            **settings.get("metadata", {}),
            **metadata,
        },
    }


def write_sae(folder: Path, weights: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Write a folder for `SAE.load_from_disk`; settings last, so that a folder that has them is complete."""
    with atomic_file(folder / WEIGHTS) as partial:
        save_file(plain_weights(weights), partial)
    write_atomic(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")


def plain_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as they are stored: float32, on the CPU, each in its own memory."""
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}


DIALECT = Dialect("saelens", recognizes, read)
