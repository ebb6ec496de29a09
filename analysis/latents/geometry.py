"""Norms and directions of a dictionary's decoder, and each latent's nearest counterpart in the other model."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from crosscoder.activations.batch import split_models
from crosscoder.activations.linear_map import LinearMap
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.dictionary.metrics import decoder_cosine, relative_norm

# A twin's smallest norm in the model in which it is the twin, as a share of its norm in the other model.
_MIN_TWIN_RATIO = 0.5

# Norm ratio at or below which the direction of the weaker row is meaningless.
NEGLIGIBLE_NORM = 1e-3


@dataclass(frozen=True)
class Geometry:
    """Decoder geometry of a crosscoder between its first two models, in training space, where labels are decided."""

    reference: Float[Tensor, "latent _"]
    """Decoder rows in training space."""
    intervened: Float[Tensor, "latent _"]
    rows_in_other_space: tuple[Float[Tensor, "latent _"], Float[Tensor, "latent _"]] | None
    """Rows of the intervened model in the reference's space, and the reverse; None if the models cannot be compared."""
    norm_reference: Float[Tensor, " latent"]
    norm_intervened: Float[Tensor, " latent"]
    norm_reference_raw: Float[Tensor, " latent"]
    norm_intervened_raw: Float[Tensor, " latent"]

    @classmethod
    def of(cls, crosscoder: Crosscoder, linear_map: LinearMap | None = None) -> "Geometry":
        """Return the geometry of a dictionary with two or more models; after folding, `score_scale` restores training space.

        In training space, E‖x'‖² is the width of the model. If widths differ, rows are rescaled so that it is the mean of the widths for
        both models. A latent of equal weight in both then has equal norms.
        """
        widths = torch.tensor(crosscoder.config.d_models[:2], dtype=torch.float64)
        scale = crosscoder.score_scale.cpu()[:2] * (widths.mean() / widths).sqrt()
        rows = split_models(crosscoder.W_dec.detach().cpu().double(), crosscoder.config.d_models)
        reference, intervened = [part * factor for part, factor in zip(rows[:2], scale, strict=True)]
        raw = [part.detach().cpu().double() for part in crosscoder.raw_decoder()[:2]]
        in_other_space = None
        if linear_map is not None:
            in_other_space = raw[1] @ linear_map.maps[0].double(), raw[0] @ linear_map.maps[1].double()
        elif reference.shape == intervened.shape:
            in_other_space = intervened, reference
        norms = [rows.norm(dim=1) for rows in (reference, intervened, *raw)]
        return cls(reference, intervened, in_other_space, *norms)

    @property
    def relative_norm(self) -> Float[Tensor, " latent"]:
        """Relative norm in training space."""
        return relative_norm(self.norm_reference, self.norm_intervened)

    @property
    def relative_norm_raw(self) -> Float[Tensor, " latent"]:
        """Relative norm in raw units."""
        return relative_norm(self.norm_reference_raw, self.norm_intervened_raw)

    def cosine(self) -> Float[Tensor, " latent"]:
        """Return the cosine between a latent's two decoder rows; NaN if one is zero or the models cannot be compared.

        With a linear map: the mean of the cosines in the two spaces.
        """
        if self.rows_in_other_space is None:
            return torch.full_like(self.norm_reference, torch.nan)
        of_intervened, of_reference = self.rows_in_other_space
        return (
            decoder_cosine(self.reference, of_intervened) + decoder_cosine(self.intervened, of_reference)
        ) / 2

    def agreement(self, min_ratio: float = 0.5) -> float:
        """Return the median cosine over latents whose weaker norm is at least `min_ratio` of the stronger; NaN without any.

        With a linear map it measures how accurately the map takes directions from one model to the other.
        """
        weaker = torch.minimum(self.norm_reference, self.norm_intervened)
        both = weaker >= min_ratio * torch.maximum(self.norm_reference, self.norm_intervened)
        cosines = self.cosine()[both & (weaker > 0)]
        return float(cosines.median()) if len(cosines) else float("nan")

    def twins(
        self, alive: Bool[Tensor, " latent"], chunk: int = 1024
    ) -> tuple[Int64[Tensor, " latent"], Float[Tensor, " latent"]]:
        """Return each latent's twin and their cosine; -1 and NaN if there is none.

        The twin writes the most similar direction into the model with the smaller norm: for a latent j with the larger norm in the intervened
        model, it has the largest cos(d_i^reference, d_j^intervened) over i ≠ j, and the reverse for the reference. Candidates are alive
        and write into that model at least half as strongly as into the other.
        """
        n_latents = len(self.norm_reference)
        twin, cosine = torch.full((n_latents,), -1), torch.full((n_latents,), torch.nan, dtype=torch.float64)
        if self.rows_in_other_space is None:
            return twin, cosine
        of_intervened, of_reference = self.rows_in_other_space
        intervened_stronger = self.norm_intervened >= self.norm_reference
        sides = (
            (intervened_stronger, of_intervened, self.reference, self.norm_reference, self.norm_intervened),
            (~intervened_stronger, of_reference, self.intervened, self.norm_intervened, self.norm_reference),
        )
        for stronger, directions, others, norms, opposite in sides:
            unit = normalize(others, dim=1)
            excluded = ~(alive & (norms > 0) & (norms >= _MIN_TWIN_RATIO * opposite))
            for rows in (stronger & alive).nonzero().flatten().split(chunk):
                similarity = normalize(directions[rows], dim=1) @ unit.T
                similarity[:, excluded] = -torch.inf
                similarity[torch.arange(len(rows)), rows] = -torch.inf
                best = similarity.max(dim=1)
                found = best.values.isfinite()
                twin[rows[found]], cosine[rows[found]] = best.indices[found], best.values[found]
        return twin, cosine

    def writes_along(
        self, latents: Int64[np.ndarray, " pair"], others: Int64[np.ndarray, " pair"], cosine: float
    ) -> Bool[np.ndarray, " pair"]:
        """Whether the other latent of each pair also writes the first one's direction into the model where the first has its larger norm."""
        one, other = torch.from_numpy(latents), torch.from_numpy(others)
        intervened_stronger = (self.norm_intervened >= self.norm_reference)[one]
        along = torch.where(
            intervened_stronger,
            decoder_cosine(self.intervened[one], self.intervened[other]),
            decoder_cosine(self.reference[one], self.reference[other]),
        )
        norm = torch.where(intervened_stronger, self.norm_intervened[other], self.norm_reference[other])
        opposite = torch.where(intervened_stronger, self.norm_reference[other], self.norm_intervened[other])
        return ((along >= cosine) & (norm >= _MIN_TWIN_RATIO * opposite)).numpy()
