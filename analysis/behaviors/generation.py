"""Generation with activation patching at every token, including generated tokens.

A patch depends on both models' activations on the same tokens. At every token, the other model is run up to its hookpoint, then the
answering model is run forward from its hookpoint with the patched activations. Each model has its own key-value cache.

Below the hookpoint, prompts are processed identically in every run, so they are run once and cached for all runs.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache

from crosscoder.config import TokenPolicy
from crosscoder.config.behavior import Sampling
from crosscoder.errors import DataError, PairError
from crosscoder.language_models.hooks import forward, read_output, splice_output
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.documents import special_ids

from ..latents.dictionary_view import DictionaryView
from .change_decomposition import Change
from .patching import PatchedRun, starting_point
from .prompts import Prompt

ROWS = 40
"""Answers that are generated together."""

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"

_PROMPT_CACHE_BYTES = 2**30
"""Maximum size of the prompt cache; what does not fit is recomputed."""


class SampledAnswer(NamedTuple):
    """Tokens of an answer, without the one that ended it."""

    token_ids: list[int]
    log_probability: float
    """Sum over the tokens, in nats, at temperature 1; under the changed model if the run changes activations."""


class _PromptPass(NamedTuple):
    """One model's pass over prompts up to its hookpoint."""

    cache: DynamicCache
    activations: Float[Tensor, "row token d_model"]
    """Activations on padding, context and prompt."""

    @property
    def n_bytes(self) -> int:
        values = [value for layer in self.cache.layers for value in vars(layer).values()]
        return sum(value.nbytes for value in (*values, self.activations) if isinstance(value, Tensor))


@dataclass
class _ModelState:
    """What one model has read so far."""

    cache: Any
    token_ids: Int[Tensor, "row token"]
    """The tokens to read next. Initially: left padding, the context if the model has one, the prompt."""

    mask: Bool[Tensor, "row past_and_token"]

    @property
    def positions(self) -> Int[Tensor, "row token"]:
        """Positions of the next tokens, counted from the first unpadded token of each row."""
        return (self.mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -self.token_ids.shape[1] :]

    def keep(self, rows: Int[Tensor, " row"]) -> None:
        """Drop all other rows."""
        # Every kind of layer can be reordered; fewer can be cut.
        self.cache.reorder_cache(rows)
        self.mask = self.mask[rows]

    def grow(self) -> None:
        """Extend the mask by one token."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)


class Generator:
    """Generates answers to prompts."""

    def __init__(
        self,
        pair: ModelPair,
        view: DictionaryView | None,
        prompts: Sequence[Prompt],
        policy: TokenPolicy,
        sampling: Sampling,
        seed: int,
        before_step: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            before_step: Called before every token; an exception it raises aborts generation.

        Raises:
            PairError: A model cannot continue from a cache of keys and values.
            DataError: A prompt with its answer is longer than the models can read.
        """
        if (why := why_no_answers(pair)) is not None:
            raise PairError(f"pair: {why}")
        self._before_step = before_step
        self._pair, self._view, self._prompts, self._sampling, self._seed = (
            pair,
            view,
            prompts,
            sampling,
            seed,
        )
        ids = special_ids(pair.tokenizer) if policy.mask_special else []
        self._special, self._mask_first = (
            torch.tensor(ids, dtype=torch.long, device=pair.device),
            policy.mask_first,
        )
        self._prompt_passes: dict[tuple[int, int], _PromptPass] = {}
        """Cache by index of the first prompt of a batch, and model."""
        longest = max(len(prompt.token_ids) for prompt in prompts) + sampling.max_new_tokens
        if pair.max_positions is not None and longest > pair.max_positions:
            raise DataError(
                f"prompts: the longest prompt with its answer has {longest} tokens, but the models read at most {pair.max_positions}; "
                "give shorter prompts, or lower metric.sampling.max_new_tokens"
            )

    def answers(self, run: PatchedRun, settled: Callable[[str], bool] | None = None) -> list[list[str]]:
        """Return the sampled answers to each prompt.

        Args:
            settled: Whether an answer that begins so need not go on; such answers are cut.
        """
        sampled = self.sampled(run, settled)
        return [[self.text_of(row.token_ids, run.model) for row in rows] for rows in sampled]

    def text_of(self, token_ids: list[int], model: int) -> str:
        """Return the text of an answer of one model."""
        return answer_text(self._pair, token_ids, model)

    @torch.no_grad()
    def sampled(
        self, run: PatchedRun, settled: Callable[[str], bool] | None = None
    ) -> list[list[SampledAnswer]]:
        """Return the sampled answers to each prompt; one that the model ended has fewer than `max_new_tokens` tokens.

        Args:
            settled: See `answers`.
        """
        order = sorted(range(len(self._prompts)), key=lambda index: len(self._prompts[index].token_ids))
        samples = self._sampling.samples
        answers: list[list[SampledAnswer]] = [[] for _ in order]
        jobs = [index for index in order for _ in range(samples)]
        for start in tqdm(range(0, len(jobs), ROWS), desc="answers", unit="batch", leave=False):
            indices = jobs[start : start + ROWS]
            generator = torch.Generator().manual_seed(self._seed + start)
            prompts = [self._prompts[index] for index in indices]
            rows = self._generate(start, prompts, run, generator, self._ends_early(run.model, settled))
            for index, row in zip(indices, rows, strict=True):
                answers[index].append(row)
        return answers

    def _ends_early(
        self, model: int, settled: Callable[[str], bool] | None
    ) -> Callable[[list[int]], bool] | None:
        """Return whether the tokens of an answer need no more after them; None if they always do."""
        # Such tokenizers change text that they have decoded when more tokens follow.
        if settled is None or getattr(self._pair.tokenizer_of(model), "clean_up_tokenization_spaces", False):
            return None

        def ends(token_ids: list[int]) -> bool:
            text = self.text_of(token_ids, model)
            # A character may need several tokens.
            return _INCOMPLETE not in text and settled(text)

        return ends

    def _generate(
        self,
        batch: int,
        prompts: Sequence[Prompt],
        run: PatchedRun,
        generator: torch.Generator,
        ends_early: Callable[[list[int]], bool] | None,
    ) -> list[SampledAnswer]:
        """Return one answer to each prompt. Rows whose answer has ended are computed no further."""
        states = [self._initial_state(prompts, model) for model in range(len(self._pair.models))]
        stop_tokens = torch.tensor(self._stop_tokens(run.model), device=self._pair.device)
        generated: list[list[int]] = [[] for _ in prompts]
        log_probability = np.zeros(len(prompts))
        open_rows = list(range(len(prompts)))
        token_ids, unpadded = self._padded(prompts)
        for step in range(self._sampling.max_new_tokens):
            self._before_step()
            kept = unpadded & ~torch.isin(token_ids, self._special)
            if step == 0:
                first = unpadded & (unpadded.long().cumsum(dim=1) <= self._mask_first)
                kept &= ~first
            logits = self._step(states, kept, run) if step else self._first_step(batch, states, kept, run)
            # A draw for every row, so that an answer does not depend on where others end.
            draws = torch.rand(len(prompts), generator=generator, dtype=torch.float64)[open_rows]
            next_ids = self._sample(logits, draws)
            goes_on = (~torch.isin(next_ids, stop_tokens)).nonzero()[:, 0]
            # Only the chosen entries of the log-softmax: this runs at every token of every answer.
            chosen = logits.gather(1, next_ids[:, None])[:, 0].float() - logits.float().logsumexp(dim=1)
            added = [open_rows[place] for place in goes_on.tolist()]
            log_probability[added] += chosen[goes_on].cpu().double().numpy()
            for row, token_id in zip(added, next_ids[goes_on].tolist(), strict=True):
                generated[row].append(token_id)
            if ends_early is not None:
                open_ended = [not ends_early(generated[row]) for row in added]
                goes_on = goes_on[torch.tensor(open_ended, dtype=torch.bool, device=goes_on.device)]
            n_open, open_rows = len(open_rows), [open_rows[place] for place in goes_on.tolist()]
            if not open_rows:
                break
            token_ids = next_ids[goes_on, None]
            unpadded = torch.ones_like(token_ids, dtype=torch.bool)
            for state in states:
                if len(open_rows) < n_open:
                    state.keep(goes_on)
                state.token_ids = token_ids
                state.grow()
        return [SampledAnswer(row, float(sum_)) for row, sum_ in zip(generated, log_probability, strict=True)]

    def _first_step(
        self, batch: int, states: list[_ModelState], kept: Bool[Tensor, "row token"], run: PatchedRun
    ) -> Float[Tensor, "row vocabulary"]:
        """Return the logits after the prompts."""
        upper_layers = self._pair.forward_from_hookpoint(run.model)
        if not upper_layers.n_skipped:
            return self._step(states, kept, run)
        state, n_tokens = states[run.model], kept.shape[1]
        passes = {
            model: self._run_prompts(batch, model, states) for model in (run.model, *_others(states, run))
        }
        for model, prompts in passes.items():
            # A copy, because each run extends the cache differently.
            states[model].cache = copy.deepcopy(prompts.cache)
        before, values = passes[run.model].activations.split(
            [state.token_ids.shape[1] - n_tokens, n_tokens], dim=1
        )
        both = [
            passes[model].activations[:, -n_tokens:] if model in passes else values
            for model in range(len(states))
        ]
        changed = torch.cat([before, self._start(run, both, kept).to(values)], dim=1)
        below = state.cache.layers[: upper_layers.n_skipped]
        network: Any = self._pair.models[run.model]
        state.cache = DynamicCache(config=network.config)
        with self._pair.switched(run.model):
            logits = upper_layers.above(
                state.token_ids, state.mask, changed, past_key_values=state.cache, **_options(state)
            )
        state.cache.layers[: upper_layers.n_skipped] = below
        return logits

    def _run_prompts(self, batch: int, model: int, states: list[_ModelState]) -> _PromptPass:
        """Run a model on the prompts up to its hookpoint, or return the cached pass."""
        if (batch, model) in self._prompt_passes:
            return self._prompt_passes[batch, model]
        state = states[model]
        prompt_pass = _PromptPass(state.cache, self._hookpoint_output(state, model))
        cached_bytes = sum(cached.n_bytes for cached in self._prompt_passes.values())
        if cached_bytes + prompt_pass.n_bytes <= _PROMPT_CACHE_BYTES:
            self._prompt_passes[batch, model] = prompt_pass
        return prompt_pass

    def _step(
        self, states: list[_ModelState], kept: Bool[Tensor, "row token"], run: PatchedRun
    ) -> Float[Tensor, "row vocabulary"]:
        """Return the logits after the last token."""
        n_tokens, state = kept.shape[1], states[run.model]
        others = {
            model: self._hookpoint_output(states[model], model)[:, -n_tokens:]
            for model in _others(states, run)
        }

        def splice(values: Float[Tensor, "row token d_model"]) -> Float[Tensor, "row token d_model"]:
            before, last = values.split([values.shape[1] - n_tokens, n_tokens], dim=1)
            both = [others.get(model, last) for model in range(len(states))]
            return torch.cat([before, self._start(run, both, kept).to(values)], dim=1)

        with self._pair.switched(run.model) as network:
            options = {"past_key_values": state.cache, **_options(state)}
            if run.is_unchanged:
                return forward(network, state.token_ids, state.mask, **options).logits
            module = self._pair.module(run.model)
            return splice_output(network, module, splice, state.token_ids, state.mask, **options)

    def _hookpoint_output(self, state: _ModelState, model: int) -> Float[Tensor, "row token d_model"]:
        """Run a model on its next tokens and return the output of its hookpoint."""
        with self._pair.switched(model) as network:
            output = read_output(
                network,
                self._pair.module(model),
                state.token_ids,
                state.mask,
                state.cache,
                position_ids=state.positions,
            )
        assert output is not None  # loading the pair refuses a hookpoint that is never run
        return output

    def _start(
        self,
        run: PatchedRun,
        both: Sequence[Float[Tensor, "row token d_model"]],
        kept: Bool[Tensor, "row token"],
    ) -> Float[Tensor, "row token d_model"]:
        """Return the activations that a run starts from, given those of all models."""

        def change() -> Change:
            assert self._view is not None
            return Change(self._view, both, kept)

        return starting_point(run, both, kept, change)

    def _sample(
        self, logits: Float[Tensor, "row vocabulary"], draws: Float64[Tensor, " row"]
    ) -> Int[Tensor, " row"]:
        """Return a token of each row: the most probable at temperature 0, else that at which the cumulative probability passes the draw."""
        if self._sampling.temperature == 0:
            return logits.argmax(dim=1)
        probabilities = (logits.float() / self._sampling.temperature).softmax(dim=1)
        passed = probabilities.cpu().double().cumsum(dim=1)
        chosen = torch.searchsorted(passed, draws[:, None] * passed[:, -1:], right=True)[:, 0]
        return chosen.clamp(max=logits.shape[1] - 1).to(logits.device)

    def _initial_state(self, prompts: Sequence[Prompt], model: int) -> _ModelState:
        network: Any = self._pair.models[model]
        token_ids, mask = self._padded(prompts, model)
        return _ModelState(DynamicCache(config=network.config), token_ids, mask)

    def _padded(
        self, prompts: Sequence[Prompt], model: int = 0
    ) -> tuple[Int[Tensor, "row token"], Bool[Tensor, "row token"]]:
        """Return the prompts as a model reads them, with its context if it has one, padded on the left, and the mask."""
        context = self._pair.context if model == 1 else None
        before = np.zeros(0, dtype=np.int64) if context is None else context.token_ids.numpy()
        rows = [np.concatenate([before, prompt.token_ids]) for prompt in prompts]
        longest = max(map(len, rows))
        token_ids = np.stack([np.pad(row, (longest - len(row), 0)) for row in rows])
        mask = np.stack([np.arange(longest) >= longest - len(row) for row in rows])
        return torch.from_numpy(token_ids).to(self._pair.device), torch.from_numpy(mask).to(self._pair.device)

    def _stop_tokens(self, model: int) -> list[int]:
        """Return the tokens that end an answer: those of either model, or the model's own if the tokenizers differ."""
        readers = (0, 1) if self._pair.readers is None else (model,)
        stop: list[Any] = []
        for reader in readers:
            network: Any = self._pair.models[reader]
            configured = network.generation_config.eos_token_id
            stop += configured if isinstance(configured, list) else [configured]
            stop.append(self._pair.tokenizer_of(reader).eos_token_id)
        return sorted({token for token in stop if isinstance(token, int)})


def answer_text(pair: ModelPair, token_ids: Sequence[int], model: int) -> str:
    """Return the text of the tokens of an answer of one model."""
    return str(pair.tokenizer_of(model).decode(list(token_ids), skip_special_tokens=True)).strip()


def why_no_answers(pair: ModelPair) -> str | None:
    """Return why answers cannot be generated; None if they can."""
    for model, name in enumerate(pair.model_names[:2]):
        # transformers marks models such as Mamba so: a state takes the place of keys and values, and cannot be cut back to a prompt.
        if getattr(pair.models[model], "_is_stateful", False):
            return (
                f"the {name} model keeps a state instead of keys and values, and answers are generated from a cache of these; use a metric of "
                "logits"
            )
    return None


def _others(states: Sequence[_ModelState], run: PatchedRun) -> list[int]:
    """Return the other models whose activations a run needs."""
    return [
        model
        for model in range(len(states))
        if model != run.model and (run.needs_change or model == run.start)
    ]


def _options(state: _ModelState) -> dict[str, Any]:
    """Return the options of a forward pass that computes logits at the last token only."""
    last = torch.zeros_like(state.token_ids, dtype=torch.bool)
    last[:, -1] = True
    return {"use_cache": True, "position_ids": state.positions, "at": last}
