"""Which precision the matrix products of training use. Weights and optimizer stay float32 either way."""

import logging
from typing import Literal

import torch

logger = logging.getLogger(__name__)


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
        return any(bool(capabilities.get(unit)) for unit in ("amx_bf16", "avx512_bf16"))
    return False
