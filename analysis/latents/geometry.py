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

# Of a latent's stronger row: a twin writes at least that much into the model in which it is a twin.
_WRITES = 0.5

# A row this much weaker than the other model's points nowhere in particular.
NEGLIGIBLE_NORM = 1e-3


@dataclass(frozen=True)
class Geometry:
    """Decoder geometry of a crosscoder between its first two models. The space a label is decided in is training space."""

    reference: Float[Tensor, "latent _"]
    """Decoder rows in training space."""
    intervened: Float[Tensor, "latent _"]
    carried: tuple[Float[Tensor, "latent _"], Float[Tensor, "latent _"]] | None
    """Rows of the intervened model as they are in the reference's space, and the reverse; None where they are in none."""
    norm_reference: Float[Tensor, " latent"]
    norm_intervened: Float[Tensor, " latent"]
    norm_reference_raw: Float[Tensor, " latent"]
    norm_intervened_raw: Float[Tensor, " latent"]

    @classmethod
    def of(cls, crosscoder: Crosscoder, linear_map: LinearMap | None = None) -> "Geometry":
        """Of a dictionary with two or more models on its axis; `score_scale` leads back to training space after folding.

        There E‖x'‖² is the width of a model. Where widths differ, rows are told in units in which it is the same for both models, the
        mean of the widths, so that a latent that is as much of the one as of the other has equal norms.
        """
        widths = torch.tensor(crosscoder.config.d_models[:2], dtype=torch.float64)
        scale = crosscoder.score_scale.cpu()[:2] * (widths.mean() / widths).sqrt()
        rows = split_models(crosscoder.W_dec.detach().cpu().double(), crosscoder.config.d_models)
        reference, intervened = [part * factor for part, factor in zip(rows[:2], scale, strict=True)]
        raw = [part.detach().cpu().double() for part in crosscoder.raw_decoder()[:2]]
        carried = None
        if linear_map is not None:
            carried = raw[1] @ linear_map.maps[0].double(), raw[0] @ linear_map.maps[1].double()
        elif reference.shape == intervened.shape:
            carried = intervened, reference
        norms = [rows.norm(dim=1) for rows in (reference, intervened, *raw)]
        return cls(reference, intervened, carried, *norms)

    @property
    def relative_norm(self) -> Float[Tensor, " latent"]:
        """In training space."""
        return relative_norm(self.norm_reference, self.norm_intervened)

    @property
    def relative_norm_raw(self) -> Float[Tensor, " latent"]:
        """In raw units."""
        return relative_norm(self.norm_reference_raw, self.norm_intervened_raw)

    def cosine(self) -> Float[Tensor, " latent"]:
        """Between a latent's two directions; NaN where one is zero or none is defined in the other's space.

        Where a map leads across: the mean of the cosines in the two spaces.
        """
        if self.carried is None:
            return torch.full_like(self.norm_reference, torch.nan)
        of_intervened, of_reference = self.carried
        return (
            decoder_cosine(self.reference, of_intervened) + decoder_cosine(self.intervened, of_reference)
        ) / 2

    def agreement(self, least_ratio: float = 0.5) -> float:
        """Median cosine between the two directions of latents whose weaker norm is at least `least_ratio` of the stronger; NaN without any.

        Where a map leads between the models it says how nearly the map takes directions to where they are.
        """
        weaker = torch.minimum(self.norm_reference, self.norm_intervened)
        both = weaker >= least_ratio * torch.maximum(self.norm_reference, self.norm_intervened)
        cosines = self.cosine()[both & (weaker > 0)]
        return float(cosines.median()) if len(cosines) else float("nan")

    def twins(
        self, alive: Bool[Tensor, " latent"], chunk: int = 1024
    ) -> tuple[Int64[Tensor, " latent"], Float[Tensor, " latent"]]:
        """For each latent the other latent that writes its direction most nearly in the other model, and the cosine.

        For a latent j leaning intervened the largest cos(d_i^reference, d_j^intervened) over i ≠ j, mirrored for one
        leaning reference. Candidates are alive, and write into that model at least half as strongly as into the other. -1 and NaN where
        there is none.
        """
        n_latents = len(self.norm_reference)
        twin, cosine = torch.full((n_latents,), -1), torch.full((n_latents,), torch.nan, dtype=torch.float64)
        if self.carried is None:
            return twin, cosine
        of_intervened, of_reference = self.carried
        leans = self.norm_intervened >= self.norm_reference
        sides = (
            (leans, of_intervened, self.reference, self.norm_reference, self.norm_intervened),
            (~leans, of_reference, self.intervened, self.norm_intervened, self.norm_reference),
        )
        for own, directions, others, norms, opposite in sides:
            found = normalize(others, dim=1)
            excluded = ~(alive & (norms > 0) & (norms >= _WRITES * opposite))
            for rows in (own & alive).nonzero().flatten().split(chunk):
                similarity = normalize(directions[rows], dim=1) @ found.T
                similarity[:, excluded] = -torch.inf
                similarity[torch.arange(len(rows)), rows] = -torch.inf
                best = similarity.max(dim=1)
                there = best.values.isfinite()
                twin[rows[there]], cosine[rows[there]] = best.indices[there], best.values[there]
        return twin, cosine

    def writes_along(
        self, latents: Int64[np.ndarray, " pair"], others: Int64[np.ndarray, " pair"], cosine: float
    ) -> Bool[np.ndarray, " pair"]:
        """Whether the other latent of each pair writes along the first one's direction in the model that the first leans to, too."""
        one, other = torch.from_numpy(latents), torch.from_numpy(others)
        leans = (self.norm_intervened >= self.norm_reference)[one]
        along = torch.where(
            leans,
            decoder_cosine(self.intervened[one], self.intervened[other]),
            decoder_cosine(self.reference[one], self.reference[other]),
        )
        own = torch.where(leans, self.norm_intervened[other], self.norm_reference[other])
        opposite = torch.where(leans, self.norm_reference[other], self.norm_intervened[other])
        return ((along >= cosine) & (own >= _WRITES * opposite)).numpy()
