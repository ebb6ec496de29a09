"""dictionary_learning (Marks et al.): SAEs of one model, as `ae.pt` with the settings of the trainer in config.json.

    AutoEncoder            encoder.weight [latent, d_model]   encoder.bias   decoder.weight [d_model, latent]   bias [d_model]
    AutoEncoderNew         the same with decoder.bias [d_model], which is not subtracted from the input
    AutoEncoderTopK        the same with b_dec, k and threshold; the k largest latents of a token fire
    BatchTopKSAE           the same tensors; latents above the threshold fire
    MatryoshkaBatchTopKSAE W_enc [d_model, latent]   W_dec [latent, d_model]   b_enc   b_dec   k   threshold   group_sizes
    JumpReluAutoEncoder    W_enc   W_dec   b_enc   b_dec   threshold [latent]; b_dec is not subtracted

Activation scales are folded into the weights when they are saved.
"""

from typing import Any

import torch
from torch import Tensor

from ...config import BatchTopK, TopK
from ...errors import FormatError
from .agreement import refuse_contradictions, refuse_other_tensors
from .assembly import JUMPRELU, RELU, ForeignWeights, assemble
from .crosscoder_learning import note_other_k, read_threshold
from .dialect import Dialect, Reading, described
from .dictionary_files import SourceFiles
from .open_questions import Questions

WEIGHTS = "ae.pt"
_LINEAR = {"encoder.weight", "encoder.bias", "decoder.weight"}
_KINDS = {
    "AutoEncoder": {*_LINEAR, "bias"},
    "AutoEncoderNew": {*_LINEAR, "decoder.bias"},
    "TopK or BatchTopK": {*_LINEAR, "b_dec", "k", "threshold"},
    "Matryoshka": {"W_enc", "W_dec", "b_enc", "b_dec", "k", "threshold", "group_sizes"},
    "JumpReLU": {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"},
}
_GATED = {"decoder_bias", "encoder.weight", "decoder.weight", "r_mag", "gate_bias", "mag_bias"}


def recognizes(files: SourceFiles) -> bool:
    """Whether a `.pt` file holds the tensors of one of the SAE classes, all of two dimensions at most."""
    name = files.weights(WEIGHTS)
    shapes = files.shapes(name)
    known = (*_KINDS.values(), _GATED)
    return (
        name is not None
        and name.endswith(".pt")
        and shapes.keys() in known
        and max(map(len, shapes.values())) <= 2
    )


def read(files: SourceFiles, questions: Questions) -> Reading:
    """Read the SAE.

    Raises:
        ConfigError: What it reads, its threshold, or which of two classes it is, is not given and not in the files.
        FormatError: It is a gated SAE.
    """
    name = files.required_weights(WEIGHTS)
    tensors = files.tensors(name)
    if tensors.keys() == _GATED:
        raise FormatError(
            f"{files.place}: a gated SAE decides by one encoder what fires and by another how strongly; our dictionary has one encoder"
        )
    settings = files.settings("config.json")
    trainer = settings.get("trainer", settings)
    refuse_other_tensors(files, tensors, set().union(*_KINDS.values()))
    _check_sizes(files, tensors, trainer, questions)
    weights = (
        _linear(tensors, trainer, questions) if "encoder.weight" in tensors else _matrices(tensors, questions)
    )
    what = described(trainer, "trainer_class", "dict_class", "lm_name", "layer", "submodule_name")
    return Reading(assemble(weights, questions), what)


def _check_sizes(
    files: SourceFiles, tensors: dict[str, Any], trainer: dict[str, Any], questions: Questions
) -> None:
    n_latents, d_model = (
        tensors["encoder.weight"].shape if "encoder.weight" in tensors else tensors["W_dec"].shape
    )
    refuse_contradictions(files, trainer, activation_dim=d_model, dict_size=n_latents)
    if "k" in tensors:
        note_other_k(tensors, trainer, questions)


def _linear(tensors: dict[str, Any], trainer: dict[str, Any], questions: Questions) -> ForeignWeights:
    bias = next(tensors[name] for name in ("bias", "decoder.bias", "b_dec") if name in tensors)
    weights = ForeignWeights(
        encoder=tensors["encoder.weight"].mT[None],
        encoder_bias=tensors["encoder.bias"],
        decoder=tensors["decoder.weight"].mT[:, None],
        decoder_bias=bias[None],
        sparsity=RELU,
        subtracts_decoder_bias="decoder.bias" not in tensors,
    )
    if "k" in tensors:
        _compete(weights, tensors, _is_batch(trainer, questions), questions)
    return weights


def _matrices(tensors: dict[str, Any], questions: Questions) -> ForeignWeights:
    weights = ForeignWeights(
        encoder=tensors["W_enc"][None],
        encoder_bias=tensors["b_enc"],
        decoder=tensors["W_dec"][:, None],
        decoder_bias=tensors["b_dec"][None],
        sparsity=JUMPRELU,
    )
    if "group_sizes" in tensors:
        weights.subtracts_decoder_bias = True
        _compete(weights, tensors, True, questions)
    else:
        weights.threshold = tensors["threshold"]
    return weights


def _compete(weights: ForeignWeights, tensors: dict[str, Tensor], batch: bool, questions: Questions) -> None:
    k = int(tensors["k"])
    weights.score_weight = torch.ones(len(weights.encoder_bias))
    weights.sparsity = BatchTopK(k=k) if batch else TopK(k=k)
    weights.threshold = read_threshold(tensors["threshold"], questions) if batch else None


def _is_batch(trainer: dict[str, Any], questions: Questions) -> bool:
    stated = f"{trainer.get('dict_class', '')} {trainer.get('trainer_class', '')}"
    if "BatchTopK" in stated:
        return True
    if "TopK" in stated:
        return False
    why = "TopK and BatchTopK SAEs are stored alike, and no config.json says which this is"
    return questions.activation(why) == "batch_topk"


DIALECT = Dialect("dictionary_learning", recognizes, read)
