"""Ground-truth dictionaries, constructed instead of trained."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..config import BatchTopK, CrosscoderConfig, ReLU
from ..dictionary.crosscoder import Crosscoder


def exact_dictionary(
    config: CrosscoderConfig,
    decoder: Float[Tensor, "feature width"],
    sample: Float[Tensor, "token width"],
    threshold: float = 0.19,
) -> Crosscoder:
    """Return a crosscoder whose first latents write the rows of `decoder` (raw units) and read by its pseudoinverse.

    Exact if the rows are linearly independent; the remaining latents never fire.
    """
    crosscoder = Crosscoder(config)
    crosscoder.set_normalization(sample)
    scale = crosscoder.scale.repeat_interleave(torch.tensor(config.d_models))
    with torch.no_grad():
        crosscoder.W_dec.zero_()
        crosscoder.W_enc.zero_()
        crosscoder.b_enc.fill_(-1.0)
        rows = decoder * scale
        crosscoder.W_dec[: len(decoder)] = rows
        crosscoder.W_enc[:, : len(decoder)] = torch.linalg.pinv(rows)
        # Normalization subtracts the mean; b_dec and b_enc undo that, so that a latent equals the feature's magnitude.
        crosscoder.b_dec.copy_(-crosscoder.mean * scale)
        crosscoder.b_enc[: len(decoder)] = (crosscoder.mean * scale) @ crosscoder.W_enc[:, : len(decoder)]
        if isinstance(config.sparsity, BatchTopK):
            # Scores are latent times norm; the smallest magnitude is 0.2.
            crosscoder.sparsity.get_buffer("threshold").fill_(
                threshold * float(crosscoder.score_norms()[: len(decoder)].min())
            )
        elif isinstance(config.sparsity, ReLU):
            crosscoder.b_enc[: len(decoder)] -= threshold
    return crosscoder.eval()
