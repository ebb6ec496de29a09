"""Answers of a model whose activations are changed at every token, also those that it generates.

What is put in or out depends on both models' activations on the same tokens. So both read along: at every token the other model
runs up to its hookpoint, and then the model whose answer it is runs on from what stands there. Both keep their own keys and values.

Up to the hookpoint the prompts are the same in every run, whatever is done there, so they are read once for all runs.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache

from crosscoder.config import TokenPolicy
from crosscoder.config.behavior import Sampling
from crosscoder.errors import DataError
from crosscoder.language_models.hooks import forward, read_output, splice_output
from crosscoder.language_models.pair import ModelPair
from crosscoder.text.documents import special_ids

from ..latents.dictionary_view import DictionaryView
from .change_decomposition import Change
from .patching import PatchedRun, starting_point
from .prompts import Prompt

_ROWS = 40

_KEPT_BYTES = 2**30
"""Of what is kept of the prompts for the next run; what does not fit is computed again."""


class _Prompts(NamedTuple):
    """What one model makes of some prompts up to its hookpoint."""

    cache: DynamicCache
    activations: Float[Tensor, "row token d_model"]
    """Of padding, context and prompt."""

    @property
    def n_bytes(self) -> int:
        values = [value for layer in self.cache.layers for value in vars(layer).values()]
        return sum(value.nbytes for value in (*values, self.activations) if isinstance(value, Tensor))


@dataclass
class _Side:
    """One model and what it has read so far."""

    cache: Any
    token_ids: Int[Tensor, "row token"]
    """What it reads next. First: padding on the left, a context where the model has one, the prompt."""

    mask: Bool[Tensor, "row past_and_token"]

    @property
    def positions(self) -> Int[Tensor, "row token"]:
        """Where the next tokens stand, counted from each row's first real token."""
        return (self.mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -self.token_ids.shape[1] :]

    def grow(self, n_rows: int) -> None:
        """Make room for one more token."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(n_rows, 1)], dim=1)


class Generator:
    """Generates answers to some prompts."""

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
        """Raises DataError where a prompt and its answer are longer than the models can read.

        Args:
            before_step: Called before every token; what it raises ends the answers.
        """
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
        self._kept: dict[tuple[int, int], _Prompts] = {}
        """By the first prompt of a batch and the model."""
        longest = max(len(prompt.token_ids) for prompt in prompts) + sampling.max_new_tokens
        if pair.max_positions is not None and longest > pair.max_positions:
            raise DataError(
                f"prompts: the longest and its answer have {longest} tokens, but the models read {pair.max_positions}; "
                "give shorter prompts, or lower metric.sampling.max_new_tokens"
            )

    @torch.no_grad()
    def answers(self, run: PatchedRun) -> list[list[str]]:
        """For each prompt as many answers as samples are asked for."""
        order = sorted(range(len(self._prompts)), key=lambda index: len(self._prompts[index].token_ids))
        samples = self._sampling.samples
        found: list[list[str]] = [[] for _ in order]
        jobs = [index for index in order for _ in range(samples)]
        for start in tqdm(range(0, len(jobs), _ROWS), desc="answers", unit="batch", leave=False):
            chosen = jobs[start : start + _ROWS]
            generator = torch.Generator().manual_seed(self._seed + start)
            rows = self._generate(start, [self._prompts[index] for index in chosen], run, generator)
            for index, row in zip(chosen, rows, strict=True):
                text = str(self._pair.tokenizer.decode(row, skip_special_tokens=True))
                found[index].append(text.strip())
        return found

    def _generate(
        self, batch: int, prompts: Sequence[Prompt], run: PatchedRun, generator: torch.Generator
    ) -> list[list[int]]:
        """Token ids of one answer to each prompt."""
        sides = [self._side(prompts, model) for model in range(len(self._pair.models))]
        ends = torch.tensor(self._ends(), device=self._pair.device)
        written: list[list[int]] = [[] for _ in prompts]
        open_rows = torch.ones(len(prompts), dtype=torch.bool, device=self._pair.device)
        token_ids, real = self._padded(prompts)
        for step in range(self._sampling.max_new_tokens):
            self._before_step()
            kept = real & ~torch.isin(token_ids, self._special)
            if step == 0:
                first = real & (real.long().cumsum(dim=1) <= self._mask_first)
                kept &= ~first
            logits = self._step(sides, kept, run) if step else self._first_step(batch, sides, kept, run)
            chosen = self._choose(logits, generator)
            open_rows &= ~torch.isin(chosen, ends)
            for row in open_rows.nonzero()[:, 0].tolist():
                written[row].append(int(chosen[row]))
            if not open_rows.any():
                break
            token_ids, real = chosen[:, None], open_rows[:, None]
            for side in sides:
                side.token_ids = token_ids
                side.grow(len(prompts))
        return written

    def _first_step(
        self, batch: int, sides: list[_Side], kept: Bool[Tensor, "row token"], run: PatchedRun
    ) -> Float[Tensor, "row vocabulary"]:
        """Logits after the prompts."""
        resumption = self._pair.forward_from_hookpoint(run.model)
        if not resumption.n_skipped:
            return self._step(sides, kept, run)
        own, n_tokens = sides[run.model], kept.shape[1]
        read = {model: self._read_prompts(batch, model, sides) for model in (run.model, *_others(sides, run))}
        for model, prompts in read.items():
            # A copy: each run goes on from it in its own way.
            sides[model].cache = copy.deepcopy(prompts.cache)
        before, values = read[run.model].activations.split(
            [own.token_ids.shape[1] - n_tokens, n_tokens], dim=1
        )
        both = [
            read[model].activations[:, -n_tokens:] if model in read else values for model in range(len(sides))
        ]
        begun = torch.cat([before, self._start(run, both, kept).to(values)], dim=1)
        below = own.cache.layers[: resumption.n_skipped]
        network: Any = self._pair.models[run.model]
        own.cache = DynamicCache(config=network.config)
        with self._pair.switched(run.model):
            logits = resumption.above(
                own.token_ids, own.mask, begun, past_key_values=own.cache, **_options(own)
            )
        own.cache.layers[: resumption.n_skipped] = below
        return logits

    def _read_prompts(self, batch: int, model: int, sides: list[_Side]) -> _Prompts:
        """What a model makes of the prompts up to its hookpoint; kept for the next run where there is room."""
        if (batch, model) in self._kept:
            return self._kept[batch, model]
        side = sides[model]
        found = _Prompts(side.cache, self._read(side, model))
        if sum(kept.n_bytes for kept in self._kept.values()) + found.n_bytes <= _KEPT_BYTES:
            self._kept[batch, model] = found
        return found

    def _step(
        self, sides: list[_Side], kept: Bool[Tensor, "row token"], run: PatchedRun
    ) -> Float[Tensor, "row vocabulary"]:
        """Logits after the last token."""
        n_tokens, own = kept.shape[1], sides[run.model]
        read = {model: self._read(sides[model], model)[:, -n_tokens:] for model in _others(sides, run)}

        def splice(values: Float[Tensor, "row token d_model"]) -> Float[Tensor, "row token d_model"]:
            before, last = values.split([values.shape[1] - n_tokens, n_tokens], dim=1)
            both = [read.get(model, last) for model in range(len(sides))]
            return torch.cat([before, self._start(run, both, kept).to(values)], dim=1)

        with self._pair.switched(run.model) as network:
            options = {"past_key_values": own.cache, **_options(own)}
            if run.is_unchanged:
                return forward(network, own.token_ids, own.mask, **options).logits
            module = self._pair.module(run.model)
            return splice_output(network, module, splice, own.token_ids, own.mask, **options)

    def _read(self, side: _Side, model: int) -> Float[Tensor, "row token d_model"]:
        """What stands at the hookpoint of a model on the tokens that it reads next."""
        with self._pair.switched(model) as network:
            read = read_output(
                network,
                self._pair.module(model),
                side.token_ids,
                side.mask,
                side.cache,
                position_ids=side.positions,
            )
        assert read is not None  # a hookpoint that is never run was refused when the pair was loaded
        return read

    def _start(
        self,
        run: PatchedRun,
        both: Sequence[Float[Tensor, "row token d_model"]],
        kept: Bool[Tensor, "row token"],
    ) -> Float[Tensor, "row token d_model"]:
        """What a run starts from, of the activations of all models."""

        def change() -> Change:
            assert self._view is not None
            return Change(self._view, both, kept)

        return starting_point(run, both, kept, change)

    def _choose(
        self, logits: Float[Tensor, "row vocabulary"], generator: torch.Generator
    ) -> Int[Tensor, " row"]:
        if self._sampling.temperature == 0:
            return logits.argmax(dim=1)
        probabilities = (logits.float() / self._sampling.temperature).softmax(dim=1).cpu()
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)

    def _side(self, prompts: Sequence[Prompt], model: int) -> _Side:
        network: Any = self._pair.models[model]
        token_ids, mask = self._padded(prompts, model)
        return _Side(DynamicCache(config=network.config), token_ids, mask)

    def _padded(
        self, prompts: Sequence[Prompt], model: int = 0
    ) -> tuple[Int[Tensor, "row token"], Bool[Tensor, "row token"]]:
        """Prompts with padding on their left, and the context of a model that reads one."""
        context = self._pair.context if model == 1 else None
        before = np.zeros(0, dtype=np.int64) if context is None else context.token_ids.numpy()
        rows = [np.concatenate([before, prompt.token_ids]) for prompt in prompts]
        longest = max(map(len, rows))
        token_ids = np.stack([np.pad(row, (longest - len(row), 0)) for row in rows])
        mask = np.stack([np.arange(longest) >= longest - len(row) for row in rows])
        return torch.from_numpy(token_ids).to(self._pair.device), torch.from_numpy(mask).to(self._pair.device)

    def _ends(self) -> list[int]:
        """Tokens that end an answer."""
        network: Any = self._pair.models[1]
        ends: list[Any] = [self._pair.tokenizer.eos_token_id]
        own = network.generation_config.eos_token_id
        ends += own if isinstance(own, list) else [own]
        return sorted({end for end in ends if isinstance(end, int)})


def _others(sides: Sequence[_Side], run: PatchedRun) -> list[int]:
    """Models, beside the one that answers, whose activations a run needs."""
    return [
        model
        for model in range(len(sides))
        if model != run.model and (run.needs_change or model == run.start)
    ]


def _options(side: _Side) -> dict[str, Any]:
    """Of a pass whose last logits are wanted."""
    last = torch.zeros_like(side.token_ids, dtype=torch.bool)
    last[:, -1] = True
    return {"use_cache": True, "position_ids": side.positions, "at": last}
