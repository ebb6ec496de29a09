"""Chooses the device of tensors and the precision of matrix products."""

import logging
import platform
from pathlib import Path
from typing import Literal

import torch

from ..errors import ConfigError

logger = logging.getLogger(__name__)


def sparse_device(setting: str, device: str) -> torch.device:
    """Resolve a device for sparse products, which torch supports on CPU and CUDA only. Raises as `resolve_device`."""
    resolved = resolve_device(setting, device)
    return resolved if resolved.type == "cuda" else torch.device("cpu")


def resolve_device(setting: str, device: str) -> torch.device:
    """Return the torch device for a setting; `auto` is a GPU if available. Of several GPUs it is the current one.

    Raises:
        ConfigError: The device is not available.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[device]:
        raise ConfigError(
            f"{setting}: {device!r} is not available here: torch finds no such device; give auto or cpu"
        )
    if device == "cuda" and (number := torch.cuda.current_device()):
        # By its number, because a new thread begins with the first GPU.
        return torch.device(device, number)
    return torch.device(device)


def take_gpu(local_rank: int) -> None:
    """Make the GPU of a process the current one, if there are GPUs: processes that a launcher started on one machine take them in turn."""
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())


def compute_dtype(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """Return the requested precision; `auto` is bfloat16 if the hardware has units for it, otherwise float32.

    The choice depends on the hardware, not on a timing, so that a resumed run makes the same choice.
    """
    if precision == "auto":
        precision = fastest_dtype(device)
        logger.info("training: matrix products run in %s on %s", precision, device)
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def fastest_dtype(device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the precision in which a language model runs fastest on a device: bfloat16 if it has units for it, otherwise float32."""
    return "bfloat16" if has_bfloat16_units(device) else "float32"


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether bfloat16 products run on dedicated units of this device (emulated ones are slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        # Without AMX (e.g. hidden by a virtual machine), Intel's bfloat16 vector units are slower than its float32 units: 1.6 to
        # 1.9 times on a Xeon with torch 2.13. AMD's are almost five times as fast as float32.
        return bool(
            capabilities.get("amx_bf16") or (capabilities.get("avx512_bf16") and not _made_by_intel())
        )
    return False


def _made_by_intel() -> bool:
    cpu_info = Path("/proc/cpuinfo")
    text = cpu_info.read_text(encoding="utf-8") if cpu_info.is_file() else platform.processor()
    return "GenuineIntel" in text
