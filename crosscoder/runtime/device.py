"""Which device tensors live on, and which precision its matrix products run in."""

import logging
import platform
from pathlib import Path
from typing import Literal

import torch

from ..errors import ConfigError

logger = logging.getLogger(__name__)


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


def compute_dtype(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware has units for it, float32 elsewhere, or what was asked for.

    The choice follows from the hardware, not from a timing: an interrupted run must choose the same when it goes on.
    """
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16_units(device) else "float32"
        logger.info("training: %s matrix products on %s", precision, device)
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether bfloat16 products run on dedicated units of this device (emulated ones are slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        # Intel's vector units for bfloat16 alone, as where a virtual machine hides AMX, are slower than its float32 ones: 1.6 to
        # 1.9 times on a Xeon with torch 2.13, where AMD's are almost five times as fast.
        return bool(
            capabilities.get("amx_bf16") or (capabilities.get("avx512_bf16") and not _made_by_intel())
        )
    return False


def _made_by_intel() -> bool:
    described = Path("/proc/cpuinfo")
    text = described.read_text(encoding="utf-8") if described.is_file() else platform.processor()
    return "GenuineIntel" in text
