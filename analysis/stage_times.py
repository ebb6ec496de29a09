"""How long the stages that read the models and the dictionary will take, from a few real steps of a run's own settings: `discover`,
`analyze` and `attribute`. For `doctor`, which measures the training.
"""

import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crosscoder.activations.batch import ActivationBatch
from crosscoder.config import RunConfig
from crosscoder.config.behavior import Behavior, Sampling
from crosscoder.config.open_settings import chosen
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.language_models.pair import ModelPair
from crosscoder.run.controls import controls_of
from crosscoder.runtime.timing import StageTime, seconds_each

from .behaviors.generation import ROWS, Generator, why_no_answers
from .behaviors.named_latents import BRIEF_DRAWS
from .behaviors.patching import INTERVENED, REFERENCE, unchanged
from .behaviors.prompts import Prompt, Row, batches, read_prompts
from .discovery.answer_store import AnswerStore
from .discovery.probes import choose_probes, n_wordings
from .discovery.search import Asked, PromptReader, search_answers
from .discovery.similar_questions import MOST_OF_ONE
from .discovery.subjects import Clock, Subject
from .explanations.auroc import auroc
from .latents.dictionary_view import view_of
from .latents.held_out_pass import PassAccumulator
from .latents.token_context import RowContext

_AUROCS = 2
"""Scoring of a rule of a latent, learning and both intervals included, in units of one interval of its area."""

_LEAST_PROBES = 8
"""Prompts, below which the search is too short to be worth an estimate."""


def stage_times(
    config: RunConfig,
    pair: ModelPair | None,
    crosscoder: Crosscoder,
    d_models: tuple[int, ...],
    values: Float[Tensor, "token width"],
    n_held_out: int,
    behaviors: Sequence[Behavior],
) -> list[StageTime]:
    """Return how long `discover`, `analyze` and `attribute` will take.

    Args:
        config: With every setting chosen.
        pair: The models; None if activations come from files.
        crosscoder: A dictionary of the shape of the run's, calibrated.
        values: Measured activations.
        behaviors: Those that the run names.

    Raises:
        ConfigError, DataError, FormatError: The prompts of a behavior cannot be used.
    """
    found = [] if pair is None else _discover_time(config, pair)
    found.append(_analyze_time(config, crosscoder, d_models, values, n_held_out))
    if pair is not None:
        found += [_attribute_time(config, pair, behavior) for behavior in behaviors]
    return found


def _discover_time(config: RunConfig, pair: ModelPair) -> list[StageTime]:
    """Both models, and the models of each null, answer every prompt; what their answers differ in is searched before and after the
    prompts in other words and the questions like them."""
    settings = config.discovery
    if not settings.prompts or why_no_answers(pair) is not None:
        return []
    probes = choose_probes(config, pair)
    chats = pair.chat_template is not None
    n_prompts = len(probes) + settings.variants * (n_wordings(chats) + (MOST_OF_ONE if chats else 0))
    chosen_probes = probes[:: max(1, len(probes) // ROWS)][:ROWS]
    if len(chosen_probes) < _LEAST_PROBES:
        return []
    asked, clock = Asked(), Clock(settings.minutes)
    with tempfile.TemporaryDirectory() as folder:
        store = AnswerStore(Path(folder) / "answers.parquet", {})
        models = (
            Subject("reference", pair, REFERENCE, settings, config.seed, store, clock),
            Subject("intervened", pair, INTERVENED, settings, config.seed, store, clock),
        )
        begin = time.perf_counter()
        asked.ask(chosen_probes, models)
        answering = (time.perf_counter() - begin) / 2
        begin = time.perf_counter()
        search_answers(asked, PromptReader(pair, config.tokens), settings, config.seed)
        searching = time.perf_counter() - begin
    parts, searches = n_prompts / len(chosen_probes), 2 * (1 + len(settings.searched_nulls))
    n_batches = math.ceil(parts * (2 + len(settings.searched_nulls)))
    seconds, limit = n_batches * answering + parts * searches * searching, 60 * settings.minutes
    how = (
        f"{n_batches} batches of {len(chosen_probes)} answers of {answering:.2g} s, and {searches} searches among {n_prompts} prompts, "
        f"{searching:.2g} s for {len(chosen_probes)}; {settings.minutes:g} min at most (discovery.minutes)"
    )
    return [StageTime("discover", min(limit, seconds), how, at_most=seconds > limit)]


def _analyze_time(
    config: RunConfig,
    crosscoder: Crosscoder,
    d_models: tuple[int, ...],
    values: Float[Tensor, "token width"],
    n_held_out: int,
) -> StageTime:
    """One pass over the held-out tokens with the dictionary and with that of each control, and the rules of latents."""
    view = view_of(crosscoder, d_models, config.crosscoder.reads)
    row = torch.arange(len(values))
    batch = ActivationBatch(values, row // 32, row % 32)
    accumulator = PassAccumulator(view, RowContext((row // 32).numpy()), config.analysis, config.seed)
    seconds = seconds_each(lambda: accumulator.update(batch), view.device, most=4, limit=1.0)
    n_passes = 1 + len(controls_of(config, config.output))
    passes = n_passes * seconds * n_held_out / len(values)
    n_rules = min(config.analysis.firing_rule.latents, view.n_latents)
    rules = n_rules * _AUROCS * _auroc_seconds(config, min(n_held_out, config.analysis.firing_rule.tokens))
    how = f"{n_passes} passes over {n_held_out:,} held-out tokens, {passes:.1f} s; {n_rules} rules, {rules:.1f} s"
    return StageTime("analyze", passes + rules, how)


def _attribute_time(config: RunConfig, pair: ModelPair, behavior: Behavior) -> StageTime:
    """Passes over the held-out prompts with patched activations, and generated answers where the metric reads them."""
    prompts, checks = read_prompts(behavior, pair), behavior.checks
    claim = prompts[: max(1, round(behavior.held_out * len(prompts)))]
    replicas = config.controls.seeds if checks.replicas else 0
    n_passes = (
        2 * (len(checks.counts) + checks.draws + replicas * BRIEF_DRAWS)
        + checks.latents * 2
        + len(checks.doses)
        + behavior.attribution.max_steps
    )
    each = _pass_seconds(pair, claim, config)
    seconds, parts = n_passes * each, [f"{n_passes} passes of {each:.2g} s over {len(claim)} prompts"]
    if (sampling := getattr(behavior.metric, "sampling", None)) is not None:
        n_runs = 4 + 2 * (checks.answer_draws + len(checks.answer_counts) + len(checks.doses))
        n_batches = n_runs * math.ceil(len(claim) * sampling.samples / ROWS)
        generation = _generation_seconds(pair, claim, config, sampling)
        seconds += n_batches * generation
        parts.append(f"{n_batches} batches of answers of {generation:.2g} s")
    return StageTime(f"attribute {behavior.name}", seconds, "; ".join(parts), at_most=True)


def _generation_seconds(
    pair: ModelPair, prompts: Sequence[Prompt], config: RunConfig, sampling: Sampling
) -> float:
    """Seconds of generating one batch of answers."""
    step = max(1, len(prompts) // ROWS)
    chosen = [prompt.read_by(REFERENCE) for prompt in prompts[::step][:ROWS]]
    generator = Generator(pair, None, chosen, config.tokens, sampling.model_copy(update={"samples": 1}), 0)
    begin = time.perf_counter()
    generator.sampled(unchanged(REFERENCE))
    return time.perf_counter() - begin


@torch.no_grad()
def _pass_seconds(pair: ModelPair, prompts: Sequence[Prompt], config: RunConfig) -> float:
    """Seconds of one pass of a model over the prompts."""
    rows = [Row(index, prompt.token_ids, len(prompt.token_ids)) for index, prompt in enumerate(prompts)]
    batch, *others = batches(rows, pair.tokenizer, config.tokens, pair.max_positions)
    seconds = seconds_each(
        lambda: pair.logits(batch.token_ids, batch.attention, None, REFERENCE), pair.device, most=5, limit=1.0
    )
    return seconds * (1 + len(others))


def _auroc_seconds(config: RunConfig, n_tokens: int) -> float:
    """Seconds of one area with its interval, for a latent that fires as often as the average one."""
    rng = np.random.default_rng(0)
    settings, n_claim = config.analysis, max(2, n_tokens // 2)
    sparsity, n_latents = (
        config.crosscoder.sparsity,
        chosen(config.crosscoder.n_latents, "crosscoder.n_latents"),
    )
    firing = getattr(sparsity, "k", None) or getattr(sparsity, "target_l0", 1)
    fired, value = rng.random(n_claim) < firing / n_latents, rng.random(n_claim).astype(np.float32)
    value[~fired] = 0
    block = np.arange(n_claim) * settings.bootstrap_blocks // n_claim
    weights = rng.random((settings.bootstrap_samples, settings.bootstrap_blocks + 1))
    return seconds_each(
        lambda: auroc(fired, value, block, weights, settings.rule.confidence),
        torch.device("cpu"),
        most=2,
        limit=1.0,
    )
