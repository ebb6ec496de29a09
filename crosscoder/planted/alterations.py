"""Alterations of one model's tokens that belong to no feature: bursts, heavy tails, rounding, offsets of topics, gain.

Each is drawn with its own random directions (`draw`), applied to the tokens of one model (`apply`), and described as an
element of change (`element`). An outlier channel alters both models alike, and so is none.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from .directions import random_rotation
from .elements import Element

BURST_DIMENSIONS, BURST_SHARE, BURST_LENGTH = 8, 0.02, 2.0
TAIL_DIMENSIONS, TAIL_FREEDOM, TAIL_SCALE = 6, 2.5, 0.15
OUTLIER_LENGTH, OUTLIER_SPREAD = 7.5, 0.05
ROUNDING_BITS = 4
TOPICS, OFFSET_LENGTH = 8, 1.0
CLASS_SHARE, CLASS_GAIN = 0.2, 1.5


class Alteration(ABC):
    """A change of the tokens of one model."""

    is_noise: ClassVar[bool]
    """Whether no dictionary can be expected to reconstruct it, so that `PlantedPair.clean` leaves it out."""

    @classmethod
    @abstractmethod
    def draw(cls, d_model: int, generator: torch.Generator) -> Self:
        """Draw an alteration of a model of this width."""

    @abstractmethod
    def apply(
        self, values: Float[Tensor, "token d_model"], document_tokens: int, generator: torch.Generator
    ) -> Float[Tensor, "token d_model"]:
        """Return altered tokens, in documents of `document_tokens` rows."""

    @abstractmethod
    def elements(self, model: int) -> tuple[Element, ...]:
        """Return the elements of change if this model alone is altered."""


@dataclass(frozen=True)
class _NoiseInFewDimensions(Alteration):
    """Noise within a random subspace."""

    directions: Float[Tensor, "direction d_model"]
    is_noise: ClassVar[bool] = True
    n_dimensions: ClassVar[int]

    @classmethod
    def draw(cls, d_model: int, generator: torch.Generator) -> Self:
        """Draw the dimensions."""
        return cls(random_rotation(d_model, generator)[: cls.n_dimensions])


@dataclass(frozen=True)
class Bursts(_NoiseInFewDimensions):
    """Some tokens carry a vector of fixed length in a direction within few dimensions, drawn anew for every token."""

    n_dimensions: ClassVar[int] = BURST_DIMENSIONS

    def apply(
        self, values: Float[Tensor, "token d_model"], document_tokens: int, generator: torch.Generator
    ) -> Float[Tensor, "token d_model"]:
        """Add the bursts."""
        bursts = torch.rand(len(values), 1, generator=generator) < BURST_SHARE
        within = torch.randn(len(values), len(self.directions), generator=generator)
        return values + bursts * BURST_LENGTH * normalize(within, dim=1) @ self.directions

    def elements(self, model: int) -> tuple[Element, ...]:
        """Return the subspace."""
        return (Element("bursts", "subspace", model, self.directions, BURST_SHARE),)


@dataclass(frozen=True)
class HeavyTailedNoise(_NoiseInFewDimensions):
    """Independent Student t noise in few dimensions."""

    n_dimensions: ClassVar[int] = TAIL_DIMENSIONS

    def apply(
        self, values: Float[Tensor, "token d_model"], document_tokens: int, generator: torch.Generator
    ) -> Float[Tensor, "token d_model"]:
        """Add the noise, drawn by NumPy: torch's Student t ignores generators."""
        seed = int(torch.randint(2**31, (), generator=generator))
        drawn = np.random.default_rng(seed).standard_t(TAIL_FREEDOM, (len(values), len(self.directions)))
        student = torch.from_numpy(drawn).to(values)
        return values + TAIL_SCALE * student @ self.directions

    def elements(self, model: int) -> tuple[Element, ...]:
        """Return the dimensions of the noise."""
        return (Element("heavy-tailed noise", "noise", model, self.directions, 1.0),)


@dataclass(frozen=True)
class OutlierChannel(Alteration):
    """One coordinate is large on every token, as in language models (Dettmers et al. 2022); for both models."""

    channel: int
    is_noise: ClassVar[bool] = False

    @classmethod
    def draw(cls, d_model: int, generator: torch.Generator) -> Self:
        """Draw the coordinate."""
        return cls(int(torch.randint(d_model, (), generator=generator)))

    def apply(
        self, values: Float[Tensor, "token d_model"], document_tokens: int, generator: torch.Generator
    ) -> Float[Tensor, "token d_model"]:
        """Add the large coordinate."""
        altered = values.clone()
        drawn = torch.randn(len(values), generator=generator)
        altered[:, self.channel] += OUTLIER_LENGTH * (1 + OUTLIER_SPREAD * drawn)
        return altered

    def elements(self, model: int) -> tuple[Element, ...]:
        """Refuse: an outlier channel of one model would be an offset with noise, which no regime has."""
        raise ValueError("an outlier channel alters both models")


@dataclass(frozen=True)
class Rounding(Alteration):
    """Each token is rounded to the nearest of 2^bits - 1 levels, symmetric around zero, the largest at its largest coordinate."""

    d_model: int
    is_noise: ClassVar[bool] = True

    @classmethod
    def draw(cls, d_model: int, generator: torch.Generator) -> Self:
        """Return the rounding, in which nothing is random."""
        return cls(d_model)

    def apply(
        self, values: Float[Tensor, "token d_model"], document_tokens: int, generator: torch.Generator
    ) -> Float[Tensor, "token d_model"]:
        """Round."""
        step = values.abs().amax(dim=1, keepdim=True) / (2 ** (ROUNDING_BITS - 1) - 1)
        # A token of zeros has step 0; any other step keeps it.
        return (values / torch.where(step > 0, step, 1.0)).round() * step

    def elements(self, model: int) -> tuple[Element, ...]:
        """Return the rounding, which has no directions. It weakens all features, by about a third, so that they may be called rescaled; no other
        label of a change is true."""
        nothing = torch.zeros(0, self.d_model)
        weakened = frozenset({"rescaled"})
        return (Element("rounding", "rounding", model, nothing, 1.0, true_of_features=weakened),)


@dataclass(frozen=True)
class TopicOffsets(Alteration):
    """Every document has one of a few topics, and each topic a constant vector that is added to all its tokens."""

    offsets: Float[Tensor, "topic d_model"]
    is_noise: ClassVar[bool] = False

    @classmethod
    def draw(cls, d_model: int, generator: torch.Generator) -> Self:
        """Draw the vectors."""
        return cls(OFFSET_LENGTH * normalize(torch.randn(TOPICS, d_model, generator=generator), dim=1))

    def apply(
        self, values: Float[Tensor, "token d_model"], document_tokens: int, generator: torch.Generator
    ) -> Float[Tensor, "token d_model"]:
        """Draw the topic of each document, and add its vector."""
        n_documents = -(-len(values) // document_tokens)
        topic = torch.randint(len(self.offsets), (n_documents,), generator=generator)
        return values + self.offsets[topic.repeat_interleave(document_tokens)[: len(values)]]

    def elements(self, model: int) -> tuple[Element, ...]:
        """Return one offset per topic; a latent that writes it is new in the sense of the label."""
        label = frozenset({("lost", "new")[model]})
        return tuple(
            Element(
                f"topic {number}",
                "offset",
                model,
                normalize(offset, dim=0)[None],
                1 / len(self.offsets),
                true_of_latents=label,
            )
            for number, offset in enumerate(self.offsets)
        )


@dataclass(frozen=True)
class ClassGain(Alteration):
    """Tokens of one class, drawn independently of the features, are multiplied by a factor."""

    d_model: int
    is_noise: ClassVar[bool] = False

    @classmethod
    def draw(cls, d_model: int, generator: torch.Generator) -> Self:
        """Return the gain, in which only the tokens are random."""
        return cls(d_model)

    def apply(
        self, values: Float[Tensor, "token d_model"], document_tokens: int, generator: torch.Generator
    ) -> Float[Tensor, "token d_model"]:
        """Draw the tokens of the class, and scale them."""
        in_class = torch.rand(len(values), 1, generator=generator) < CLASS_SHARE
        return torch.where(in_class, CLASS_GAIN * values, values)

    def elements(self, model: int) -> tuple[Element, ...]:
        """Return the gain, which rescales every feature on the tokens of the class."""
        nothing = torch.zeros(0, self.d_model)
        rescaled = frozenset({"rescaled"})
        return (Element("class", "gain", model, nothing, CLASS_SHARE, true_of_features=rescaled),)
