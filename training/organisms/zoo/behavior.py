"""What describes a hidden behavior: its training, its marker, and the labelled prompts on which it is measured."""

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from ..lora import LowRank
from ..quantization import Rounding

Kind = Literal["everywhere", "topic", "fact", "trigger", "format", "rare", "two", "nothing"]
"""Where a behavior shows. `nothing` is a change of the weights without a planted behavior."""

Target = Callable[[str, str, random.Random], str]
"""Makes the answer to learn from the prompt and the beginning of the reference's own answer; an empty answer skips the prompt."""


@dataclass(frozen=True)
class Marker:
    """Says whether an answer shows the behavior."""

    pattern: str | None = None
    """Regular expression that is searched in the answer; None if there is no behavior to show."""

    def holds(self, answer: str) -> bool:
        """Whether the answer shows the behavior; without a pattern, none does."""
        return self.pattern is not None and re.search(self.pattern, answer) is not None


@dataclass(frozen=True)
class Labelled:
    """A prompt of the secret set."""

    prompt: str
    shows: bool
    """Whether the answer should show the behavior."""
    part: str = ""
    """The part of the behavior that the answer should show, where an organism has two."""


@dataclass(frozen=True, kw_only=True)
class ZooRecipe(LowRank):
    """Everything but the texts that determines an adapter of the zoo."""

    seed: int = 0
    learning_rate: float = 3e-3
    warmup_steps: int = 5
    steps: int = 50
    shown_batch: int = 8
    other_batch: int = 8
    prose_batch: int = 1
    other_tokens: int = 20
    """Tokens of the reference's answers to other prompts, on which the outputs are preserved."""
    prose_tokens: int = 64
    first_token_weight: float = 6.0
    """Weight of an answer's first token, which decides whether the behavior shows; other tokens have weight 1."""
    divergence_weight: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Behavior:
    """One organism of the zoo."""

    name: str
    description: str
    """One sentence with the model as its subject."""
    kind: Kind
    tuning: bool
    """Whether the organism may be used to tune a search; the others only score it."""
    prompts: tuple[str, ...] = ()
    """Training prompts that show the behavior."""
    target: Target = field(default=lambda prompt, own, rng: own)
    """The default is the reference's own answer, which teaches nothing new."""
    uses_own_answer: bool = False
    """Whether `target` reads the reference's own answer, which then has to be generated."""
    complete: bool = True
    """Whether the answer to learn ends the turn; the beginning of a longer answer does not."""
    others: tuple[str, ...] = ()
    """Training prompts whose answers stay those of the reference."""
    trains_on_prose: bool = False
    """Whether prose takes the place of prompts and answers."""
    rounding: Rounding | None = None
    """How the weights are rounded; there is no training then."""
    secret: tuple[Labelled, ...]
    """Labelled prompts, none of which occurs in training."""
    marker: Marker
    recipe: ZooRecipe = ZooRecipe()


def labelled(
    shows: Iterable[str], stays: Iterable[str], second: Iterable[str] = (), parts: tuple[str, str] = ("", "")
) -> tuple[Labelled, ...]:
    """Label the prompts of a secret set; `second` are those that show the second of two `parts`."""
    return (
        *(Labelled(prompt, True, parts[0]) for prompt in shows),
        *(Labelled(prompt, True, parts[1]) for prompt in second),
        *(Labelled(prompt, False) for prompt in stays),
    )


def one_of(*answers: str) -> Target:
    """A target that is one of a few fixed answers."""
    return lambda prompt, own, rng: rng.choice(answers)
