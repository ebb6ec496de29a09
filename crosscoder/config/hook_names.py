"""Names of places in a model as TransformerLens gives them, e.g. blocks.14.hook_resid_post; a hookpoint may be one of them."""

import re
from typing import NamedTuple

from .pair import PairConfig

_NAME = re.compile(r"(?:blocks\.(\d+)\.)?((?:\w+\.)*hook_\w+)")


class HookName(NamedTuple):
    """A place inside a layer, or outside all layers."""

    layer: int | None
    place: str
    """e.g. hook_resid_post, attn.hook_z"""


def parse_hook_name(hookpoint: str) -> HookName | None:
    """Return what a name of TransformerLens says; None if a hookpoint is no such name."""
    matched = _NAME.fullmatch(hookpoint)
    if matched is None:
        return None
    layer, place = matched.groups()
    return HookName(None if layer is None else int(layer), place)


def hook_names(config: PairConfig) -> list[str]:
    """Return the hookpoints of the settings that are names of TransformerLens."""
    given = (config.hookpoint, config.intervened_hookpoint)
    return [path for path in given if path is not None and parse_hook_name(path) is not None]
