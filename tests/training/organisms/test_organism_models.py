"""Organisms are trained and measured in the precision in which this machine is fast."""

import pytest
import torch

from crosscoder.runtime import device
from training.organisms.organism_models import forward_dtype


@pytest.mark.parametrize(("units", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_precision_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, units: bool, dtype: torch.dtype
) -> None:
    """bfloat16 where the CPU has units for it; where it has none, emulated products take many times as long as float32."""
    monkeypatch.setattr(device, "has_bfloat16_units", lambda device: units)
    assert forward_dtype() == dtype
