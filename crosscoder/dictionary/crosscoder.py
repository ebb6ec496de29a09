"""The dictionary: a crosscoder over any number of models.

With activations x^m of model m, normalized to x'^m = (x^m - mean^m) · scale^m, and side by side in one row x':

    pre-latents  = x' W_enc + b_enc
    f            = sparsity(pre-latents)                 one code, shared by all models
    x̂'           = f W_dec + b_dec                        d_j^m is the part of row j of W_dec that belongs to model m
    x̂^m          = x̂'^m / scale^m + mean^m

(Lindsey et al. 2024, "Sparse crosscoders".) With one model this is an ordinary sparse autoencoder. Normalization is
stored with the weights; `fold` moves it into them.
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
from .sparse_latents import SparseLatents
from .sparsity import BatchTopKSparsity, build_sparsity, threshold_for
from .topk_selection import SAMPLED_TOKENS, SURPLUS, PreLatents, bounds_of, exceeded_on_average


class Crosscoder(nn.Module):
    """One sparse code that reads and rebuilds the activations of all models at once.

    `encode` and `decode` take and return raw activations; the `normalized` methods are what training and analysis use.
    """

    mean: Tensor
    scale: Tensor
    score_scale: Tensor

    def __init__(self, config: CrosscoderConfig, *, decoder_norm: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        directions = fresh_directions(config, seed) * decoder_norm
        self.W_dec = nn.Parameter(directions)
        # A latent's weights lie side by side in memory in both, so that a few latents can be read, and their gradients
        # written, alone.
        self.W_enc = nn.Parameter(directions.clone().T)
        self.b_enc = nn.Parameter(torch.zeros(config.n_latents))
        self.b_dec = nn.Parameter(torch.zeros(config.width))
        self.register_buffer("mean", torch.zeros(config.width))
        self.register_buffer("scale", torch.ones(len(config.d_models)))
        # Scores are sums of decoder norms in training space; after folding, the rows are in raw space and this leads back.
        self.register_buffer("score_scale", torch.ones(len(config.d_models)))
        self.sparsity = build_sparsity(config.sparsity, config.n_latents)
        self.constrain(self.W_dec.data, self.W_enc.data)

    # --- raw activations ----------------------------------------------------------------------------------------------

    def encode(self, activations: Tensor | Sequence[Tensor]) -> Float[Tensor, "token latent"]:
        """The code of each token under the inference rule.

        `activations` is `[token, model, d_model]`, or one `[token, d_model]` for each model where widths differ, or all
        models side by side `[token, width]`.
        """
        values = self._check(join_models(activations)).to(self.W_enc.dtype)
        return self.sparsity.infer(self.pre_latents(self.normalize(values)), self.score_norms())

    def encode_sparse(self, activations: Tensor | Sequence[Tensor]) -> SparseLatents:
        """What `encode` gives, without the zeros: the code is never held, and nothing can be trained through it."""
        values = self._check(join_models(activations)).to(self.W_enc.dtype)
        with torch.no_grad():
            pre_latents = PreLatents(self.W_enc, self.b_enc, self.normalize(values))
            return self.sparsity.infer_firings(pre_latents, self.score_norms())

    def decode(self, latents: Float[Tensor, "token latent"] | SparseLatents) -> Tensor | tuple[Tensor, ...]:
        """Activations rebuilt from the code: `[token, model, d_model]`, or a tuple of `[token, d_model]` where widths differ."""
        rebuilt = self.denormalize(self.rebuild(latents))
        if len(set(self.config.d_models)) == 1:
            return rebuilt.unflatten(1, (len(self.config.d_models), self.config.d_models[0]))
        return split_models(rebuilt, self.config.d_models)

    def forward(self, activations: Tensor | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Encode, then decode."""
        return self.decode(self.encode(activations))

    # --- normalized activations ---------------------------------------------------------------------------------------

    def pre_latents(self, normalized: Float[Tensor, "token width"]) -> Float[Tensor, "token latent"]:
        """Before the sparsity: x' W_enc + b_enc."""
        return normalized @ self.W_enc + self.b_enc

    def rebuild(self, latents: Float[Tensor, "token latent"] | SparseLatents) -> Float[Tensor, "token width"]:
        """Normalized activations from the code: f W_dec + b_dec."""
        if isinstance(latents, SparseLatents):
            return latents.weighted_sum(self.W_dec) + self.b_dec
        return latents @ self.W_dec + self.b_dec

    def normalize(self, values: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        """Raw to normalized activations."""
        return (values - self.mean) * self._widen(self.scale)

    def denormalize(self, normalized: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        """Normalized to raw activations."""
        return normalized / self._widen(self.scale) + self.mean

    @torch.no_grad()
    def set_normalization(self, sample: Float[Tensor, "token width"]) -> None:
        """Center each model on its mean and scale it by one number so that E‖x'‖² = d_model.

        Raises `DataError` where a model's activations do not vary.
        """
        sample = self._check(sample).double()
        self.mean.copy_(sample.mean(dim=0))
        for index, part in enumerate(split_models(sample - sample.mean(dim=0), self.config.d_models)):
            mean_square = part.square().sum(dim=1).mean()
            if mean_square == 0:
                name = self.config.model_names[index]
                raise DataError(
                    f"activations of {name!r}: all {len(part)} sampled tokens are equal; nothing to explain"
                )
            self.scale[index] = (part.shape[1] / mean_square).sqrt()

    @torch.no_grad()
    def calibrate(self, sample: Float[Tensor, "token width"], chunk: int = 4096) -> None:
        """Set the inference threshold of BatchTopK so that k latents fire on a token of `sample` on average.

        Other kinds need no calibration; for them this does nothing. Raises `DataError` where there are no tokens.
        """
        if not isinstance(self.sparsity, BatchTopKSparsity):
            return
        if len(sample) == 0:
            raise DataError(
                "activations: no tokens to set the threshold of BatchTopK on; give some training activations"
            )
        keep = round(self.sparsity.k * len(sample))
        self.sparsity.threshold.fill_(
            threshold_for(self._largest_scores(self._check(sample), keep + 1, chunk), keep)
        )

    def _largest_scores(
        self, sample: Float[Tensor, "token width"], count: int, chunk: int
    ) -> Float[Tensor, " score"]:
        """At least the `count` largest scores of all tokens, zeros among them (all, where there are fewer)."""
        norms = self.score_norms()
        count = min(count, len(sample) * len(norms))

        def pre_latents(rows: Float[Tensor, "row width"]) -> PreLatents:
            return PreLatents(self.W_enc, self.b_enc, self.normalize(rows.to(self.W_enc.dtype)))

        def scores(rows: Float[Tensor, "row width"], bound: float) -> Float[Tensor, " score"]:
            entries = pre_latents(rows).above(bounds_of(bound, norms))
            found = entries.value * norms[entries.latent]
            return found[found > bound]

        # A bound decides what is looked at, never what is found: where it leaves too few, the next is lower.
        some = pre_latents(sample[:: max(1, len(sample) // SAMPLED_TOKENS)][:SAMPLED_TOKENS])
        surplus = SURPLUS
        while True:
            bound = exceeded_on_average(some, norms, surplus * count / len(sample))
            found = torch.cat([scores(rows, bound) for rows in sample.split(chunk)])
            if len(found) >= count or bound == 0:
                return nn.functional.pad(found, (0, max(0, count - len(found))))
            surplus *= 2

    # --- geometry -----------------------------------------------------------------------------------------------------

    def decoder_norms(self) -> Float[Tensor, "latent model"]:
        """‖d_j^m‖ of the stored rows: training space, or raw space after `fold`."""
        return torch.stack(
            [part.norm(dim=1) for part in split_models(self.W_dec, self.config.d_models)], dim=1
        )

    def score_norms(self) -> Float[Tensor, " latent"]:
        """Sum over models of the decoder norm in training space: the weight of a latent in the competition."""
        return (self.decoder_norms() * self.score_scale).sum(dim=1)

    def raw_decoder(self) -> tuple[Float[Tensor, "latent d_model"], ...]:
        """Decoder rows in raw activation units, one tensor for each model."""
        return split_models(self.W_dec / self._widen(self.scale), self.config.d_models)

    @torch.no_grad()
    def fold(self) -> Self:
        """An equal dictionary whose weights read and write raw activations, with no normalization left.

        Latents and outputs are unchanged: thresholds act on pre-latents, which folding preserves, and scores keep the
        norms of training space through `score_scale`.
        """
        folded = deepcopy(self)
        scale = self._widen(self.scale)
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
        """Bring weights or their gradients, in place, into the form that exclusive and tied latents have.

        The first `n_exclusive` latents belong to the first model and see and write nothing else, the next to the second
        model, and so on; then come `n_tied` latents with one direction for all models. An optimizer that treats every
        weight alike keeps the form exactly: it is given equal gradients for equal weights and none for the others.
        """
        config = self.config
        n_exclusive, n_tied = config.n_exclusive, config.n_tied
        columns = torch.arange(config.width, device=decoder.device).split(list(config.d_models))
        for model, own in enumerate(columns):
            first = model * n_exclusive
            for other in columns:
                if n_exclusive and other is not own:
                    decoder[first : first + n_exclusive, int(other[0]) : int(other[-1]) + 1] = 0
                    encoder[int(other[0]) : int(other[-1]) + 1, first : first + n_exclusive] = 0
        if n_tied:
            first = len(columns) * n_exclusive
            rows = decoder[first : first + n_tied].unflatten(1, (len(columns), config.d_models[0]))
            rows.copy_(rows.mean(dim=1, keepdim=True).expand_as(rows))

    def constrain_gradients(self) -> None:
        """`constrain` the gradients of a backward pass, before an optimizer sees them."""
        if self.config.n_exclusive or self.config.n_tied:
            assert self.W_dec.grad is not None
            assert self.W_enc.grad is not None
            self.constrain(self.W_dec.grad, self.W_enc.grad)

    # ------------------------------------------------------------------------------------------------------------------

    def _widen(self, per_model: Float[Tensor, " model"]) -> Float[Tensor, " width"]:
        lengths = torch.tensor(self.config.d_models, device=per_model.device)
        return per_model.repeat_interleave(lengths)

    def _check(self, values: Tensor) -> Tensor:
        if values.ndim != 2 or values.shape[1] != self.config.width:
            widths = " + ".join(map(str, self.config.d_models))
            raise DataError(
                f"activations: shape {tuple(values.shape)} does not fit a dictionary of models {self.config.model_names} "
                f"with widths {widths}; give [token, model, d_model] or one [token, d_model] for each model"
            )
        return values


def fresh_directions(config: CrosscoderConfig, seed: int) -> Float[Tensor, "latent width"]:
    """Random unit directions; the same in all models where their widths are equal, so that they start aligned."""
    generator = torch.Generator().manual_seed(seed)

    def unit(d_model: int) -> Tensor:
        return nn.functional.normalize(torch.randn(config.n_latents, d_model, generator=generator), dim=1)

    if len(set(config.d_models)) == 1:
        return unit(config.d_models[0]).repeat(1, len(config.d_models))
    return torch.cat([unit(d_model) for d_model in config.d_models], dim=1)
