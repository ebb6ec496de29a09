"""A local model that judges runs in a precision that the CPU does not emulate."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from analysis.judges.chat_models import _Local, open_model
from crosscoder.config.chat_model import LocalModel
from crosscoder.runtime import device
from tests.tiny_pairs import save_llama


@pytest.mark.parametrize("units", [True, False])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_the_precision_is_one_that_the_hardware_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: bool, stored: torch.dtype
) -> None:
    """That in which the model is stored, or float32 where the CPU has no units for bfloat16."""
    monkeypatch.setattr(device, "has_bfloat16_units", lambda _: units)
    folder = save_llama(tmp_path / "model")
    LlamaForCausalLM.from_pretrained(folder, dtype=stored).save_pretrained(folder)
    opened = open_model(LocalModel(model=str(folder)), "author")
    assert isinstance(opened, _Local)
    assert opened._model.dtype == (stored if units else torch.float32)
