"""Export a crosscoder to SAELens: one SAE on the concatenated activations of all models (SAELens 6 format).

    cfg.json                     architecture, d_in = width, d_sae = latents, metadata
    sae_weights.safetensors      W_enc [width, latent], b_enc, W_dec [latent, width], b_dec, threshold (jumprelu)

The dictionary is folded, so the SAE takes raw activations. The export is exact: BatchTopK and JumpReLU become `jumprelu`
with one threshold per latent (a score f·n above θ is a pre-latent above θ/n); ReLU becomes `standard`. TopK ranks by
f·n, so n moves into the encoder: latents are multiplied by n, and the reconstruction is unchanged.

Writing does not need sae-lens; the tests load the files with sae-lens.
"""

import json
from pathlib import Path
from typing import Any, assert_never

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config import BatchTopK as BatchTopKConfig
from ..config import JumpReLU, ReLU, TopK
from ..errors import FormatError
from ..runtime.files import atomic_file, write_atomic
from .crosscoder import Crosscoder
from .sparsity import BatchTopKSparsity, JumpReLUSparsity

# SAELens treats versions below 6.0.0 as an older format and silently drops the metadata.
_SAELENS_VERSION = "6.0.0"


@torch.no_grad()
def export_saelens(crosscoder: Crosscoder, folder: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write a folder for `SAE.load_from_disk`.

    Raises:
        FormatError: A BatchTopK dictionary was never calibrated.
    """
    folded = crosscoder.fold()
    norms = folded.score_norms()
    weights: dict[str, Tensor] = {
        "W_enc": folded.W_enc,
        "b_enc": folded.b_enc,
        "W_dec": folded.W_dec,
        "b_dec": folded.b_dec,
    }
    settings: dict[str, Any] = {}
    kind = crosscoder.config.sparsity
    match kind:
        case BatchTopKConfig():
            assert isinstance(folded.sparsity, BatchTopKSparsity)
            if folded.sparsity.threshold.isnan():
                raise FormatError(
                    "sparsity.threshold: never calibrated; finish the training before exporting"
                )
            architecture = "jumprelu"
            # A latent of zero norm contributes nothing; its infinite threshold keeps it off.
            weights["threshold"] = folded.sparsity.threshold / norms
        case JumpReLU():
            assert isinstance(folded.sparsity, JumpReLUSparsity)
            architecture = "jumprelu"
            weights["threshold"] = folded.sparsity.log_threshold.exp()
        case ReLU():
            architecture = "standard"
        case TopK():
            architecture = "topk"
            settings = {"k": kind.k, "rescale_acts_by_decoder_norm": False}
            weights |= {
                "W_enc": folded.W_enc * norms,
                "b_enc": folded.b_enc * norms,
                "W_dec": folded.W_dec / norms[:, None].clamp_min(torch.finfo(torch.float32).tiny),
            }
        case _:
            assert_never(kind)
    _write(folder, architecture, weights, crosscoder, settings, metadata or {})


def _write(
    folder: Path,
    architecture: str,
    weights: dict[str, Tensor],
    crosscoder: Crosscoder,
    settings: dict[str, Any],
    metadata: dict[str, Any],
) -> None:
    with atomic_file(folder / "sae_weights.safetensors") as partial:
        save_file(
            {name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}, partial
        )
    record = {
        "architecture": architecture,
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
            **metadata,
        },
    }
    write_atomic(folder / "cfg.json", json.dumps(record, indent=2) + "\n")
