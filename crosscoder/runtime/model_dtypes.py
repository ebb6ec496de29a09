"""Chooses the precision of the forward passes where the settings leave it open."""

from ..config.pair import PairConfig
from .device import fastest_dtype, resolve_device


def settle_dtypes(config: PairConfig) -> PairConfig:
    """Return the settings with a dtype for every model: where none is given, the fastest one on the device of the pair.

    Emulated bfloat16 products are some fifty times slower than float32 ones, so that no dtype is right for every machine. A run records the
    choice in its config.yaml and keeps it on other machines.

    Raises:
        ConfigError: The device is not available.
    """
    if all(source.dtype is not None for source in config.checkpoints):
        return config
    dtype = fastest_dtype(resolve_device("pair.device", config.device))
    return config.with_dtypes(tuple(dtype for _ in config.sources))
