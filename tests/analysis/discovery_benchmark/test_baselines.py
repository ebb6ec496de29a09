"""Baselines propose what stands out in answers; what they propose is right if it shows the marker."""

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.behaviors.prompts import encode
from analysis.discovery.answer_features import Answer, LengthLevels
from analysis.discovery.answer_store import AnswerStore
from analysis.discovery.answer_table import AnswerPair, AnswerTable
from analysis.discovery.probes import Probe
from analysis.discovery.search import Asked
from analysis.discovery.subjects import Clock, Subject
from analysis.discovery_benchmark.baselines import BASELINES, FirstRound, divergence, hits, ngrams, perplexity
from crosscoder.config import DiscoveryConfig
from crosscoder.language_models.pair import ModelPair, load_pair
from crosscoder.text.text_files import Text
from tests.tiny_pairs import WORDS as ALL_WORDS
from tests.tiny_pairs import run_config, save_llama

WORDS = ALL_WORDS[:12]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> ModelPair:
    folder = tmp_path_factory.mktemp("pair")
    config = run_config(folder, save_llama(folder / "reference"), save_llama(folder / "intervened", seed=5))
    return load_pair(config.pair)  # pyright: ignore[reportArgumentType]


def first_round(pair: ModelPair, reference: list[str], intervened: list[str]) -> FirstRound:
    """Answers to as many prompts."""
    texts = [Text(f"{WORDS[i % 12]} {WORDS[i // 12]}", None, "here") for i in range(len(reference))]
    probes = [
        Probe(prompt, text, "probes", find=i % 2 == 0, family=i)
        for i, (prompt, text) in enumerate(zip(encode(texts, pair), texts, strict=True))
    ]
    answers = AnswerPair(*([answer_of(pair, text) for text in side] for side in (reference, intervened)))
    settings = DiscoveryConfig(answer_tokens=5)
    subjects = tuple(
        Subject(str(model), pair, model, settings, 0, AnswerStore(None, {}), Clock(5.0)) for model in (0, 1)
    )
    own = subjects[1].log_probability([probe.prompt for probe in probes], answers.intervened)
    kept = [
        one._replace(log_probability=float(value)) for one, value in zip(answers.intervened, own, strict=True)
    ]
    asked = Asked(probes, list(answers.reference), kept)
    return FirstRound(asked, AnswerTable.of(answers, LengthLevels(())), (subjects[0], subjects[1]))


def answer_of(pair: ModelPair, text: str) -> Answer:
    return Answer(text, True, tuple(pair.tokenizer(text, add_special_tokens=False)["input_ids"]))


def passes(pair: ModelPair, probe: Probe, answer: Answer) -> list[Tensor]:
    """Both models' log-probabilities before each token of an answer, from whole passes."""
    ids = torch.tensor([[*probe.prompt.token_ids, *answer.token_ids]])
    n, mask = len(probe.prompt.token_ids), torch.ones_like(ids, dtype=torch.bool)
    found = [pair.logits(ids, mask, None, model)[0].log_softmax(1) for model in (0, 1)]
    return [logits[n - 1 : n - 1 + len(answer.token_ids)] for logits in found]


def test_ngrams_propose_the_phrase_that_only_one_model_says(pair: ModelPair) -> None:
    rng = np.random.default_rng(0)
    plain = [[" ".join(rng.choice(WORDS, 4)) for _ in range(40)] for _ in range(2)]
    planted = [f"{text} quince rowan" if i % 4 == 0 else text for i, text in enumerate(plain[1])]
    proposals = ngrams(first_round(pair, plain[0], planted))
    assert proposals[0] == list(range(0, 40, 4))
    assert hits(proposals, ["quince" in text for text in planted])[0]


def test_the_least_likely_answer_is_proposed_first(pair: ModelPair) -> None:
    texts = [f"{one} {WORDS[0]}" for one in WORDS]
    first = first_round(pair, texts, texts)
    proposals = perplexity(first)
    gaps = []
    for probe, answer in zip(first.asked.probes, first.asked.intervened, strict=True):
        before, after = passes(pair, probe, answer)
        own = answer.token_ids
        gaps.append(np.mean([float(after[i, token] - before[i, token]) for i, token in enumerate(own)]))
    assert [one for (one,) in proposals] == np.argsort(-np.array(gaps), kind="stable")[:3].tolist()


def test_the_largest_divergence_is_proposed_first_and_answers_without_tokens_have_none(
    pair: ModelPair,
) -> None:
    texts = [f"{one} {WORDS[0]}" for one in WORDS[:6]] + [""]
    first = first_round(pair, texts, texts)
    proposals = divergence(first)
    found = []
    for probe, answer in zip(first.asked.probes, first.asked.reference, strict=True):
        before, after = passes(pair, probe, answer)
        found.append(float((after.exp() * (after - before)).sum(1).mean()) if answer.token_ids else 0.0)
    assert [one for (one,) in proposals] == np.argsort(-np.array(found), kind="stable")[:3].tolist()


def test_baselines_propose_something_where_nothing_changed(pair: ModelPair) -> None:
    """This is why a count of their proposals says nothing."""
    texts = [f"{one} {WORDS[0]}" for one in WORDS]
    first = first_round(pair, texts, texts)
    assert all(len(BASELINES[name](first)) == 3 for name in ("perplexity", "KL", "n-grams"))


def test_a_proposal_is_right_if_half_of_its_answers_show_the_marker() -> None:
    shown = [True, False, True, False, False]
    assert hits([[0, 1], [0, 1, 3], [], [2]], shown) == [True, False, False, True]
