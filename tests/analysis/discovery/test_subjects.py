"""What a subject says of answers agrees with the models themselves, also after a context and with other tokenizers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.behaviors.prompts import encode
from analysis.discovery.answer_features import Answer
from analysis.discovery.answer_store import AnswerStore
from analysis.discovery.probes import choose_probes
from analysis.discovery.subjects import Clock, Subject
from crosscoder.config import DiscoveryConfig, RunConfig
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.text.text_files import Text
from tests.tiny_pairs import run_config, save_adapter, save_llama

SETTINGS = DiscoveryConfig(answer_tokens=5, prompts=24)
TEXTS = ["amber birch", "cedar dahlia elm fern", "iris"]


def config_of(kind: str, folder: Path) -> RunConfig:
    reference = save_llama(folder / "reference")
    if kind == "model":
        return run_config(folder, reference, save_llama(folder / "intervened", seed=5))
    if kind == "adapter":
        return run_config(folder, reference, {"adapter": str(save_adapter(reference, folder / "adapter"))})
    return run_config(folder, reference, {"context": "maple nettle oak"})


def subject(pair: ModelPair, model: int, bits: int | None = None, name: str = "one") -> Subject:
    return Subject(name, pair, model, SETTINGS, 0, AnswerStore(None, {}), Clock(5.0), bits)


@pytest.mark.parametrize("model", [0, 1])
@pytest.mark.parametrize("kind", ["model", "adapter", "context"])
def test_log_probabilities_are_those_of_whole_passes(kind: str, model: int, tmp_path: Path) -> None:
    pair = load_pair(config_of(kind, tmp_path).pair)  # pyright: ignore[reportArgumentType]
    prompts = encode([Text(text, None, "here") for text in TEXTS], pair)
    answers = [Answer("", True, (7, 9, 30)), Answer("", True, ()), Answer("", True, (12,))]
    found = subject(pair, model).log_probability(prompts, answers)
    assert found[1] == 0
    for place in (0, 2):
        n, own = len(prompts[place].token_ids), answers[place].token_ids
        ids = torch.tensor([[*prompts[place].token_ids.tolist(), *own]])
        logits = pair.logits(ids, torch.ones_like(ids, dtype=torch.bool), None, model)[0].log_softmax(dim=1)
        expected = np.mean([float(logits[n - 1 + i, token]) for i, token in enumerate(own)])
        assert found[place] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["model", "adapter", "context"])
def test_answers_have_their_limit_and_a_rounded_model_is_restored(kind: str, tmp_path: Path) -> None:
    config = config_of(kind, tmp_path)
    pair = load_pair(config.pair)  # pyright: ignore[reportArgumentType]
    prompts = [probe.prompt for probe in choose_probes(config, pair)][:6]
    before = {name: value.clone() for name, value in pair.models[0].state_dict().items()}
    answers = subject(pair, 0, bits=3).answers(prompts)
    for name, value in pair.models[0].state_dict().items():
        assert torch.equal(value, before[name])
    assert all(
        len(answer.token_ids) <= 5 and answer.finished == (len(answer.token_ids) < 5) for answer in answers
    )
    plain = subject(pair, 0).answers(prompts)
    # What was kept while sampling is what a whole pass over prompt and answer gives, temperature apart.
    own = [answer.log_probability for answer in plain]
    assert own == pytest.approx(subject(pair, 0).log_probability(prompts, plain).tolist(), abs=1e-4)
    assert min(own) < -0.1
    assert [one.token_ids for one in answers] != [one.token_ids for one in plain]
    assert [one.token_ids for one in plain] == [one.token_ids for one in subject(pair, 0).answers(prompts)]


def test_subjects_of_other_names_draw_independently(tmp_path: Path) -> None:
    config = config_of("model", tmp_path)
    pair = load_pair(config.pair)  # pyright: ignore[reportArgumentType]
    prompts = [probe.prompt for probe in choose_probes(config, pair)][:6]
    one, other = (subject(pair, 0, name=name).answers(prompts) for name in ("one", "other"))
    assert [answer.token_ids for answer in one] != [answer.token_ids for answer in other]
