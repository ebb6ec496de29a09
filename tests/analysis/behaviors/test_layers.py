"""The share of a shift at each layer, on a network with planted mediation."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from analysis.behaviors.layers import patch_layers
from analysis.behaviors.logit_metrics import NextTokenLogOdds
from analysis.behaviors.prompts import Prompt
from crosscoder.config import TokenPolicy
from tests.planted_network import NO, YES, planted_pair
from tests.tiny_pairs import save_llama


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(save_llama(tmp_path_factory.mktemp("model") / "llama"))


def patched(tokenizer: Any, n_prompts: int) -> list[dict[str, Any]]:
    """Three quarters of the shift are present after the first of two layers, all of it after the second."""
    generator = np.random.default_rng(0)
    prompts = [Prompt(str(i), generator.integers(7, 30, size=5)) for i in range(n_prompts)]
    metric = NextTokenLogOdds(torch.tensor([YES]), torch.tensor([NO]))
    found = patch_layers(planted_pair(tokenizer), metric, prompts, TokenPolicy(), 0.95, 0)
    assert found is not None
    return found


@pytest.mark.parametrize("n_prompts", [12, 25, 49])
def test_each_layer_carries_its_planted_share_with_an_interval(tokenizer: Any, n_prompts: int) -> None:
    """Every nth of many prompts is taken, and enough of them are left for an interval."""
    first, second = patched(tokenizer, n_prompts)
    assert first["hookpoint"] and not second["hookpoint"]
    for entry, represented in ((first, 0.75), (second, 1.0)):
        for name, share in (("represented", represented), ("above", 1 - represented)):
            # Every prompt shifts by the same multiple, so the interval has no width.
            assert entry[name] == pytest.approx({"value": share, "low": share, "high": share}, abs=1e-5)


def test_too_few_prompts_have_shares_without_intervals(tokenizer: Any) -> None:
    first, _ = patched(tokenizer, 11)
    assert first["represented"] == {"value": pytest.approx(0.75, abs=1e-5), "low": None, "high": None}
