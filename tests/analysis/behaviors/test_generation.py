"""Patched generation: an unchanged run matches transformers, and patching the whole change gives the other model's answers."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.behaviors import generation
from analysis.behaviors.answers import AnswerMeasurement
from analysis.behaviors.change_decomposition import Part
from analysis.behaviors.generation import Generator
from analysis.behaviors.patching import PatchedRun, unchanged
from analysis.behaviors.prompts import Prompt
from analysis.behaviors.scorers import Settled, build_scorer, settled_by
from analysis.latents.dictionary_view import view_of
from crosscoder.config import CrosscoderConfig, PairConfig, ReLU, TokenPolicy
from crosscoder.config.behavior import Pattern, Sampling
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.errors import DataError
from crosscoder.language_models.pair import ModelPair, load_pair
from tests.tiny_pairs import save_adapter, save_gpt2, save_llama

EVERYTHING = Part(torch.ones(32, dtype=torch.bool), bias=True, error=True, left_out=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_llama(folder / "llama", seed=0)
    save_adapter(folder / "llama", folder / "adapter")
    save_gpt2(folder / "gpt2", seed=0)
    save_gpt2(folder / "tuned", seed=1)
    return folder


@pytest.fixture(scope="module", params=["adapter", "context", "gpt2"])
def pair(request: pytest.FixtureRequest, folder: Path) -> ModelPair:
    name = request.param
    reference = folder / ("gpt2" if name == "gpt2" else "llama")
    intervened = {
        "adapter": {"adapter": str(folder / "adapter")},
        "context": {"context": "amber birch cedar"},
        "gpt2": {"model": str(folder / "tuned"), "dtype": "float32"},
    }[name]
    settings = {
        "reference": {"model": str(reference), "dtype": "float32"},
        "intervened": intervened,
        "hookpoint": "transformer.h.1" if name == "gpt2" else "model.layers.1",
        "device": "cpu",
    }
    return load_pair(PairConfig.model_validate(settings))


def prompts() -> list[Prompt]:
    generator = np.random.default_rng(0)
    return [Prompt(str(i), generator.integers(7, 250, size=3 + 4 * i)) for i in range(4)]


def dictionary() -> Crosscoder:
    return Crosscoder(
        CrosscoderConfig(
            d_models=(16, 16),
            model_names=("reference", "intervened"),
            n_latents=32,
            sparsity=ReLU(target_l0=4),
        )
    )


def generator(pair: ModelPair, **sampling: Any) -> Generator:
    view = view_of(dictionary(), pair.d_models, "paired")
    settings = Sampling.model_validate({"max_new_tokens": 8} | sampling)
    return Generator(pair, view, prompts(), TokenPolicy(), settings, seed=0)


@pytest.mark.parametrize("model", [0, 1])
def test_unchanged_answers_match_transformers(pair: ModelPair, model: int) -> None:
    found = generator(pair).answers(unchanged(model))
    context = pair.context.token_ids if pair.context is not None and model == 1 else torch.zeros(0).long()
    for prompt, (answer,) in zip(prompts(), found, strict=True):
        ids = torch.cat([context, torch.from_numpy(prompt.token_ids)])[None]
        with pair.switched(model) as network, torch.no_grad():
            whole = network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=8,
                do_sample=False,
                pad_token_id=1,
            )
        wanted = pair.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer == str(wanted).strip()


@pytest.mark.parametrize("model", [0, 1])
def test_inserting_the_whole_change_equals_starting_from_the_other_model(pair: ModelPair, model: int) -> None:
    found = generator(pair)
    assert found.answers(PatchedRun(model, 0, EVERYTHING)) == found.answers(PatchedRun(model, 1))
    assert found.answers(PatchedRun(model, 1, EVERYTHING, -1)) == found.answers(PatchedRun(model, 0))
    assert found.answers(PatchedRun(model, 1, EVERYTHING.scaled(0.0))) == found.answers(PatchedRun(model, 1))


def test_a_change_changes_the_answer(pair: ModelPair) -> None:
    """Positive control: a large constant changes the answers."""
    found = generator(pair)
    constant = 50 * torch.randn(16, generator=torch.Generator().manual_seed(0))
    assert found.answers(PatchedRun(1, 1, constant=constant)) != found.answers(unchanged(1))


RUNS = [
    unchanged(0),
    unchanged(1),
    PatchedRun(1, 1, EVERYTHING, -1),
    PatchedRun(1, 0),
    PatchedRun(0, 1, EVERYTHING.scaled(0.5)),
]


@pytest.mark.parametrize("room", [2**30, 0])
def test_the_prompt_cache_changes_no_answer(
    pair: ModelPair, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs with a shared cache equal runs with separate caches, and runs through every layer at every token."""
    alone = [generator(pair).answers(run) for run in RUNS]
    assert alone[0] != alone[1]
    monkeypatch.setattr(generation, "_PROMPT_CACHE_BYTES", room)
    together = generator(pair)
    assert [together.answers(run) for run in RUNS] == alone
    assert bool(together._prompt_passes) == bool(room)
    for model in range(2):
        monkeypatch.setattr(pair.forward_from_hookpoint(model), "_skipped", [])
    assert [generator(pair).answers(run) for run in RUNS] == alone


def test_prompts_are_read_once_for_all_runs(pair: ModelPair) -> None:
    for model in range(2):
        assert pair.forward_from_hookpoint(model).n_skipped  # determined at the first call
    below = pair.hookpoints[0].replace("1", "0") + ".mlp"
    lengths: list[int] = []
    handles = [
        model.get_submodule(below).register_forward_hook(lambda *_: lengths.append(1))
        for model in set(pair.models)
    ]
    found = generator(pair, max_new_tokens=1)
    counts = []
    for run in (RUNS[2], RUNS[2], RUNS[4]):
        lengths.clear()
        found.answers(run)
        counts.append(len(lengths))
    for handle in handles:
        handle.remove()
    assert counts == [2, 0, 0], "one pass per model, in the first run"


def test_samples_are_determined_by_the_seed(pair: ModelPair) -> None:
    one = generator(pair, temperature=1.0, samples=3)
    found = one.answers(unchanged(1))
    assert [len(answers) for answers in found] == [3] * 4
    assert found == one.answers(unchanged(1))
    assert len({answer for answers in found for answer in answers}) > 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_other_answers_end_changes_no_answer(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    found = generator(pair, temperature=temperature, max_new_tokens=12)
    monkeypatch.setattr(found, "_stop_tokens", lambda _: [])
    for run in RUNS:
        whole = [row.token_ids for (row,) in found.sampled(run)]
        stop = [row[2 + 3 * place] for place, row in enumerate(whole[:3])]
        ends = [next((at for at, token in enumerate(row) if token in stop), 12) for row in whole]
        assert len(set(ends)) > 1
        with monkeypatch.context() as context:
            context.setattr(found, "_stop_tokens", lambda _, stop=stop: stop)
            ended = [row.token_ids for (row,) in found.sampled(run)]
        assert ended == [row[:end] for row, end in zip(whole, ends, strict=True)]


def test_answers_that_need_no_more_tokens_are_cut_and_others_stay(pair: ModelPair) -> None:
    found = generator(pair, max_new_tokens=12, temperature=1.0)
    lengths = []
    for run in RUNS:
        whole = [row.token_ids for (row,) in found.sampled(run)]
        cut = [row.token_ids for (row,) in found.sampled(run, lambda text: len(text) >= 3)]
        for before, after in zip(whole, cut, strict=True):
            texts = [found.text_of(before[:size], run.model) for size in range(1, len(before) + 1)]
            # Half a character is no reason to stop.
            enough = (size for size, text in enumerate(texts, 1) if len(text) >= 3 and "\ufffd" not in text)
            assert after == before[: next(enough, len(before))]
            lengths.append(len(after))
    assert min(lengths) < 12


def test_a_pattern_scores_cut_answers_as_whole_ones(pair: ModelPair) -> None:
    (text,) = generator(pair).answers(RUNS[2])[1]
    metric = Pattern(pattern="^" + re.escape(text[:3]))

    def measurement(settled: Settled | None) -> AnswerMeasurement:
        scorer, view = build_scorer(metric, Path()), view_of(dictionary(), pair.d_models, "paired")
        sampling = Sampling(max_new_tokens=8, samples=3, temperature=1.0)
        return AnswerMeasurement(
            pair, view, scorer, "share of answers", (0.0, 1.0), prompts(), TokenPolicy(), sampling, 0, settled
        )

    cut, whole = measurement(settled_by(metric)), measurement(None)
    for run in (*RUNS, unchanged(0), unchanged(1)):
        assert cut.values(run).tolist() == whole.values(run).tolist()
    assert cut.unchanged_answers == whole.unchanged_answers


def test_tokens_are_drawn_with_their_probability(pair: ModelPair) -> None:
    found = generator(pair, temperature=2.0)
    logits = torch.tensor([[0.0, -torch.inf, 2.0, 4.0, -torch.inf]])
    probabilities = (logits[0] / 2).softmax(0)
    draws = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    counts = torch.bincount(found._sample(logits.expand(1000, -1), draws), minlength=5)
    assert (counts / 1000 - probabilities).abs().max() <= 1e-3
    edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert found._sample(logits.expand(2, -1), edges).tolist() == [0, 3]


def test_an_answer_that_does_not_fit_is_refused(pair: ModelPair) -> None:
    with pytest.raises(DataError, match=r"lower metric\.sampling\.max_new_tokens"):
        generator(pair, max_new_tokens=500)
