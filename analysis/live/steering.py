"""Latents as a lever on one prompt: answers of both models as they are, and steered. The edits are those of the causal checks and doses.

    part       h_A + dose · Σ_j w_j d_j,   h_B - dose · Σ_j w_j d_j      at every token, with what the latents change there (`causal`)
    constant   h_A + dose · v,             h_B - dose · v                v the same at every token (`steering`)

h_A and h_B are the activations of reference and intervened model, each run on in its own layers above, and v = Σ_j m_j d_j with m_j the
mean value of latent j where it fires on held-out text: on a single prompt most latents do not fire where the answer begins, which is
where the doses of a behavior take their direction from.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from crosscoder.config import TokenPolicy
from crosscoder.config.behavior import Sampling
from crosscoder.errors import DataError

from ..behaviors.activations import PromptActivations
from ..behaviors.causal import chosen
from ..behaviors.change_decomposition import Part
from ..behaviors.experiment import exchangeable
from ..behaviors.generation import Generator
from ..behaviors.patching import INTERVENED, REFERENCE, PatchedRun, unchanged
from ..behaviors.prompts import Prompt, Row
from ..latents.dictionary_view import DictionaryView
from ..latents.trained_run import RunModels
from .requests import SteerRequest

_SIGNS = {REFERENCE: 1, INTERVENED: -1}
"""The reference is pushed the way of the change, the intervened model back."""


class Answers(NamedTuple):
    """Answers to a prompt, reference first."""

    unsteered: tuple[str, str]
    steered: tuple[str, str]
    fires_on: int
    """Tokens of the prompt on which one of the latents changes anything."""
    n_read: int
    """Tokens of the prompt that the dictionary reads."""


def why_no_steering(models: RunModels) -> str | None:
    """Why nothing can be put into, or taken out of, these models; None where it can."""
    if models.pair.readers is not None:
        return "the two models read tokens of their own, so an answer of one cannot be read along by the other; steering needs one tokenizer"
    if not exchangeable(*models):
        return "the two models share no space, so what changed between them is no direction that could be put into either"
    return None


def runs_of(
    request: SteerRequest, view: DictionaryView, means: Float64[Tensor, " latent"]
) -> tuple[PatchedRun, PatchedRun]:
    """The edits of both models, reference first.

    Args:
        means: Mean value of each latent where it fires on held-out text; NaN for a dead one.

    Raises:
        DataError: There is no such latent, or it has no mean value.
    """
    latents = sorted(set(request.latents))
    for latent in latents:
        if not 0 <= latent < view.n_latents:
            raise DataError(
                f"latents: there is no latent {latent}; the dictionary has latents 0 to {view.n_latents - 1}"
            )
    if request.how == "part":
        part = Part(chosen(latents, view.n_latents)).scaled(request.dose)
        one, other = (PatchedRun(model, model, part, sign) for model, sign in _SIGNS.items())
        return one, other
    direction = mean_direction(latents, view, means)
    one, other = (
        PatchedRun(model, model, constant=sign * request.dose * direction) for model, sign in _SIGNS.items()
    )
    return one, other


def mean_direction(
    latents: list[int], view: DictionaryView, means: Float64[Tensor, " latent"]
) -> Float[Tensor, " d_model"]:
    """What some latents add to intervened - reference at their mean values, in raw units. Raises DataError for a latent without one."""
    for latent in latents:
        if bool(means[latent].isnan()):
            raise DataError(
                f"latents: {latent} is dead: it fired on no held-out token, so it has no mean value; leave it out"
            )
    directions = view.carried_directions()[latents]
    return means[latents].to(directions) @ directions


class Steering:
    """Steers prompts of a run."""

    def __init__(
        self,
        models: RunModels,
        policy: TokenPolicy,
        means: Float64[Tensor, " latent"],
    ) -> None:
        """`means` as for `runs_of`."""
        self._models, self._policy, self._means = models, policy, means
        # Of the last prompt: while a dose is tried out, the answers beside it stay the same.
        self._unsteered: dict[tuple[bytes, int], tuple[str, str]] = {}

    def answers(self, prompt: Prompt, request: SteerRequest, before_step: Callable[[], object]) -> Answers:
        """Greedy answers of both models; `before_step` is called before every token, and what it raises ends them.

        Raises DataError where latents, prompt or models do not allow it.
        """
        pair, view = self._models
        why = why_no_steering(self._models)
        if why is not None:
            raise DataError(f"steering: {why}")
        runs = runs_of(request, view, self._means)
        n_tokens = len(prompt.token_ids)
        if pair.max_positions is not None and n_tokens + request.max_new_tokens > pair.max_positions:
            raise DataError(
                f"max_new_tokens: the prompt has {n_tokens} tokens and the models read {pair.max_positions}, so an answer can have "
                f"{max(0, pair.max_positions - n_tokens)} at most; lower it, or shorten the prompt"
            )
        sampling = Sampling(max_new_tokens=request.max_new_tokens)
        generator = Generator(pair, view, [prompt], self._policy, sampling, 0, before_step)
        key = prompt.token_ids.tobytes(), request.max_new_tokens
        if key not in self._unsteered:
            self._unsteered = {key: _both(generator, (unchanged(REFERENCE), unchanged(INTERVENED)))}
        steered = _both(generator, runs)
        return Answers(self._unsteered[key], steered, *self._fires_on(prompt, request))

    @torch.no_grad()
    def _fires_on(self, prompt: Prompt, request: SteerRequest) -> tuple[int, int]:
        pair, view = self._models
        row = Row(0, prompt.token_ids, len(prompt.token_ids))
        weights = PromptActivations.of_rows(pair, view, [row], self._policy).change(0).weights
        fires = chosen(request.latents, view.n_latents).to(weights.latent.device)[weights.latent]
        return len(weights.token[fires & (weights.value != 0)].unique()), weights.shape[0]


def _both(generator: Generator, runs: tuple[PatchedRun, PatchedRun]) -> tuple[str, str]:
    one, other = (generator.answers(run)[0][0] for run in runs)
    return one, other
