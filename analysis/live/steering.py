"""Steering on one prompt: answers of both models, unsteered and steered by latents, with the edits of causal checks and doses.

    part       h_A + dose · Σ_j w_j d_j,   h_B - dose · Σ_j w_j d_j      what the latents change at each token (`causal`)
    constant   h_A + dose · v,             h_B - dose · v                the same v at every token (`steering`)

h_A and h_B are the activations of reference and intervened model; each model continues from its own edited activations. v = Σ_j m_j d_j,
where m_j is the mean value of latent j on held-out tokens where it fires. The doses of a behavior take their direction from the
tokens where answers begin, but on a single prompt most latents do not fire there.
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
from ..behaviors.causal import latent_mask
from ..behaviors.change_decomposition import Part
from ..behaviors.experiment import has_shared_space
from ..behaviors.generation import Generator
from ..behaviors.patching import INTERVENED, REFERENCE, PatchedRun, unchanged
from ..behaviors.prompts import Prompt, Row
from ..latents.dictionary_view import DictionaryView
from ..latents.trained_run import RunModels
from .requests import SteerRequest

_SIGNS = {REFERENCE: 1, INTERVENED: -1}
"""The reference is steered in the direction of the change, the intervened model back."""


class Answers(NamedTuple):
    """Answers to a prompt, reference first."""

    unsteered: tuple[str, str]
    steered: tuple[str, str]
    fires_on: int
    """Number of prompt tokens on which any of the latents changes the activations."""
    n_read: int
    """Number of prompt tokens that the dictionary reads."""


def steering_obstacle(models: RunModels) -> str | None:
    """Return why these models cannot be steered; None if they can."""
    if models.pair.readers is not None:
        return "the two models have different tokenizers, so one cannot read the other's answer as it is generated; steering needs one tokenizer"
    if not has_shared_space(*models):
        return "the two models share no space, so the change between them is not a direction that could be added to either"
    return None


def patched_runs(
    request: SteerRequest, view: DictionaryView, means: Float64[Tensor, " latent"]
) -> tuple[PatchedRun, PatchedRun]:
    """Return the edited runs of both models, reference first.

    Args:
        means: Mean value of each latent on held-out tokens where it fires; NaN for dead latents.

    Raises:
        DataError: A latent does not exist or has no mean value.
    """
    latents = sorted(set(request.latents))
    for latent in latents:
        if not 0 <= latent < view.n_latents:
            raise DataError(
                f"latents: there is no latent {latent}; the dictionary has latents 0 to {view.n_latents - 1}"
            )
    if request.how == "part":
        part = Part(latent_mask(latents, view.n_latents)).scaled(request.dose)
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
    """Return what the latents add to intervened - reference at their mean values, in raw units. Raises DataError for dead latents."""
    for latent in latents:
        if bool(means[latent].isnan()):
            raise DataError(
                f"latents: {latent} is dead (it fired on no held-out token), so it has no mean value; remove it"
            )
    directions = view.weighted_shift_directions()[latents]
    return means[latents].to(directions) @ directions


class Steering:
    """Steers prompts of a run."""

    def __init__(
        self,
        models: RunModels,
        policy: TokenPolicy,
        means: Float64[Tensor, " latent"],
    ) -> None:
        """`means` as for `patched_runs`."""
        self._models, self._policy, self._means = models, policy, means
        # Cached for the last prompt: while users try doses, the unsteered answers stay the same.
        self._unsteered: dict[tuple[bytes, int], tuple[str, str]] = {}

    def answers(self, prompt: Prompt, request: SteerRequest, before_step: Callable[[], object]) -> Answers:
        """Generate greedy answers of both models; `before_step` is called before every token and cancels by raising.

        Raises:
            DataError: Latents, prompt or models do not allow steering.
        """
        pair, view = self._models
        obstacle = steering_obstacle(self._models)
        if obstacle is not None:
            raise DataError(f"steering: {obstacle}")
        runs = patched_runs(request, view, self._means)
        n_tokens = len(prompt.token_ids)
        if pair.max_positions is not None and n_tokens + request.max_new_tokens > pair.max_positions:
            raise DataError(
                f"max_new_tokens: the prompt has {n_tokens} tokens and the models read at most {pair.max_positions}, so an answer can have "
                f"at most {max(0, pair.max_positions - n_tokens)}; lower max_new_tokens, or shorten the prompt"
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
        weights = PromptActivations.from_rows(pair, view, [row], self._policy).change(0).weights
        fires = latent_mask(request.latents, view.n_latents).to(weights.latent.device)[weights.latent]
        return len(weights.token[fires & (weights.value != 0)].unique()), weights.shape[0]


def _both(generator: Generator, runs: tuple[PatchedRun, PatchedRun]) -> tuple[str, str]:
    one, other = (generator.answers(run)[0][0] for run in runs)
    return one, other
