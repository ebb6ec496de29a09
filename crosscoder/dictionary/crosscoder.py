"""The dictionary: a crosscoder over any number of models.

Activations x^m of model m are normalized to x'^m = (x^m - mean^m) · scale^m and concatenated into one row x':

    pre-latents  = x' W_enc + b_enc
    f            = sparsity(pre-latents)                 one code, shared by all models
    x̂'           = f W_dec + b_dec                        d_j^m is model m's part of row j of W_dec
    x̂^m          = x̂'^m / scale^m + mean^m

(Lindsey et al. 2024, "Sparse crosscoders".) With one model this is an ordinary sparse autoencoder. The normalization
is stored with the weights; `fold` folds it into them.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..activations.batch import join_models, split_models
from ..config import CrosscoderConfig
from ..errors import DataError
from . import normalization
from .latent_ranks import ALONE, LatentRanks
from .sparse_latents import SparseLatents
from .sparsity import BatchTopKSparsity, build_sparsity, threshold_for
from .topk_selection import (
    SAMPLED_TOKENS,
    SURPLUS,
    PreLatents,
    estimate_score_bound,
    pre_latent_bounds,
)


class Crosscoder(nn.Module):
    """One sparse code that encodes and reconstructs the activations of all models jointly.

    `encode` and `decode` take and return raw activations; the `normalized` methods are for training and analysis.
    """

    mean: Tensor
    scale: Tensor
    score_scale: Tensor
    score_weight: Tensor

    def __init__(
        self,
        config: CrosscoderConfig,
        *,
        decoder_norm: float = 1.0,
        seed: int = 0,
        ranks: LatentRanks = ALONE,
    ) -> None:
        """`ranks`: those that the latents are divided over. The axis `latent` of weights and codes is then that of the latents of this
        process, `latents`, while `config` describes the whole."""
        super().__init__()
        self.config, self.ranks, self.latents = config, ranks, ranks.range_of(config.n_latents)
        directions = initial_directions(config, seed, self.latents) * decoder_norm
        self.W_dec = nn.Parameter(directions)
        # In both matrices the weights of a latent are contiguous in memory, so a few latents can be read, and their
        # gradients written, without touching the rest.
        self.W_enc = nn.Parameter(directions.clone().T)
        self.b_enc = nn.Parameter(torch.zeros(len(self.latents)))
        self.b_dec = nn.Parameter(torch.zeros(config.width))
        self.register_buffer("mean", torch.zeros(config.width))
        self.register_buffer("scale", torch.ones(len(config.d_models)))
        # Scores use decoder norms in training space. After folding, rows are in raw space and this converts back.
        self.register_buffer("score_scale", torch.ones(len(config.d_models)))
        if config.scores == "stored":
            self.register_buffer("score_weight", torch.ones(len(self.latents)))
        self.sparsity = build_sparsity(config.sparsity, len(self.latents), ranks)
        self.constrain(self.W_dec.data, self.W_enc.data)

    # --- raw activations ----------------------------------------------------------------------------------------------

    def encode(self, activations: Tensor | Sequence[Tensor]) -> Float[Tensor, "token latent"]:
        """Return the code of each token under the inference rule.

        `activations` is `[token, model, d_model]`, one `[token, d_model]` per model if widths differ, or all models
        concatenated as `[token, width]`.
        """
        values = self._check(join_models(activations)).to(self.W_enc.dtype)
        return self.sparsity.infer(self.pre_latents(self.normalize(values)), self.score_norms())

    def encode_sparse(self, activations: Tensor | Sequence[Tensor]) -> SparseLatents:
        """Return the nonzero entries of `encode` without materializing the dense code. Not differentiable."""
        values = self._check(join_models(activations)).to(self.W_enc.dtype)
        with torch.no_grad():
            pre_latents = PreLatents(self.W_enc, self.b_enc, self.normalize(values))
            return self.sparsity.infer_firings(pre_latents, self.score_norms())

    def decode(self, latents: Float[Tensor, "token latent"] | SparseLatents) -> Tensor | tuple[Tensor, ...]:
        """Reconstruct activations: `[token, model, d_model]`, or a tuple of `[token, d_model]` if widths differ."""
        rebuilt = self.denormalize(self.rebuild(latents))
        if len(set(self.config.d_models)) == 1:
            return rebuilt.unflatten(1, (len(self.config.d_models), self.config.d_models[0]))
        return split_models(rebuilt, self.config.d_models)

    def forward(self, activations: Tensor | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Encode, then decode."""
        return self.decode(self.encode(activations))

    @torch.no_grad()
    def reconstruct(
        self, values: Float[Tensor, "token width"]
    ) -> tuple[SparseLatents, Float[Tensor, "token width"]]:
        """Return the latents of raw activations (those of this process) and the raw reconstruction by all of them."""
        sparse_latents = self.encode_sparse(values)
        return sparse_latents, self.denormalize(self.rebuild(sparse_latents))

    # --- normalized activations ---------------------------------------------------------------------------------------

    def pre_latents(self, normalized: Float[Tensor, "token width"]) -> Float[Tensor, "token latent"]:
        """Return the encoder output before the sparsity: x' W_enc + b_enc."""
        return normalized @ self.W_enc + self.b_enc

    def rebuild(self, latents: Float[Tensor, "token latent"] | SparseLatents) -> Float[Tensor, "token width"]:
        """Reconstruct normalized activations: f W_dec + b_dec."""
        if isinstance(latents, SparseLatents):
            return self.ranks.total(latents.weighted_sum(self.W_dec)) + self.b_dec
        return self.ranks.total(latents @ self.W_dec) + self.b_dec

    def normalize(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        """Convert raw to normalized activations."""
        return normalization.normalize(values, self.mean, self._per_dimension(self.scale))

    def denormalize(self, normalized: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        """Convert normalized to raw activations."""
        return normalization.denormalize(normalized, self.mean, self._per_dimension(self.scale))

    @torch.no_grad()
    def set_normalization(self, sample: Float[Tensor, "token width"]) -> None:
        """Fit mean and scale to a sample of raw activations (`normalization.fit`).

        Raises:
            DataError: A model's activations are constant.
        """
        mean, scale = normalization.fit(self._check(sample), self.config.d_models, self.config.model_names)
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    @torch.no_grad()
    def calibrate(self, sample: Float[Tensor, "token width"], chunk: int = 4096) -> None:
        """Set the inference threshold of BatchTopK so that k latents per token of `sample` fire on average.

        Does nothing for other kinds, which need no calibration.

        Raises:
            DataError: `sample` is empty.
        """
        if not isinstance(self.sparsity, BatchTopKSparsity):
            return
        if len(sample) == 0:
            raise DataError(
                "activations: no tokens to calibrate the BatchTopK threshold on; give some training activations"
            )
        keep = round(self.sparsity.k * len(sample))
        scores = self._largest_scores(self._check(sample), keep + 1, chunk)
        self.sparsity.threshold.fill_(threshold_for(scores, keep, self.ranks))

    def _largest_scores(
        self, sample: Float[Tensor, "token width"], count: int, chunk: int
    ) -> Float[Tensor, " score"]:
        """Return at least the `count` largest scores over all tokens, padded with zeros (all scores if there are fewer); over several ranks,
        each returns those of its latents."""
        norms = self.score_norms()
        count = min(count, self.ranks.count(len(sample) * len(norms)))

        def pre_latents(rows: Float[Tensor, "row width"]) -> PreLatents:
            return PreLatents(self.W_enc, self.b_enc, self.normalize(rows.to(self.W_enc.dtype)))

        def scores(rows: Float[Tensor, "row width"], bound: float) -> Float[Tensor, " score"]:
            entries = pre_latents(rows).above(pre_latent_bounds(bound, norms))
            found = entries.value * norms[entries.latent]
            return found[found > bound]

        # The bound only limits the search, not the result: if it leaves too few scores, retry with a lower one.
        sampled = pre_latents(sample[:: max(1, len(sample) // SAMPLED_TOKENS)][:SAMPLED_TOKENS])
        surplus = SURPLUS
        while True:
            bound = estimate_score_bound(sampled, norms, surplus * count / len(sample), self.ranks)
            found = torch.cat([scores(rows, bound) for rows in sample.split(chunk)])
            n_found = self.ranks.count(len(found))
            if n_found >= count or bound == 0:
                return nn.functional.pad(found, (0, max(0, count - n_found) if self.ranks.leads else 0))
            surplus *= 2

    # --- geometry -----------------------------------------------------------------------------------------------------

    def decoder_norms(self) -> Float[Tensor, "latent model"]:
        """Return ‖d_j^m‖ of the stored rows, in training space, or in raw space after `fold`."""
        return torch.stack(
            [part.norm(dim=1) for part in split_models(self.W_dec, self.config.d_models)], dim=1
        )

    def score_norms(self) -> Float[Tensor, " latent"]:
        """Return what weights a latent's activation where latents compete: the sum over models of its decoder norms in training
        space, or the stored weights of a dictionary that was trained with others."""
        if self.config.scores == "stored":
            return self.score_weight
        return (self.decoder_norms() * self.score_scale).sum(dim=1)

    def raw_decoder(self) -> tuple[Float[Tensor, "latent d_model"], ...]:
        """Return decoder rows in raw activation units, one tensor per model."""
        return split_models(self.W_dec / self._per_dimension(self.scale), self.config.d_models)

    @torch.no_grad()
    def fold(self) -> Self:
        """Return an equivalent dictionary whose weights read and write raw activations, without normalization.

        Latents and outputs are unchanged: thresholds act on pre-latents, which folding preserves, and scores keep
        using training-space norms through `score_scale`.
        """
        folded = deepcopy(self)
        scale = self._per_dimension(self.scale)
        folded.W_enc.copy_(self.W_enc * scale[:, None])
        folded.b_enc.copy_(self.b_enc - (self.mean * scale) @ self.W_enc)
        folded.W_dec.copy_(self.W_dec / scale)
        folded.b_dec.copy_(self.b_dec / scale + self.mean)
        folded.score_scale.copy_(self.score_scale * self.scale)
        folded.scale.fill_(1)
        folded.mean.zero_()
        return folded

    # --- constraints --------------------------------------------------------------------------------------------------

    def constrain(
        self, decoder: Float[Tensor, "latent width"], encoder: Float[Tensor, "width latent"]
    ) -> None:
        """Project weights or their gradients, in place, onto the constraints of exclusive and tied latents.

        The first `n_exclusive` latents read and write only the first model, the next only the second, and so on.
        After them come `n_tied` latents with one direction for all models. An elementwise optimizer keeps the
        constraints exactly: tied weights receive equal gradients, and excluded weights receive none.
        """
        config = self.config
        n_exclusive, n_tied = config.n_exclusive, config.n_tied

        def held(first: int, count: int) -> slice:
            """Places of those of `count` latents from `first` that this process holds."""
            ends = (
                min(max(end - self.latents.start, 0), len(self.latents)) for end in (first, first + count)
            )
            return slice(*ends)

        columns = torch.arange(config.width, device=decoder.device).split(list(config.d_models))
        for model, model_columns in enumerate(columns):
            exclusive = held(model * n_exclusive, n_exclusive)
            for other in columns:
                if n_exclusive and other is not model_columns:
                    decoder[exclusive, int(other[0]) : int(other[-1]) + 1] = 0
                    encoder[int(other[0]) : int(other[-1]) + 1, exclusive] = 0
        if n_tied:
            rows = decoder[held(len(columns) * n_exclusive, n_tied)].unflatten(
                1, (len(columns), config.d_models[0])
            )
            rows.copy_(rows.mean(dim=1, keepdim=True).expand_as(rows))

    def constrain_gradients(self) -> None:
        """Apply `constrain` to the gradients of a backward pass, before the optimizer step."""
        if self.config.n_exclusive or self.config.n_tied:
            assert self.W_dec.grad is not None
            assert self.W_enc.grad is not None
            self.constrain(self.W_dec.grad, self.W_enc.grad)

    # ------------------------------------------------------------------------------------------------------------------

    def _per_dimension(self, per_model: Float[Tensor, " model"]) -> Float[Tensor, " width"]:
        lengths = torch.tensor(self.config.d_models, device=per_model.device)
        return per_model.repeat_interleave(lengths)

    def _check(self, values: Tensor) -> Tensor:
        if values.ndim != 2 or values.shape[1] != self.config.width:
            widths = " + ".join(map(str, self.config.d_models))
            raise DataError(
                f"activations: shape {tuple(values.shape)} does not fit a dictionary of models {self.config.model_names} "
                f"with widths {widths}; give [token, model, d_model] or one [token, d_model] per model"
            )
        return values


# Latents whose initial directions are drawn at once; a multiple of 16, in which torch draws normal numbers.
_DRAWN_AT_ONCE = 4096


def initial_directions(
    config: CrosscoderConfig, seed: int, latents: range | None = None
) -> Float[Tensor, "latent width"]:
    """Return random unit directions, shared by all models if their widths are equal, so that they start aligned.

    Args:
        latents: Those to return, all by default. They are drawn as parts of the whole, which is never held.
    """
    generator = torch.Generator().manual_seed(seed)
    latents = range(config.n_latents) if latents is None else latents

    def unit(d_model: int) -> Tensor:
        parts = []
        # The last draw takes the rest, because a draw of fewer than 16 numbers would differ from the end of a longer one.
        starts = range(0, max(1, config.n_latents - _DRAWN_AT_ONCE + 1), _DRAWN_AT_ONCE)
        for start in starts:
            stop = config.n_latents if start == starts[-1] else start + _DRAWN_AT_ONCE
            drawn = torch.randn(stop - start, d_model, generator=generator)
            held = drawn[max(latents.start - start, 0) : max(latents.stop - start, 0)]
            parts.append(nn.functional.normalize(held, dim=1))
        return torch.cat(parts)

    if len(set(config.d_models)) == 1:
        return unit(config.d_models[0]).repeat(1, len(config.d_models))
    return torch.cat([unit(d_model) for d_model in config.d_models], dim=1)
