"""Dedicated feature crosscoders (DFC, Jiralerspong and Bricken 2026): some latents belong to one model alone.

    dfc_learning   a `.pt` file with the tensors of crosscoder_learning and `_partition_config`
    Antebe         config.json + model.pt: W_enc [2, d_model, latent]   W_dec [latent, 2, d_model]   b_enc   b_dec [2, d_model]
                   enc_mask [2, latent]   dec_mask [latent, 2] (neither in its plain crosscoders)

Latents keep their numbers: first those of the file's model A, then those of its model B, then the shared ones. The zero weights are
kept; that they must stay zero in a further training is not. In the second form the decoder is masked and the encoder is not, the k
largest rectified pre-latents of a token fire, and inputs were standardized with statistics that are stored nowhere.
"""

from typing import Any

import torch

from ...config import TopK
from ...errors import FormatError
from .agreement import refuse_contradictions, refuse_other_tensors
from .assembly import ForeignWeights, assemble
from .crosscoder_learning import FILES as CROSSCODER_LEARNING_FILES
from .crosscoder_learning import PARTITION, read_crosscoder
from .dialect import Dialect, Reading, described
from .dictionary_files import SourceFiles
from .open_questions import Questions

_PLAIN = {"W_enc", "W_dec", "b_enc", "b_dec"}
_FILES = (*CROSSCODER_LEARNING_FILES, "model.pt")
_MASKED = {*_PLAIN, "enc_mask", "dec_mask"}


def recognizes(files: SourceFiles) -> bool:
    """Whether the weights have a partition, masks, or the settings of a TopK crosscoder beside them."""
    name = files.weights(*_FILES)
    if name is None or not name.endswith(".pt"):
        return False
    shapes = files.shapes(name)
    if PARTITION in files.tensors(name) or shapes.keys() == _MASKED:
        return True
    settings = files.settings("config.json")
    return (
        shapes.keys() == _PLAIN and len(shapes["W_enc"]) == 3 and {"activation_dim", "k"} <= settings.keys()
    )


def read(files: SourceFiles, questions: Questions) -> Reading:
    """Read either form.

    Raises:
        ConfigError: The order of models, the threshold or the normalization is not given.
        FormatError: There is no k.
    """
    name = files.required_weights(*_FILES)
    tensors, settings = files.tensors(name), files.settings("config.json")
    if PARTITION in tensors:
        weights = read_crosscoder(files, tensors, settings, questions)
        refuse_contradictions(files, tensors[PARTITION], dict_size=weights.encoder.shape[2])
        what = {
            "partition": {
                key: value for key, value in tensors[PARTITION].items() if isinstance(value, int | float)
            }
        }
    else:
        weights = _standardized(files, tensors, settings, questions)
        what = described(settings, "n_a", "n_b", "k")
    questions.note(
        "the weights of exclusive latents are zero for the other model; a further training does not keep them zero"
    )
    return Reading(assemble(weights, questions), what)


def _standardized(
    files: SourceFiles, tensors: dict[str, Any], settings: dict[str, Any], questions: Questions
) -> ForeignWeights:
    if "k" not in settings:
        raise FormatError(f"{files.folder / 'config.json'}: no k; the folder is incomplete, copy it again")
    n_models, d_model, n_latents = tensors["W_enc"].shape
    refuse_other_tensors(files, tensors, _MASKED)
    refuse_contradictions(files, settings, activation_dim=d_model, dict_size=n_latents)
    mean, scale = questions.normalization(
        n_models,
        d_model,
        "inputs were standardized with a mean and a standard deviation that are not in the file",
    )
    decoder = tensors["W_dec"].float()
    if "dec_mask" in tensors:
        decoder = decoder * tensors["dec_mask"].float()[:, :, None]
    return ForeignWeights(
        encoder=tensors["W_enc"],
        encoder_bias=tensors["b_enc"],
        decoder=decoder,
        decoder_bias=tensors["b_dec"],
        sparsity=TopK(k=settings["k"]),
        score_weight=torch.ones(n_latents),
        mean=mean,
        scale=scale,
        model_order_hint=" (in the published ones, the fine-tuned model comes first)",
    )


DIALECT = Dialect("dedicated_features", recognizes, read)
