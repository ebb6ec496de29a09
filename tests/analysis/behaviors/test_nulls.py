"""No causal claims on null pairs, which differ as much as a real pair but in no feature."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom
from transformers import AutoTokenizer

from analysis.behaviors.attribution import measure_corners
from analysis.behaviors.carrying_latents import check, decompose_shift, rank
from analysis.behaviors.experiment import Experiment
from analysis.behaviors.logit_metrics import NextTokenLogOdds
from analysis.behaviors.shift import measure_shift
from analysis.latents.dictionary_view import view_of
from crosscoder.config import CrosscoderConfig, ReLU, TokenPolicy
from crosscoder.config.behavior import Behavior
from crosscoder.dictionary.crosscoder import Crosscoder
from crosscoder.language_models.pair import ModelPair
from tests.planted_network import NO, VOCABULARY, WIDTH, YES, planted_pair
from tests.tiny_pairs import save_llama

PAIRS = 60
N_PROMPTS = 60
"""Half of them show what a tenth of all prompts do: fewer establish nothing."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(save_llama(tmp_path_factory.mktemp("model") / "llama"))


def drifting_pair(tokenizer: Any, seed: int, size: float) -> ModelPair:
    """Add independent noise to every token's embedding; nothing else changes."""
    pair = planted_pair(tokenizer, 0.0, 0.0, 0.0, 0.0, curvature=0.5)
    generator = torch.Generator().manual_seed(seed)
    reference, intervened = (network.get_input_embeddings() for network in pair.models)  # pyright: ignore[reportCallIssue]
    base = torch.randn(VOCABULARY, WIDTH, generator=generator)
    reference.weight.copy_(base)
    intervened.weight.copy_(base + size * torch.randn(VOCABULARY, WIDTH, generator=generator))
    return pair


def experiment(pair: ModelPair, tmp_path: Path, seed: int) -> Experiment:
    """Build an experiment on random prompts with a random dictionary."""
    dictionary = Crosscoder(
        CrosscoderConfig(
            d_models=(WIDTH, WIDTH),
            model_names=("reference", "intervened"),
            n_latents=48,
            sparsity=ReLU(target_l0=8),
        ),
        seed=seed,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        dictionary.W_dec.add_(0.5 * torch.randn(dictionary.W_dec.shape, generator=generator))
    behavior = Behavior.model_validate(
        {
            "name": "drift", "prompts": ["a", "b", "c", "d"], "metric": {"kind": "log_odds", "tokens": ["a"]}, "seed": seed,
            "checks": {"latents": 3, "draws": 39},
        }
    )  # fmt: skip
    made = Experiment(
        behavior, pair, view_of(dictionary, pair.d_models, "paired"), TokenPolicy(), tmp_path / "replies"
    )
    numbers = np.random.default_rng(seed)
    made.prompts = [
        type(made.prompts[0])(str(i), numbers.integers(7, VOCABULARY, size=6)) for i in range(N_PROMPTS)
    ]
    made.metric = NextTokenLogOdds(torch.tensor([YES]), torch.tensor([NO]))
    made.held_out = np.arange(len(made.prompts)) % 2 == 0
    return made


def test_a_drift_in_no_feature_gives_no_causal_claims(tokenizer: Any, tmp_path: Path) -> None:
    """Shifts are established, and causal claims made, no more often than chance allows."""
    established = causal = 0
    for seed in range(PAIRS):
        made = experiment(drifting_pair(tokenizer, seed, size=0.3), tmp_path, seed)
        corners = measure_corners(made.behavior_measurement)
        shift = measure_shift(corners.reference, corners.intervened, None, made.behavior.shift, seed)
        if not shift.established:
            continue
        established += 1
        found, claim = decompose_shift(made, made.find), decompose_shift(made, made.claim)
        causal += check(made, rank(made, found), found, claim).along.level == "causal"
    assert established <= binom.ppf(0.999, PAIRS, 0.05)
    assert causal <= binom.ppf(0.999, PAIRS, 0.05)


def test_a_shift_along_one_direction_is_established(tokenizer: Any, tmp_path: Path) -> None:
    """Positive control: the same drift plus a constant along a direction that the metric reads."""
    pair = drifting_pair(tokenizer, 0, size=0.3)
    pair.models[1].get_input_embeddings().weight[:, 0] += 2.0  # pyright: ignore[reportCallIssue]
    made = experiment(pair, tmp_path, 0)
    corners = measure_corners(made.behavior_measurement)
    assert measure_shift(corners.reference, corners.intervened, None, made.behavior.shift, 0).established
