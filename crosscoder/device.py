"""Where tensors live."""

import torch

from .errors import ConfigError


def sparse_device(setting: str, device: str) -> torch.device:
    """The device to use where sparse products are needed, which exist on CPU and CUDA only. Raises as `resolve_device`."""
    found = resolve_device(setting, device)
    return found if found.type == "cuda" else torch.device("cpu")


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
