"""The device of a setting."""

import pytest
import torch

from crosscoder.runtime.device import resolve_device


@pytest.mark.parametrize("setting", ["auto", "cuda"])
@pytest.mark.parametrize(("current", "device"), [(0, "cuda"), (3, "cuda:3")])
def test_a_rank_keeps_its_gpu_in_every_thread(
    monkeypatch: pytest.MonkeyPatch, setting: str, current: int, device: str
) -> None:
    """The current GPU is that of one thread: a new one begins with the first."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    assert resolve_device("training.device", setting) == torch.device(device)
