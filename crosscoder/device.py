"""Where tensors live."""

import torch

from .errors import ConfigError


def resolve_device(setting: str, device: str) -> torch.device:
    """The device to use; `auto` is a GPU when there is one.

    Raises:
        ConfigError: The device is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if there[name]))
    if not there[device]:
        raise ConfigError(
            f"{setting}: {device!r} is asked for, but torch finds no such device; give auto or cpu"
        )
    return torch.device(device)
