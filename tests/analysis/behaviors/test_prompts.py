"""Batches of prompts."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from analysis.behaviors.prompts import Row, form_batches
from crosscoder.config import TokenPolicy
from tests.tiny_pairs import save_tokenizer


@pytest.mark.parametrize(("longest", "width"), [(None, 80), (70, 70), (68, 68), (96, 80)])
def test_padding_stays_within_the_positions_of_the_models(
    tmp_path: Path, longest: int | None, width: int
) -> None:
    """Learned positions, as of GPT-2, end somewhere, also where that is no multiple of 16."""
    save_tokenizer(tmp_path)
    rows = [Row(index, np.arange(n), n) for index, n in enumerate((66, 68))]
    (batch,) = form_batches(rows, [[0, 1]], AutoTokenizer.from_pretrained(tmp_path), TokenPolicy(), longest)
    assert batch.token_ids.shape == (2, width)
