"""Evaluation of a dictionary on held-out tokens: variance explained, L0, dead share, decoder histograms."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crosscoder.activations.batch import have_difference, split_models
from crosscoder.config.model_names import MODEL_NAMES
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.latent_ranks import ALONE, LatentRanks
from crosscoder.dictionary.metrics import ReconstructionMeter, decoder_cosine, relative_norm
from crosscoder.dictionary.views import View, view_rows

from .sources import TrainingTokens

EVALUATION_TOKENS = 8192
"""Held-out tokens that each evaluation during training reads; analysis reads all of them."""


class HeldOutMeter:
    """Evaluates a dictionary on the same held-out tokens throughout training.

    The inference threshold, one number, is calibrated on held-out tokens too, but on other ones than are evaluated. Training
    tokens would bias it: fewer latents fire on them than on fresh tokens.
    """

    def __init__(
        self, source: TrainingTokens, reads: View, calibration_tokens: int, ranks: LatentRanks = ALONE
    ) -> None:
        """`ranks`: those that measure together, on the tokens that rank 0 reads."""
        self.d_models = source.d_models
        self.reads: View = reads
        reader = source.held_out()
        # Evenly spaced, so that every text source has its share. Odd rows are for evaluation, even rows for calibration.
        self.values, self.calibration = (
            ranks.from_rank(0, reader.gather(_spaced(first, reader.n_tokens, count)).values)
            for first, count in ((1, EVALUATION_TOKENS), (0, calibration_tokens))
        )

    def calibrate(self, crosscoder: Crosscoder, n_tokens: int | None = None) -> None:
        """Set the inference threshold on all calibration tokens, or on about `n_tokens` of them."""
        every = 1 if n_tokens is None else max(1, len(self.calibration) // n_tokens)
        sample = self.calibration[::every].to(crosscoder.W_enc.device)
        crosscoder.calibrate(view_rows(sample, self.d_models, self.reads).float())

    @torch.no_grad()
    def measure(self, crosscoder: Crosscoder) -> dict[str, float | None]:
        """FVE per model and of the difference, L0 and dead share under the inference rule."""
        crosscoder.ranks.join("measure")
        device = crosscoder.W_enc.device
        meter = measure_reconstruction(crosscoder, self.values.to(device), self.d_models, self.reads)
        named = zip(meter.names, meter.per_model, strict=True)
        values: dict[str, float | None] = {
            f"metrics/explained_variance/{name}": variance.result() for name, variance in named
        }
        if meter.difference is not None:
            values["diff/explained_variance"] = meter.difference.result()
        values |= {"metrics/held_out_l0": meter.l0(), "sparsity/held_out_dead_share": meter.dead_share()}
        return values


def _spaced(first: int, n_rows: int, count: int) -> Int[Tensor, " row"]:
    """Return at most `count` of the rows first, first + 2, first + 4, …, evenly spaced; the only row if there is one."""
    first = min(first, n_rows - 1)
    available = (n_rows - first + 1) // 2
    count = min(count, available)
    return first + 2 * (torch.arange(count) * available // count)


class NamedMeter(ReconstructionMeter):
    """A `ReconstructionMeter` with the names of its models."""

    names: tuple[str, ...] = ()


@torch.no_grad()
def measure_reconstruction(
    crosscoder: Crosscoder,
    values: Float[Tensor, "token width"],
    d_models: tuple[int, ...],
    reads: View,
    chunk: int = 2048,
) -> NamedMeter:
    """Measure how a dictionary of any view reconstructs raw activations of the pair."""
    if reads == "difference":
        meter = NamedMeter(d_models[:1], len(crosscoder.latents))
        meter.names = ("difference",)
    else:
        meter = NamedMeter(d_models, len(crosscoder.latents))
        meter.names = MODEL_NAMES if len(d_models) == 2 else crosscoder.config.model_names
    for part in values.split(chunk):
        part = part.float()
        rows = view_rows(part, d_models, reads)
        sparse_latents, reconstructed = crosscoder.reconstruct(rows)
        if reads == "pooled":
            meter.update(part, torch.cat(reconstructed.split(len(part)), dim=1), sparse_latents)
        else:
            meter.update(rows, reconstructed, sparse_latents)
    if reads == "difference":
        meter.difference = meter.per_model[0]
    meter.fired = crosscoder.ranks.gathered(meter.fired)
    return meter


@torch.no_grad()
def decoder_histograms(crosscoder: Crosscoder, bins: int = 64) -> dict[str, Any]:
    """Histograms `(counts, edges)` of each model's decoder norms, and of relative norm and decoder cosine between reference and
    intervened model."""
    ranks = crosscoder.ranks
    norms = ranks.gathered(crosscoder.decoder_norms().cpu())
    histograms: dict[str, Any] = {
        f"weights/decoder_norm/{name}": _histogram(norms[:, index].numpy(), bins)
        for index, name in enumerate(crosscoder.config.model_names)
    }
    if norms.shape[1] >= 2:
        relative = relative_norm(norms[:, 0], norms[:, 1]).nan_to_num(0.5).numpy()
        histograms["diff/relative_norm"] = np.histogram(relative, bins=bins, range=(0.0, 1.0))
        if have_difference(crosscoder.config.d_models):
            reference, intervened = split_models(crosscoder.W_dec.cpu(), crosscoder.config.d_models)[:2]
            cosine = ranks.gathered(decoder_cosine(reference, intervened)).nan_to_num(0.0).numpy()
            histograms["diff/decoder_cosine"] = np.histogram(cosine, bins=bins, range=(-1.0, 1.0))
    return histograms


def _histogram(values: Float[np.ndarray, " latent"], bins: int) -> Any:
    """Histogram over the range of the values, or over a thousandth of their size where they are equal up to rounding."""
    low, high = float(values.min()), float(values.max())
    return np.histogram(values, bins=bins, range=(low, max(high, low + 1e-3 * max(abs(low), 1e-30))))
