"""sparsify (EleutherAI): TopK SAEs.

    cfg.json + sae.safetensors
    encoder.weight [latent, d_model]   encoder.bias [latent]   W_dec [latent, d_model]   b_dec [d_model]   W_skip (transcoders)

The k largest rectified pre-latents of a token fire. The decoder bias is subtracted from the input.
"""

import torch

from ...config import TopK
from ...errors import FormatError
from .agreement import refuse_contradictions, refuse_other_tensors
from .assembly import ForeignWeights, assemble
from .dialect import Dialect, Reading, described, transcoder
from .dictionary_files import SourceFiles
from .open_questions import Questions

WEIGHTS = "sae.safetensors"
_KEYS = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}


def recognizes(files: SourceFiles) -> bool:
    """Whether there is a sae.safetensors with the tensors of a sparse coder."""
    return files.shapes(files.weights(WEIGHTS)).keys() >= _KEYS


def read(files: SourceFiles, questions: Questions) -> Reading:
    """Read the SAE.

    Raises:
        ConfigError: What it reads is not given.
        FormatError: It selects by groups (groupmax), or is a transcoder.
    """
    name = files.required_weights(WEIGHTS)
    tensors, settings = files.tensors(name), files.settings("cfg.json")
    if "k" not in settings:
        raise FormatError(f"{files.folder / 'cfg.json'}: no k; the folder is incomplete, copy it again")
    if settings.get("activation", "topk") != "topk":
        raise FormatError(
            f"{files.place}: activation {settings['activation']} keeps one latent of each group; our dictionary has no groups of latents"
        )
    if settings.get("transcode") or "W_skip" in tensors:
        raise transcoder(files)
    refuse_other_tensors(files, tensors, _KEYS)
    n_latents, d_model = tensors["encoder.weight"].shape
    # Without a number of latents, sparsify stores 0 and multiplies the width by expansion_factor.
    stated = settings | {"num_latents": settings.get("num_latents") or None}
    refuse_contradictions(files, stated, d_in=d_model, num_latents=n_latents)
    weights = ForeignWeights(
        encoder=tensors["encoder.weight"].mT[None],
        encoder_bias=tensors["encoder.bias"],
        decoder=tensors["W_dec"][:, None],
        decoder_bias=tensors["b_dec"][None],
        sparsity=TopK(k=settings["k"]),
        score_weight=torch.ones(len(tensors["W_dec"])),
        subtracts_decoder_bias=True,
    )
    return Reading(assemble(weights, questions), described(settings, "k", "num_latents", "expansion_factor"))


DIALECT = Dialect("sparsify", recognizes, read)
